"""Sampling of answers: what is asked of whom, what becomes a row, what is accounted for."""

from collections import Counter

import polars as pl
import pytest
from pydantic import ValidationError

from generators import Responses
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.engines.base import Completion, Failure
from prefactory.errors import ConfigError, DataError
from prefactory.tables import Shape, with_prompt_id
from tests.generators.sampling import asked_run, said
from tests.helpers import (
    asking,
    content,
    digest,
    ledger_of,
    messages,
    prompts,
    recipe,
    responses,
    system,
    user,
    view,
)

HERE = __name__
SEEN = []


def model(name, function="say", **fields):
    return {"engine": "scripted", "model": name, "function": f"{HERE}.{function}", **fields}


def say(request):
    SEEN.append(request)
    heat, seed = request.sampling.temperature, request.draw_seed
    roles = "/".join(m["content"] for m in request.conversation)
    return f"{roles} | {heat} | {request.sample} | {seed}"


def echo(request):
    return f"answer to {request.conversation[-1]['content']}"


def moody(request):
    """Fails by the text of the prompt."""
    text = request.conversation[-1]["content"]
    if text == "down" or (text == "half" and request.sample == 1):
        return Failure("http_500", "no luck")
    if text == "mute":
        return "  \n"
    if text == "long":
        return Completion("cut sho", "length")
    return f" sample {request.sample} \n"


def made(step, table, shape=Shape.PROMPTS, seed=0):
    return apply_generator(step, "generators.Responses", table, shape, asking(seed))


def test_every_model_answers_n_times():
    step = Responses(models=[model("a"), model("b")], n=3)
    rows, dropped = made(step, prompts("x", "y"))
    assert dropped.height == 0
    assert rows.height == 12
    counts = rows.group_by("prompt_id", "model").len()
    assert counts["len"].to_list() == [3] * 4
    assert rows["parent_id"].equals(rows["prompt_id"], check_names=False)
    assert set(rows["origin"]) == {"open_model"}
    assert sorted(rows["sample"].unique()) == [0, 1, 2]
    for text, sample, prompt in said(rows).select("text", "sample", "prompt").iter_rows():
        roles, heat, index, _ = text.split(" | ")
        assert (roles, heat, int(index)) == (prompt[0]["content"], "1.0", sample)
    seeds = {t.split(" | ")[3] for t in content(rows, "response")}
    assert len(seeds) == 12  # models, prompts and samples draw apart
    assert set(step.adds(Shape.PROMPTS)) <= set(rows.columns)
    assert {c: rows.schema[c] for c in step.adds(Shape.PROMPTS)} == step.adds(Shape.PROMPTS)


def test_some_models_are_drawn_for_each_prompt_evenly():
    names = [f"m{i}" for i in range(17)]
    step = Responses(models=[model(n, "echo") for n in names], per_prompt=4)
    SEEN.clear()
    table = prompts(*[f"q{i}" for i in range(300)])
    step = Responses(models=[model(n) for n in names], per_prompt=4)
    rows, _ = made(step, table)
    counts = rows.group_by("prompt_id").agg(pl.col("model").n_unique(), pl.len())
    assert set(counts["model"]) == set(counts["len"]) == {4}
    per_model = Counter(rows["model"])
    expected = 300 * 4 / 17
    assert all(abs(n - expected) < 4 * expected**0.5 for n in per_model.values())
    sets = rows.group_by("prompt_id").agg(pl.col("model").sort())["model"].to_list()
    assert len({tuple(s) for s in sets}) > 200
    again, _ = made(step, table.sample(fraction=1, shuffle=True, seed=1))
    assert again.equals(rows)
    other, _ = made(step, table, seed=1)
    assert not other["model"].equals(rows["model"])


def test_a_draw_does_not_depend_on_the_place_of_a_model():
    table = prompts(*[f"q{i}" for i in range(20)])
    one = Responses(models=[model(n) for n in "abc"], per_prompt=2)
    two = Responses(models=[model(n) for n in "cab"], per_prompt=2)
    assert made(one, table)[0].equals(made(two, table)[0])


