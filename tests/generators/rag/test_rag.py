import json
import re

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from generators import RAGPairs
from generators.rag.citations import cited_claims, claim_f1
from generators.rag.rules import abstains, asserts, cited, has, made_false, other_number, signal
from pipelines.build import check_recipe
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape
from tests.generators.making import cut_anyhow, made
from tests.generators.sampling import model
from tests.helpers import prompts

HERE = __name__
FACTS = [
    "The tower of Lund was built by Anna Berg.",
    "Anna Berg was born in 1871.",
    "Boats are built of wood.",
    "Tea was drunk in Lund.",
]
GOOD, BAD = model("good", f"{HERE}.good"), model("bad", f"{HERE}.bad")
J1, J2 = model("j1", f"{HERE}.judge"), model("j2", f"{HERE}.other_judge")


def questions(n=1, **changes):
    table = prompts(*[f"When was the builder of the tower born, no {i}?" for i in range(n)])
    columns = {
        "gold": pl.Series(["1871"] * n),
        "documents": pl.Series([FACTS] * n, dtype=pl.List(pl.String)),
        "gold_documents": pl.Series([[0, 1]] * n, dtype=pl.List(pl.Int64)),
        **changes,
    }
    return table.with_columns(**columns)


def documents_of(text):
    return dict(re.findall(r"(?m)^\[(\d)\] (.+)$", text))


def good(request):
    """Reads: the year is behind `born in`, of two years the true one; cites what it used."""
    text = request.conversation[-1]["content"]
    found = {i: d for i, d in documents_of(text).items() if "born in 1871" in d}
    used = [i for i, d in documents_of(text).items() if "built by Anna" in d or i in found]
    if not found:
        return "The documents do not say when she was born."
    marks = "".join(f"[{i}]" for i in used)
    return f"She was born in 1871 {marks}, as the builder was Anna Berg."


def bad(request):
    """Makes up a year if there is none, and takes the false one if there are two."""
    text = request.conversation[-1]["content"]
    if "no 9" in text:
        return Failure("http_500", "down")
    years = re.findall(r"born in (\d+)", text)
    wrong = [y for y in years if y != "1871"]
    return f"She was born in {(wrong or ['1900'])[0]}, I am quite sure of that fact."


def judge(request):
    text = request.conversation[0]["content"]
    answer = re.search(r"--- \w{8} answer\n(.*?)\n---", text, re.S)[1]
    fine = "do not say" in answer if "Only an answer that says so" in text else "1871" in answer
    return json.dumps({"reason": "", "score": 5 if fine else 2})


def other_judge(request):
    """Disagrees on conflicts."""
    text = request.conversation[0]["content"]
    if "one document is wrong" in text:
        return json.dumps({"reason": "", "score": 3})
    return judge(request)


def test_the_four_situations_and_their_rule():
    rows, dropped = made(RAGPairs(models=[GOOD, BAD]), questions())
    assert dropped.height == 0
    told = {r["situation"]: r for r in rows.iter_rows(named=True)}
    assert set(told) == {"multi_hop", "citation", "abstention", "conflict"}
    for row in told.values():
        assert (row["chosen_model"], row["rejected_model"]) == ("good", "bad")
        assert row["label_source"] == "rule"
        shown = documents_of(row["prompt"][0]["content"])
        assert list(shown.values()) == row["references"]
        assert row["margin"] == row["chosen_score_signal"] - row["rejected_score_signal"] == 1
        assert row["failures"] is None
    assert {FACTS[0], FACTS[1]} <= set(told["multi_hop"]["references"])
    right = [told["multi_hop"]["references"][i - 1] for i in told["multi_hop"]["gold_numbers"]]
    assert sorted(right) == sorted(FACTS[:2])
    assert "in brackets" in told["citation"]["prompt"][0]["content"]
    # taking the documents away turns the right behaviour round
    assert set(told["abstention"]["references"]) == {FACTS[2], FACTS[3]}
    assert "do not say" in told["abstention"]["chosen"][0]["content"]
    conflict = told["conflict"]
    assert f"Anna Berg was born in {conflict['wrong_answer']}." in conflict["references"]
    assert conflict["wrong_answer"] in conflict["rejected"][0]["content"]


