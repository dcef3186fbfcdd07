import polars as pl
import pytest
from pydantic import ValidationError

from generators import WeakPairs
from prefactory.apply import apply_generator
from prefactory.engines.base import Failure
from prefactory.tables import Shape, unpair
from tests.generators.sampling import asked_run, model
from tests.helpers import asking, content, digest, prompts, recipe

HERE = __name__


def strong(request):
    text = request.conversation[-1]["content"]
    return "same" if text == "easy" else f"strong {text} {request.draw_seed}"


def weak(request):
    text = request.conversation[-1]["content"]
    if text == "hard" or (text == "half" and request.sample == 0):
        return Failure("http_500", "no luck")
    return " same\n" if text == "easy" else f"weak {text} {request.draw_seed}"


def empty(request):
    return ""


BOTH = {"strong": model("big", f"{HERE}.strong"), "weak": model("small", f"{HERE}.weak")}


def made(table, **fields):
    step = WeakPairs(**{**BOTH, **fields})
    return apply_generator(step, "generators.WeakPairs", table, Shape.PROMPTS, asking())


def test_the_strong_models_answer_is_chosen():
    rows, dropped = made(prompts("a", "b"), n=3, weak_origin="self")
    assert dropped.height == 0
    assert rows.height == 6
    table = zip(
        content(rows, "prompt"), content(rows, "chosen"), content(rows, "rejected"), strict=True
    )
    for prompt, chosen, rejected in table:
        assert chosen.startswith(f"strong {prompt} ")
        assert rejected.startswith(f"weak {prompt} ")
    constant = [
        "chosen_model",
        "rejected_model",
        "chosen_origin",
        "rejected_origin",
        "label_source",
    ]
    assert set(rows.select(constant).rows()) == {("big", "small", "open_model", "self", "rule")}
    assert (
        rows.group_by("prompt_id").agg("sample")["sample"].list.sort().to_list() == [[0, 1, 2]] * 2
    )
    origins = unpair(rows).select("model", "origin").unique().sort("model").rows()
    assert origins == [("big", "open_model"), ("small", "self")]


def test_prompts_without_a_pair_are_accounted_for():
    table = prompts("hard", "easy", "half", "fine")
    rows, dropped = made(table, n=2)
    names = dict(zip(table["prompt_id"], content(table, "prompt"), strict=True))
    assert {names[i]: (r, d) for i, _, r, d in dropped.iter_rows()} == {
        "hard": ("http_500", "small: no luck"),
        "easy": ("same_text", "big and small"),
    }
    assert sorted((names[i], s) for i, s in rows.select("prompt_id", "sample").iter_rows()) == [
        ("fine", 0),
        ("fine", 1),
        ("half", 1),
    ]


def test_an_empty_side_is_no_pair():
    _, dropped = made(prompts("a"), weak=model("mute", f"{HERE}.empty"))
    assert dropped["reason"].to_list() == ["empty_answer"]


def test_columns_of_prompts_pass_through():
    table = prompts("a").with_columns(gold=pl.lit("42"), chosen_model=pl.lit("?"))
    rows, _ = made(table)
    assert rows.select("gold", "chosen_model").rows() == [("42", "big")]


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    table = prompts("hard", "easy", "half", *[f"q{i}" for i in range(20)])
    step = recipe({"generators.WeakPairs": {**BOTH, "n": 2}})
    digests = {
        digest(asked_run(step, t, tmp_path / str(i), size, 2))
        for i, (t, size) in enumerate([(table, 1000), (table, 1), (table[::-1], 5)])
    }
    assert len(digests) == 1


def test_one_model_is_no_gap():
    with pytest.raises(ValidationError, match="same model"):
        WeakPairs(strong=BOTH["weak"], weak=BOTH["weak"])
    asks = WeakPairs(**BOTH, n=2).asks(5, 5)
    assert [(a.engine.model, a.calls) for a in asks] == [("big", 10), ("small", 10)]
