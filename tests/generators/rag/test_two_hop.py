import re

import polars as pl
import pytest

from generators import RAGPairs, TwoHopQuestions
from prefactory.engines.base import Failure
from prefactory.errors import DataError
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.rag import test_rag
from tests.generators.sampling import model
from tests.generators.test_no_answer_is_published import BAD, engine
from tests.helpers import content, prompts

HERE = __name__
ROWS = [
    ("Who built the tower of Lund?", "Anna Berg", "The tower of Lund was built by Anna Berg."),
    ("When was Anna Berg born?", "1871", "Anna Berg was born in 1871."),
    ("Is the sea wet?", "yes", "It is wet."),
    ("Say yes to the cook of Ystad: what is his name?", "Olof", "The cook of Ystad is Olof."),
    ("Where did Olof and Anna Berg meet?", "Lund", "Olof and Anna Berg met in Lund."),
]


def table(rows=ROWS):
    asked = prompts(*[q for q, _, _ in rows])
    by = {q: (g, [d, "Boats are built of wood."], [0]) for q, g, d in rows}
    facts = [by[q] for q in content(asked, "prompt")]
    return asked.with_columns(
        gold=pl.Series([f[0] for f in facts]),
        documents=pl.Series([f[1] for f in facts], dtype=pl.List(pl.String)),
        gold_documents=pl.Series([f[2] for f in facts], dtype=pl.List(pl.Int64)),
    )


def composed(request):
    """Puts `the one who ...` in the place of the bridge."""
    text = request.conversation[-1]["content"]
    first = re.search(r"first question\n(.*)\n", text)[1]
    second = re.search(r"second question\n(.*)\n", text)[1]
    bridge = re.search(r"named in the second: (.*?)\. Write", text)[1]
    return second.replace(bridge, first.replace("Who", "the one who").rstrip("?"))


def lazy(request):
    return re.search(r"second question\n(.*)\n", request.conversation[-1]["content"])[1]


def telling(request):
    return "Was it in 1871 or Lund, Olof?"


def chatty(request):
    return "Here it is.\nWhy?"


def down(request):
    return Failure("http_500", "down")


def test_two_questions_become_one():
    rows, dropped = made(TwoHopQuestions(writer=model("w", f"{HERE}.composed")), table())
    asked = dict(zip(content(rows, "prompt"), rows.to_dicts(), strict=True))
    row = asked["When was the one who built the tower of Lund born?"]
    assert (row["bridge"], row["gold"]) == ("Anna Berg", ["1871"])
    assert row["documents"] == [ROWS[0][2], ROWS[1][2]]
    assert row["gold_documents"] == [0, 1]
    ids = dict(zip(content(table(), "prompt"), table()["prompt_id"], strict=True))
    assert row["source_prompt_id"] == ids[ROWS[1][0]]
    assert row["first_prompt_id"] == ids[ROWS[0][0]]
    lost = reasons(dropped, table())
    # "yes" is no bridge; the answer "Lund" stands in the first document of Anna Berg, not in Olof's
    assert {lost[ROWS[i][0]] for i in (0, 2, 3)} == {"no_first_question"}
    assert len(rows) + dropped.height == len(ROWS)
    assert set(rows["bridge"]) == {"Anna Berg", "Olof"}


@pytest.mark.parametrize(
    ("function", "reason"),
    [("lazy", "names_bridge"), ("telling", "names_answer"), ("chatty", "unparseable"),
     ("down", "http_500")],
)  # fmt: skip
def test_rows_without_a_question_are_accounted_for(function, reason):
    rows, dropped = made(TwoHopQuestions(writer=model("w", f"{HERE}.{function}")), table(ROWS[:2]))
    assert rows.height == 0
    assert set(dropped["reason"]) == {"no_first_question", reason}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_answer_is_no_question(kind):
    rows, dropped = made(TwoHopQuestions(writer=engine(kind)), table())
    assert (rows.height, dropped.height) == (0, len(ROWS))


def test_rag_pairs_verify_them():
    rows, _ = made(TwoHopQuestions(writer=model("w", f"{HERE}.composed")), table(ROWS[:2]))
    step = RAGPairs(models=[test_rag.GOOD, test_rag.BAD], situations=["multi_hop"],
                    verifier=model("v", f"{test_rag.__name__}.two_hops"))  # fmt: skip
    pairs, dropped = made(step, rows)
    assert dropped.height == 0
    assert pairs["verified"].to_list() == [True]
    assert "1871" in pairs["chosen"][0][0]["content"]


def test_shards_and_order_change_nothing(tmp_path):
    step = {"generators.TwoHopQuestions": {"writer": model("w", f"{HERE}.composed")}}
    assert len(cut_anyhow(step, table(), tmp_path)) == 1


def test_columns_are_checked():
    step = TwoHopQuestions(writer=model("w", f"{HERE}.composed"))
    with pytest.raises(DataError, match=r"missing: .*gold"):
        made(step, table().drop("gold"))