def test_only_what_all_judges_agree_on_is_kept():
    rows, dropped = made(RAGPairs(models=[GOOD, BAD], judge=[J1, J2]), questions())
    assert dropped.height == 0
    assert set(rows["situation"]) == {"multi_hop", "citation", "abstention"}
    assert set(rows["failures"]) == {"conflict judges_disagree"}
    for row in rows.iter_rows(named=True):
        assert row["chosen_judges"] == [5, 5]
        assert row["rejected_judges"] == [2, 2]
        assert row["margin"] == 3
    assert set(rows["label_source"]) == {"judge"}
    _, dropped = made(
        RAGPairs(models=[GOOD, BAD], judge=[J2], situations=["conflict"]), questions()
    )
    assert dropped["reason"].to_list() == ["small_margin"]


def contrary(request):
    text = request.conversation[0]["content"]
    answer = re.search(r"--- \w{8} answer\n(.*?)\n---", text, re.S)[1]
    return json.dumps({"reason": "", "score": 1 if "1871" in answer else 5})


def test_rules_and_judges_must_not_contradict():
    step = RAGPairs(models=[GOOD, BAD], judge=[model("j", f"{HERE}.contrary")],
                    situations=["conflict"])  # fmt: skip
    _, dropped = made(step, questions())
    assert dropped["reason"].to_list() == ["signals_contradict"]


def wordy(request):
    return (
        good(request)
        + " It took them "
        + " and ".join("abcdefghijklmnopqrstuvwxyz"[i : i + 5] for i in range(21)) * 2
    )


def test_rows_without_a_pair_are_accounted_for():
    one = questions(gold_documents=pl.Series([[1]], dtype=pl.List(pl.Int64)))
    step = RAGPairs(models=[GOOD, BAD], situations=["multi_hop"])
    assert made(step, one)[1]["reason"].to_list() == ["too_few_gold"]
    every = questions(gold_documents=pl.Series([[0, 1, 2, 3]], dtype=pl.List(pl.Int64)))
    step = RAGPairs(models=[GOOD, BAD], situations=["abstention"])
    assert made(step, every)[1]["reason"].to_list() == ["no_other_documents"]
    named = questions(gold=pl.Series(["Anna"]))
    step = RAGPairs(models=[GOOD, BAD], situations=["conflict"])
    assert made(step, named)[1]["reason"].to_list() == ["no_counterfactual"]
    step = RAGPairs(models=[model("w", f"{HERE}.wordy"), BAD], situations=["conflict"])
    assert made(step, questions())[1]["reason"].to_list() == ["length_ratio"]
    step = RAGPairs(models=[GOOD], n=2, situations=["conflict"])
    assert made(step, questions())[1]["reason"].to_list() == ["same_text"]
    rows, dropped = made(RAGPairs(models=[GOOD, BAD]), questions(10))
    assert rows["source_prompt_id"].n_unique() == 9
    assert dropped["reason"].to_list() == ["too_few_answers"]
    assert "http_500" in dropped["detail"][0]
    own = questions(wrong=pl.Series(["Kurt"]), gold=pl.Series([["Anna", "Anna Berg"]]))
    rows, _ = made(
        RAGPairs(models=[GOOD, model("k", f"{HERE}.kurt")], situations=["conflict"]), own
    )
    assert rows["wrong_answer"].to_list() == ["Kurt"]


def kurt(request):
    return "It was Kurt, who built the tower and was born long ago."


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    fields = {"models": [GOOD, BAD], "n": 2, "judge": [J1, J2]}
    assert len(cut_anyhow({"generators.RAGPairs": fields}, questions(6), tmp_path)) == 1