def test_a_range_of_temperatures_and_systems_are_drawn_per_sample():
    principles = ["Be honest.", "Be brief.", ""]
    step = Responses(
        models=[model("a")], n=4, sampling={"temperature": (0.2, 0.9)}, systems=principles
    )
    SEEN.clear()
    rows, _ = made(step, prompts(*[f"q{i}" for i in range(50)]))
    heats = rows["temperature"]
    assert 0.2 <= heats.min() < 0.25
    assert 0.85 < heats.max() <= 0.9
    assert heats.n_unique() > 100
    assert set(rows["system_used"]) == {"Be honest.", "Be brief.", None}
    shares = Counter(rows["system_used"]).values()
    assert min(shares) > 40
    for text, heat, used in said(rows).select("text", "temperature", "system_used").iter_rows():
        asked, sent, *_ = text.split(" | ")
        assert float(sent) == heat
        assert asked.startswith(f"{used}/q" if used else "q")
    assert set(rows["prompt_id"]) == set(prompts(*[f"q{i}" for i in range(50)])["prompt_id"])
    ids = [r.row_id for r in SEEN]
    assert len(set(ids)) == 200  # no two samples of unlike settings are one request


def test_a_drawn_system_comes_after_the_prompts_own():
    table = with_prompt_id(
        prompts("q").with_columns(prompt=messages([system("You are a cook."), user("q")]))
    )
    SEEN.clear()
    rows, _ = made(Responses(models=[model("a")], systems=["Be kind."]), table)
    assert SEEN[0].conversation == [system("You are a cook.\n\nBe kind."), user("q")]
    assert rows["prompt"].to_list() == [[system("You are a cook."), user("q")]]


def test_the_system_message_can_become_part_of_the_prompt(tmp_path):
    fields = {"models": [model("a")], "n": 6, "systems": ["Be kind.", ""]}
    plain, kept = Responses(**fields), Responses(**fields, system_in_prompt=True)
    assert (plain.new_prompts, kept.new_prompts) == (False, True)
    table = prompts("q", "r")
    rows, _ = made(kept, table)
    assert rows["prompt_id"].n_unique() == 4
    assert set(rows["parent_id"]) == set(table["prompt_id"])
    for prompt, used in rows.select("prompt", "system_used").iter_rows():
        assert prompt[:-1] == ([system("Be kind.")] if used else [])
    step = {"generators.Responses": {**fields, "system_in_prompt": True}}
    results = [
        asked_run(recipe(step), table, tmp_path / str(size), shard_rows=size) for size in (1, 1000)
    ]
    assert digest(results[0]) == digest(results[1])


def test_failures_are_counted_and_prompts_without_answer_dropped():
    step = Responses(models=[model("a", "moody")], n=3)
    table = prompts("down", "half", "mute", "good")
    rows, dropped = made(step, table)
    names = dict(zip(table["prompt_id"], content(table, "prompt"), strict=True))
    assert {names[i]: tuple(r) for i, *r in dropped.drop("step").iter_rows()} == {
        "down": ("http_500", "a: no luck"),
        "mute": ("empty_answer", "a: nothing but white space"),
    }
    told = rows.with_columns(q=pl.col("prompt_id").replace_strict(names))
    found = told.select("q", "sample", "failed_samples", "failures").sort("q", "sample").rows()
    assert found == [
        ("good", 0, 0, None),
        ("good", 1, 0, None),
        ("good", 2, 0, None),
        ("half", 0, 1, "http_500 1"),
        ("half", 2, 1, "http_500 1"),
    ]
    assert set(content(rows, "response")) == {"sample 0", "sample 1", "sample 2"}


def test_cut_answers_stay_or_go():
    keeping = Responses(models=[model("a", "moody")], gate={"truncated": "keep"})
    rows, _ = made(keeping, prompts("long", "good"))
    assert Counter(rows["finish_reason"]) == {"length": 1, "stop": 1}
    step = Responses(models=[model("a", "moody")])
    rows, dropped = made(step, prompts("long", "good"))
    assert rows["finish_reason"].to_list() == ["stop"]
    assert dropped["reason"].to_list() == ["truncated"]


def test_copies_are_counted_and_the_first_stays():
    step = Responses(models=[model("a", "echo"), model("b", "echo")], n=2, origin="self")
    rows, _ = made(step, prompts("x"))
    assert rows.select("model", "sample", "same_samples", "origin").rows() == [("a", 0, 3, "self")]


def test_origin_by_model():
    origin = {"a": "open_model", "b": "closed_model"}
    rows, _ = made(Responses(models=[model("a"), model("b")], origin=origin), prompts("x"))
    assert dict(zip(rows["model"], rows["origin"], strict=True)) == origin


def test_columns_of_prompts_pass_through():
    table = prompts("x", "y").with_columns(gold=pl.Series(["1", "2"]), parent_id=pl.lit("old"))
    rows, _ = made(Responses(models=[model("a")], n=2), table)
    gold = dict(zip(table["prompt_id"], table["gold"], strict=True))
    assert rows["gold"].to_list() == [gold[i] for i in rows["prompt_id"]]
    assert "old" not in rows["parent_id"].to_list()


