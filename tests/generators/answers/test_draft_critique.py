import json
import re

import numpy as np
import polars as pl
import pytest

from catalog.publish import publish
from catalog.versions import Catalog
from generators import DraftCritique
from prefactory.apply import apply_generator
from prefactory.engines.base import Failure
from prefactory.errors import DataError
from prefactory.tables import Shape
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import asked_run, model
from tests.helpers import asking, content, digest, prompts, recipe

HERE = __name__
MODEL, CRITIC = model("m", f"{HERE}.writer"), model("c", f"{HERE}.critic")
FIELDS = {"model": MODEL, "critic": CRITIC}
DOCUMENTS = ["tea is hot", "the tower is 300 m high", "boats float", "towers sway"]


def block(text, name):
    return re.search(rf"--- (\w{{8}}) {name}\n(.*?)\n--- \1", text, re.S)[2]


def writer(request):
    text = request.conversation[-1]["content"]
    if not text.startswith("Write the final answer"):
        return Failure("http_500", "down") if text == "down" else f"A draft on {text}."
    if block(text, "request") == "stubborn":
        return block(text, "draft")
    found = re.findall(r"passage \d+\n(.+)", text)
    return f"Refined: {'; '.join(found) or 'from memory'}."


def critic(request):
    asked = block(request.conversation[0]["content"], "request")
    if asked == "fine":
        return json.dumps({"flaws": [], "queries": ["?"]})
    if asked == "muddle":
        return "It lacks polish."
    queries = ["How high is the tower?", "Does it sway?"] if "tower" in asked else []
    return json.dumps({"flaws": ["It names no height."], "queries": queries})


def judge(request):
    text = request.conversation[0]["content"]
    better = "A" if "Refined" in block(text, "answer A") else "B"
    return json.dumps({"reason": "", "better": "tie" if "dull" in text else better})


def embed(encoder, texts):
    """Counts of a few letters: texts about towers are near each other."""
    letters = "towrsyhbfl"
    return np.array([[t.lower().count(c) for c in letters] for t in texts], dtype=np.float32)


def table():
    texts = ["the tower", "tea", "fine", "muddle", "down", "stubborn"]
    documents = [DOCUMENTS, DOCUMENTS, [], [], [], []]
    return prompts(*texts).with_columns(docs=pl.Series(documents, dtype=pl.List(pl.String)))


def looked_up(step, rows):
    ctx = asking(0, "generators.DraftCritique", embed=embed)
    return apply_generator(step, "generators.DraftCritique", rows, Shape.PROMPTS, ctx)


def test_what_was_in_doubt_is_looked_up_before_refining():
    rows, dropped = looked_up(DraftCritique(**FIELDS, documents="docs", passages=2), table())
    told = {r["prompt"][0]["content"]: r for r in rows.iter_rows(named=True)}
    assert set(told) == {"the tower", "tea"}
    assert told["the tower"]["passages"] == ["the tower is 300 m high", "towers sway"]
    assert told["the tower"]["chosen"][0]["content"] == (
        "Refined: the tower is 300 m high; towers sway."
    )
    assert told["the tower"]["rejected"][0]["content"] == "A draft on the tower."
    assert told["the tower"]["queries"] == ["How high is the tower?", "Does it sway?"]
    assert told["tea"]["passages"] == []  # nothing was in doubt
    assert told["tea"]["flaws"] == ["It names no height."]
    assert reasons(dropped, table()) == {
        "fine": "nothing_to_mend",
        "muddle": "unparseable",
        "down": "http_500",
        "stubborn": "same_text",
    }


def test_a_judge_confirms():
    step = DraftCritique(**FIELDS, judge=model("j", f"{HERE}.judge"))
    rows, dropped = made(step, prompts("tea", "dull"))
    assert content(rows, "prompt") == ["tea"]
    assert set(rows["label_source"]) == {"judge"}
    assert dropped["reason"].to_list() == ["not_confirmed"]


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    rows = pl.concat([table(), prompts(*[f"tower {i}" for i in range(7)]).with_columns(
        docs=pl.Series([DOCUMENTS] * 7, dtype=pl.List(pl.String)))])  # fmt: skip
    fields = {**FIELDS, "documents": "docs", "passages": 1}
    step = recipe({"generators.DraftCritique": fields})
    digests = {
        digest(asked_run(step, t, tmp_path / str(i), size, 2, embed=embed))
        for i, (t, size) in enumerate([(rows, 1000), (rows, 1), (rows[::-1], 5)])
    }
    assert len(digests) == 1
    assert len(cut_anyhow({"generators.DraftCritique": FIELDS}, rows, tmp_path / "plain")) == 1


def test_documents_need_an_encoder():
    step, ctx = DraftCritique(**FIELDS, documents="docs"), asking(0, "generators.DraftCritique")
    with pytest.raises(DataError, match="no encoder"):
        apply_generator(step, ctx.step, table(), Shape.PROMPTS, ctx)
    step = DraftCritique(**FIELDS, judge=MODEL)
    assert [a.calls for a in step.asks(10, 10)] == [20, 10, 20]
    assert DraftCritique(**FIELDS, documents="d").needs(Shape.PROMPTS) == {"d": pl.List(pl.String)}


def first(request):
    """Goes by the place, but for one prompt."""
    if "prompt 3" in request.conversation[0]["content"]:
        return judge(request)
    return json.dumps({"reason": "", "better": "A"})


@pytest.mark.parametrize("shard_rows", [4, 1000])
def test_a_judge_that_goes_by_the_place_labels_nothing(tmp_path, shard_rows):
    prompted = prompts(*[f"prompt {i}" for i in range(24)])

    def steps(name):
        judged = {**FIELDS, "judge": model("j", f"{HERE}.{name}")}
        return {"generators.DraftCritique": judged}

    result = asked_run(recipe(steps("first")), prompted, tmp_path / "a", shard_rows)
    (watched,) = result.stages[-1].info["watch"]
    assert (watched["answers"], watched["prompts"]) == (48, 24)
    assert result.stages[-1].rows_out == 1
    with pytest.raises(DataError, match="the judge j goes by the place: 47 of 48 votes"):
        publish(result, Catalog(tmp_path / "home"))
    fair = asked_run(recipe(steps("judge")), prompted, tmp_path / "b", shard_rows)
    assert fair.stages[-1].info["watch"][0]["places"] == {"2": {"0": 24, "1": 24}}
    assert publish(fair, Catalog(tmp_path / "home")).new