def test_columns_are_checked():
    step = RAGPairs(models=[GOOD, BAD])
    with pytest.raises(DataError, match=r"missing: .*gold"):
        made(step, questions().drop("gold"))
    with pytest.raises(DataError, match="names no document it has"):
        made(step, questions(gold_documents=pl.Series([[7]], dtype=pl.List(pl.Int64))))
    with pytest.raises(DataError, match="are null"):
        made(step, questions(gold=pl.Series([None], dtype=pl.String)))
    with pytest.raises(ValidationError, match="a pair needs two answers"):
        RAGPairs(models=[GOOD])
    step = RAGPairs(models=[GOOD, BAD], judge=[J1])
    assert [a.calls for a in step.asks(10, 10)] == [40, 40, 80]
    assert step.grows(10, 10) == (40, 40)
    assert step.needs(Shape.PROMPTS) == {"documents": pl.List(pl.String)}


def test_spans_and_citations():
    assert has("It was 1,871 then.", "1871")
    assert has("ANNA  Berg!", "Anna Berg")
    assert not has("18712", "1871")
    assert not has("anything", "")
    assert cited("so [1], [2, 3] and [x]") == {1, 2, 3}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("The documents do not say.", True),
        ("The passage doesn't mention a year.", True),
        ("It is not stated in them.", True),
        ("I can't tell from this.", True),
        ("There is not enough information.", True),
        ("None of the documents gives a year.", True),
        ("According to the documents it was not 1870 but 1871.", False),
        ("She was born in 1871.", False),
        ("Document [2] says she had no children.", False),
    ],
)
def test_abstentions(answer, found):
    assert abstains(answer) is found


def test_signals_have_their_known_values():
    documents = ["born in 1871", "built by Anna", "boats"]

    def found(situation, answer, wrong=None, right=(1, 2)):
        return signal(situation, answer, ["1871"], wrong, documents, set(right))

    assert found("multi_hop", "in 1871") == 1
    assert found("multi_hop", "in 1872") == 0
    assert found("citation", "in 1871 [1][2]") == 1
    assert found("citation", "in 1871") == 0
    assert found("citation", "in 1871 [1][3]") == 0.5
    assert found("citation", "in 1872 [1][2]") == 0
    assert found("abstention", "I don't know.") == 1
    assert found("abstention", "I don't know, perhaps 1871.") == 0.5
    assert found("abstention", "1871") == 0  # known by heart, and still not to be said
    assert found("conflict", "1871", "1872") == 1
    assert found("conflict", "1871 or 1872", "1872") == 0.5
    assert found("conflict", "1872", "1872") == 0
    assert found("conflict", "I can't tell.", "1872") == 0.25


def test_false_documents():
    rng = np.random.default_rng(0)
    for _ in range(50):
        year = other_number("in 1871 or so", rng)
        assert re.fullmatch(r"in [1-9]\d{3} or so", year)
        assert "1871" not in year
    assert other_number("Anna", rng) is None
    assert other_number("7", rng) != "7"
    assert made_false("born in 1871, not 18712", "1871", "1900") == "born in 1900, not 18712"
    assert made_false("nothing", "1871", "1900") is None


def right_with_a_negation(request):
    return "The source does not mention a second builder; Anna Berg, the builder, was born in 1871."


def wrong_with_a_negation(request):
    return "Anna Berg, the builder of that tower, was not born in 1871 but later, in the year 1900."


def says_nothing(request):
    return "The answer is not in the documents, so it is unclear when she was born."


def invents(request):
    return "She was born in 1905, as the records of the town of Lund make quite clear."


def by_rule(situation, *functions, table=None):
    models = [model(f.__name__, f"{HERE}.{f.__name__}") for f in functions]
    rows, dropped = made(
        RAGPairs(models=models, situations=[situation]), questions() if table is None else table
    )
    return rows["chosen_model"].to_list(), dropped["reason"].to_list()


def test_the_clause_that_answers_is_labelled():
    pair = (right_with_a_negation, wrong_with_a_negation)
    assert by_rule("multi_hop", *pair) == (["right_with_a_negation"], [])
    assert by_rule("abstention", says_nothing, invents) == (["says_nothing"], [])


def lund(request):
    return "It was Lund, where the tower was built by her in those days."


def test_no_rule_label_without_a_second_signal_or_for_yes_and_no():
    # what it says stands in the documents too: by the missing year alone it is not rejected
    assert by_rule("multi_hop", right_with_a_negation, lund) == ([], ["one_signal"])
    yes = questions(gold=pl.Series(["no"]))
    assert by_rule("multi_hop", no_mention, lund, table=yes)[0] == []