def test_more_answers_beside_those_that_are_there():
    old = responses(("x", "answer to x"), ("x", "mine"), ("y", "mine too"), score_h=[1.0, 2.0, 3.0])
    step = Responses(models=[model("policy", "echo")], n=2, origin="self")
    rows, dropped = made(step, old, Shape.RESPONSES)
    assert dropped.height == 0
    found = said(rows).select("text", "model", "origin", "score_h", "same_samples").sort("text")
    assert found.rows() == [
        ("answer to x", "m", "self", 1.0, 2),  # both samples said what was there already
        ("answer to y", "policy", "self", None, 1),
        ("mine", "m", "self", 2.0, 0),
        ("mine too", "m", "self", 3.0, 0),
    ]
    kept = rows.filter(pl.col("model") == "m")
    assert kept.select(old.columns).sort("response_id").equals(old.sort("response_id"))
    assert set(rows["parent_id"]) == set(old["response_id"])
    again, _ = made(step, rows, Shape.RESPONSES)  # same step, same draws: nothing is new
    assert again["response_id"].equals(rows["response_id"])
    assert again["same_samples"].sum() == rows["same_samples"].sum() + 4


def test_failures_beside_answers_that_are_there_lose_nothing():
    old = responses(("down", "mine"))
    rows, dropped = made(Responses(models=[model("a", "moody")]), old, Shape.RESPONSES)
    assert dropped.height == 0
    assert rows.select("failed_samples", "failures").rows() == [(1, "http_500 1")]


TABLE = prompts("down", "mute", *[f"question {i}" for i in range(38)])
FIELDS = {
    "models": [model("a", "moody"), model("b"), model("c")],
    "per_prompt": 2,
    "n": 2,
    "sampling": {"temperature": [0.5, 1.0]},
    "systems": ["Be kind.", "Be brief."],
}


def test_shards_order_and_workers_change_nothing(tmp_path):
    step = {"generators.Responses": FIELDS}
    digests = {
        digest(asked_run(recipe(step), table, tmp_path / f"{i}", size, n))
        for i, (table, size, n) in enumerate([(TABLE, 1000, 1), (TABLE, 1, 4), (TABLE[::-1], 7, 2)])
    }
    assert len(digests) == 1


def test_the_recipe_seed_and_the_step_label_are_part_of_the_draw(tmp_path):
    table = prompts(*[f"q{i}" for i in range(10)])
    step = {"generators.Responses": {"models": [model("b")]}}
    first, other = (
        view(asked_run(recipe(step, seed=s), table, tmp_path / f"s{s}"), "responses")
        for s in (0, 1)
    )
    assert not set(first["response_id"]) & set(other["response_id"])
    twice = asked_run(recipe(step, step), table, tmp_path / "twice")
    assert view(twice, "responses").height == 20  # the second asks anew


def test_a_run_where_all_fail_says_so(tmp_path):
    step = {"generators.Responses": {"models": [model("a", "moody")]}}
    with pytest.raises(DataError, match=r"no row is left.*1 for http_500"):
        asked_run(recipe(step), prompts("down"), tmp_path)


def test_ledger_of_a_run(tmp_path):
    step = {"generators.Responses": {"models": [model("a", "moody")]}}
    result = asked_run(recipe(step), TABLE, tmp_path)
    assert sorted(ledger_of(result)["reason"]) == ["empty_answer", "http_500"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"models": []}, "at least 1"),
        ({"models": [model("a"), model("a")]}, "twice"),
        ({"per_prompt": 2}, "there are 1 models"),
        ({"sampling": {"temperature": [0.9, 0.2]}}, "above the high end"),
        ({"sampling": {"temperature": -1}}, "greater than or equal to 0"),
        ({"system_in_prompt": True}, "no `systems`"),
        ({"origin": {"b": "self"}}, "say that of a too"),
        ({"origin": "alien"}, "origin"),
    ],
)
def test_fields_are_checked(fields, text):
    with pytest.raises(ValidationError, match=text):
        Responses(**{"models": [model("a")], **fields})


def test_asks_at_most_what_it_asks():
    step = Responses(
        models=[model("a"), model("b"), model("c")], per_prompt=2, n=3, sampling={"max_tokens": 7}
    )
    assert [(a.engine.model, a.calls, a.completion_tokens) for a in step.asks(10, 10)] == [
        (name, 20, 7) for name in "abc"
    ]


def test_without_engines_it_says_so():
    with pytest.raises(ConfigError, match="opens none"):
        Responses(models=[model("a")]).generate(prompts("x"), Context(step="generators.Responses"))