def no_mention(request):
    return "There is no mention of that in the files, as far as I can see here."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("She was born in 1871.", True),
        ("The source does not mention another; she was born in 1871.", True),
        ("Not in 1870, but in 1871.", True),
        ("In 1,871 to be exact.", True),
        ("She was not born in 1871 but in 1900.", False),
        ("It wasn't 1871.", False),
        ("1871 is wrong.", False),
        ("Perhaps in 1871.", False),
        ("I can't say whether it was 1871.", False),
        ("It was the 1871st.", False),
        ("Sie wurde nicht 1871 geboren, sondern 1900.", False),
        ("Sie wurde nicht 1870 geboren, sondern 1871.", True),
    ],
)
def test_what_is_said(answer, said):
    assert asserts(answer, "1871") is said


@pytest.mark.parametrize(
    "answer",
    [
        "There is no mention of her birth.",
        "Not specified.",
        "There isn't enough information.",
        "I was unable to find it.",
        "It is not in the documents.",
        "Das steht nicht in den Dokumenten.",
        "Les documents ne mentionnent pas sa naissance.",
        "Los documentos no mencionan la fecha.",
        "I documenti non dicono quando.",
        "Os documentos não mencionam a data.",
        "Dat staat niet in de documenten.",
        "Brak informacji na ten temat.",
        "В документах это не указано.",  # noqa: RUF001
        "Belgelerde belirtilmemiş.",
        "لا تذكر الوثائق ذلك.",
        "文件中没有提到。",
        "資料には記載されていません。",
        "문서에 언급되지 않았습니다.",
        "दस्तावेज़ों में इसका उल्लेख नहीं है।",
        "Tài liệu không đề cập.",
        "Tidak disebutkan dalam dokumen.",
    ],
)
def test_abstentions_of_many_languages(answer):
    assert abstains(answer)


# -- citations by claim, two hops, a corpus -----

TOWERS = ["The tower of Lund was built by Anna Berg.", "Anna Berg was born in 1871.", "Boats."]


@pytest.mark.parametrize(
    ("answer", "verdicts", "f1"),
    [
        ("Anna Berg was born in 1871 [2]. She, that is Anna Berg, built Lund [1].",
         ["supported", "supported"], 1.0),
        ("Anna Berg was born in 1871. [2]", ["supported"], 1.0),
        ("Anna Berg was born in 1871 [1].", ["absent"], 0.0),
        ("Anna Berg was born in 1900 [2].", ["contradicted"], 0.0),
        ("Anna Berg was not born in 1871 [2].", ["contradicted"], 0.0),
        ("Anna Berg was born in 1871 [2, 3].", ["supported"], 2 / 3),
        ("Anna Berg was born in 1871.", ["uncited"], 0.0),
        ("Anna Berg was born in 1871 [9].", ["uncited"], 0.0),
        ("Anna Berg was born in 1871 [2]. Boats are nice.", ["supported", "uncited"], 2 / 3),
        ("The documents do not say where. Anna Berg was born in 1871 [2].", ["supported"], 1.0),
        ("The builder of the tower, Anna Berg, was born in 1871 [1][2].", ["supported"], 1.0),
    ],
)  # fmt: skip
def test_claims_and_their_citations(answer, verdicts, f1):
    found = cited_claims(answer, TOWERS)
    assert [c.verdict for c in found] == verdicts
    assert claim_f1(found) == pytest.approx(f1)


def test_citations_are_columns():
    rows, _ = made(RAGPairs(models=[GOOD, BAD], situations=["citation", "multi_hop"]), questions())
    told = {r["situation"]: r for r in rows.iter_rows(named=True)}
    (claim,) = told["citation"]["chosen_citations"]
    text = told["citation"]["chosen"][0]["content"]
    assert text[claim["start"] : claim["end"]] == text
    assert (claim["verdict"], claim["cited"]) == ("supported", told["citation"]["gold_numbers"])
    assert [c["verdict"] for c in told["citation"]["rejected_citations"]] == ["uncited"]
    assert told["multi_hop"]["chosen_citations"] is None


def one_hop(request):
    """Finds the year in one document, whatever else there is."""
    years = re.findall(r"born in (\d+)", request.conversation[-1]["content"])
    return f"In {years[0]}." if years else "The documents do not say."


def two_hops(request):
    """Says the year only if it reads who built the tower."""
    text = request.conversation[-1]["content"]
    return one_hop(request) if "built by Anna" in text else "The documents do not say."


def never(request):
    return "The documents do not say."


def broken(request):
    return Failure("http_500", "down")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("two_hops", None),
        ("one_hop", "single_hop"),
        ("never", "not_answerable"),
        ("broken", "http_500"),
    ],
)
def test_two_hops_are_verified(function, reason):
    step = RAGPairs(models=[GOOD, BAD], situations=["multi_hop"],
                    verifier=model("v", f"{HERE}.{function}"))  # fmt: skip
    rows, dropped = made(step, questions())
    assert dropped["reason"].to_list() == ([reason] if reason else [])
    assert rows["verified"].to_list() == ([] if reason else [True])
    assert [a.calls for a in step.asks(10, 10)] == [10, 10, 30]


def test_a_yes_or_no_is_not_verified_by_rule():
    step = RAGPairs(models=[GOOD, BAD], situations=["multi_hop"], judge=[J1],
                    verifier=model("v", f"{HERE}.two_hops"))  # fmt: skip
    _, dropped = made(step, questions(gold=pl.Series(["yes"])))
    assert dropped["reason"].to_list() == ["not_verifiable"]


def test_documents_beside_come_from_a_corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"
    passages = {
        "a": "The builder of the tower was not known by name then.",
        "b": "The builder of the tower was born in 1871, it is said.",  # not shown
        "c": "Herrings swim.",
        "d": "A tower of wood stood there when she was born.",
    }
    lines = [json.dumps({"id": k, "text": t}) + "\n" for k, t in passages.items()]
    file.write_text("".join(lines))
    step = RAGPairs(models=[GOOD, BAD], situations=["multi_hop", "abstention"], corpus=str(file),
                    retrievers={"encoders": []}, shown=4)  # fmt: skip
    rows, _ = made(step, questions())
    told = {r["situation"]: r for r in rows.iter_rows(named=True)}
    shown = dict(
        zip(told["multi_hop"]["references"], told["multi_hop"]["reference_ids"], strict=True)
    )
    assert shown == {FACTS[0]: None, FACTS[1]: None, passages["a"]: "a", passages["d"]: "d"}
    right = [told["multi_hop"]["references"][n - 1] for n in told["multi_hop"]["gold_numbers"]]
    assert sorted(right) == sorted(FACTS[:2])
    assert set(told["abstention"]["references"]) == {passages["a"], passages["d"], *FACTS[2:]}
    plain = RAGPairs(models=[GOOD, BAD])
    assert step.identity()["fields"]["corpus"] != plain.identity()["fields"]["corpus"]
    with pytest.raises(ConfigError, match="corpus: "):
        RAGPairs(models=[GOOD, BAD], corpus=str(tmp_path / "none.jsonl")).needs(Shape.PROMPTS)


def test_a_files_own_columns_are_reached_by_carry(tmp_path):
    """A column named `documents` is read into the prompt, unless it is carried."""
    row = questions(1).drop("prompt_id", "prompt", "source", "source_id").to_dicts()[0]
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"prompt": "When was she born?", **row}) + "\n")
    recipe = {
        "name": "rag",
        "source": {"path": str(path), "layout": "prompts"},
        "steps": [{"generators.RAGPairs": {"models": [GOOD, BAD]}}],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    with pytest.raises(ConfigError, match=r"`carry: \[documents\]`"):
        check_recipe(file, [])
    recipe["source"]["carry"] = ["gold", "documents", "gold_documents"]
    file.write_text(json.dumps(recipe))
    _, (source,), _ = check_recipe(file, [])
    table = next(source.read(source.files[0])).rows
    assert table["documents"].to_list() == [FACTS]
    assert table["prompt"][0][0]["content"] == "When was she born?"
    assert made(RAGPairs(models=[GOOD, BAD], situations=["multi_hop"]), table)[0].height == 1
