"""Anchored prompt quality: the specification's checks, frozen anchors, judges that fail."""

import json
import re
import zlib

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from scipy.stats import spearmanr

from labelers.prompt_labels.quality import DIMENSIONS, PromptQuality
from prefactory.apply import apply_labeler
from prefactory.context import Context
from prefactory.engines import serving
from prefactory.engines.base import Failure
from prefactory.errors import ConfigError, DataError
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from prefactory.tables import Shape
from tests.helpers import MemorySource, asking, pairs, prompts, recipe, responses, view
from tests.prefactory.engines.mock_server import MockServer, answer, chat

HERE = __name__


def shown(text):
    """The two requests of a question, without the role's line."""
    pattern = r"<<< (?:first|second) \w+\n\[user\]\n(.*?)\n>>> (?:first|second)"
    return re.findall(pattern, text, re.DOTALL)


def verdicts(*words):
    return json.dumps(dict(zip(DIMENSIONS, words * 4, strict=False)))


def latent(text):
    return float(text.split()[1])


def draw(*parts):
    return zlib.crc32("\n".join(parts).encode()) / 2**32


def logistic(request):
    """Says "first" with probability sigmoid(difference), each dimension for itself."""
    question = request.conversation[1]["content"]
    first, second = shown(question)
    p = expit(latent(first) - latent(second))
    said = {
        d: "first" if draw(question, d, request.conversation[0]["content"]) < p else "second"
        for d in DIMENSIONS
    }
    return json.dumps(said)


def logistic_too(request):
    first, second = shown(request.conversation[1]["content"])
    p = expit(latent(first) - latent(second))
    return verdicts(*["first" if draw(first, second, d) < p else "second" for d in DIMENSIONS])


def always_first(request):
    return verdicts("first")


def any_verdict(request):
    question = request.conversation[1]["content"]
    words = ("first", "tie", "second")
    return json.dumps({d: words[int(3 * draw(question, d))] for d in "abc"})


def exact(request):
    """Knows the latent quality without noise; novelty is always alike."""
    a, b = (latent(t) for t in shown(request.conversation[1]["content"]))
    word = "tie" if a == b else "first" if a > b else "second"
    return verdicts(word, word, word, "tie")


def judge(function):
    return {"engine": "scripted", "function": f"{HERE}.{function}"}


def quality(*functions, **fields):
    return PromptQuality(judge=[judge(f) for f in functions], **fields)


def label(step, table, shape=Shape.PROMPTS, ctx=None):
    ctx = ctx or asking()
    state = step.fit(step.fit_shard(table, ctx).sort("prompt_id"), ctx)
    fitted = Context(ctx.seed, ctx.step, state, ctx.embed, ctx.engine)
    out = apply_labeler(step, "labelers.PromptQuality", table, shape, fitted)
    return out.drop(out.columns[0]), state


def qualities(n, seed=0):
    return [
        f"quality {q:.4f} of {i}"
        for i, q in enumerate(np.random.default_rng(seed).normal(0, 1.5, n))
    ]


# -- the specification's checks -----


@pytest.mark.parametrize("method", ["mean", "bradley_terry"])
def test_scores_follow_a_latent_quality(method):
    texts = qualities(120)
    step = quality("logistic", "logistic_too", method=method)
    out, state = label(step, prompts(*texts))
    assert spearmanr(out["prompt_quality"], [latent(t) for t in texts]).statistic > 0.9
    assert out["prompt_quality_anchors"].to_list() == [10] * 120
    assert out["prompt_quality_se"].is_between(0.005, 0.25).all()
    assert state.info["buckets"] == {"": 30}
    strength = state.tables["anchors"]["strength"]
    assert strength.null_count() == (30 if method == "mean" else 0)


def test_an_anchor_against_itself_is_one_half():
    step = quality("always_first", anchors=[{"prompt": "quality 1"}])
    out, _ = label(step, prompts("quality 1"))
    assert out["prompt_quality"].to_list() == [0.5]


def test_a_judge_that_always_says_first_makes_all_alike():
    out, _ = label(quality("always_first"), prompts(*qualities(15)))
    assert set(out["prompt_quality"]) == {0.5}
    assert set(out["prompt_quality_novelty"]) == {0.5}


# -- anchors -----


def test_small_buckets_use_all_others_as_anchors():
    table = prompts(*[f"quality {i}" for i in range(5)])
    table = table.with_columns(pl.Series("kind", ["x", "x", "x", "y", None]))
    out, state = label(quality("exact", bucket="kind"), table)
    assert state.info["buckets"] == {"": 1, "x": 3, "y": 1}
    assert out["prompt_quality_anchors"].to_list() == [2, 2, 2, 1, 1]
    # three dimensions are won or lost, the fourth is a tie
    assert out["prompt_quality"].to_list() == [0.125, 0.5, 0.875, 0.5, 0.5]
    assert out["prompt_quality_clarity"].to_list() == [0, 0.5, 1, 0.5, 0.5]
    assert out["prompt_quality_novelty"].to_list() == [0.5] * 5


def test_a_bucket_without_anchors_has_no_score():
    table = prompts("quality 1", "quality 2").with_columns(pl.Series("kind", ["x", "y"]))
    step = quality("exact", bucket="kind", anchors=[{"prompt": "quality 0", "bucket": "x"}])
    out, _ = label(step, table)
    assert out["prompt_quality"].to_list() == [0.875, None]
    assert out["prompt_quality_se"].to_list() == [None, None]
    assert out["reason_prompt_quality"].to_list() == [None, "no_anchors"]
    assert out["prompt_quality_anchors"].to_list() == [1, 0]


@pytest.mark.parametrize("method", ["mean", "bradley_terry"])
def test_anchors_of_an_earlier_run_are_taken_from_its_manifest(tmp_path, method):
    texts = qualities(40)
    step = quality("exact", method=method, per_bucket=8, per_prompt=8)
    first, state = label(step, prompts(*texts))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"stages": [{"info": {}}, {"info": dict(state.info)}]}))
    again = quality("exact", method=method, per_prompt=8, anchors=str(manifest))
    some, other = label(again, prompts(*texts[:5]))
    assert other.info == state.info
    assert some.equals(first.head(5))
    lines = tmp_path / "anchors.jsonl"
    lines.write_text("".join(json.dumps(a) + "\n" for a in state.info["anchors"]))
    assert quality("exact", method=method, per_prompt=8, anchors=str(lines)).fingerprint() == (
        again.fingerprint()
    )


def test_anchors_and_scores_do_not_depend_on_the_cut(tmp_path):
    rows = responses(*[(text, f"a{i}") for i, text in enumerate(qualities(25))])
    fields = {"judge": [judge("logistic")], "per_bucket": 6, "per_prompt": 3}

    def run(name, order, **options):
        made = Options(engine=asking().engine, **options)
        source = MemorySource({"f": [rows[order]]})
        step = {"labelers.PromptQuality": {**fields, "method": "bradley_terry"}}
        store = Store(tmp_path / name)
        result = execute(recipe(step), [source], store, thread_mapper(made.workers), made)
        return view(result, "responses").drop("source_id"), result.stages[-1].info

    one = run("a", list(range(25)))
    two = run("b", list(range(25))[::-1], shard_rows=4, workers=3)
    assert one[0].equals(two[0])
    assert one[1] == two[1]
    assert one[1]["buckets"] == {"": 6}


def test_sums_round_alike_whoever_else_is_in_the_shard():
    """Buckets of other sizes must not change the order in which outcomes are added."""
    table = prompts(*qualities(28)).with_columns(kind=pl.lit("x"))
    small = table.head(8).with_columns(kind=pl.lit("y"))
    both = pl.concat([small, table.tail(20)])
    dimensions = dict.fromkeys(("a", "b", "c"), "?")
    step = quality("any_verdict", bucket="kind", per_prompt=12, dimensions=dimensions)
    ctx = asking()
    state = step.fit(step.fit_shard(both, ctx), ctx)
    fitted = Context(state=state, engine=ctx.engine)
    assert step.label(both, fitted).head(8).equals(step.label(small, fitted))


def test_all_rows_of_a_prompt_and_all_tables():
    rows = responses(("quality 1", "a"), ("quality 2", "b"), ("quality 1", "c"))
    out, _ = label(quality("exact"), rows, Shape.RESPONSES)
    assert out["prompt_quality"].to_list() == [0.125, 0.875, 0.125]
    both = pairs(("quality 2", "a", "b"), ("quality 1", "a", "b"))
    assert label(quality("exact"), both, Shape.PAIRS)[0]["prompt_quality"].to_list() == [
        0.875,
        0.125,
    ]
    empty, state = label(quality("exact", method="bradley_terry"), prompts("x 1").clear())
    assert (empty.height, state.info["buckets"]) == (0, {})


# -- judges that fail -----


def half(request):
    """Can't be read when the better request comes first."""
    a, b = (latent(t) for t in shown(request.conversation[1]["content"]))
    return "I refuse." if a > b else exact(request)


def down(request):
    return Failure("http_500", "oops")


def test_a_comparison_needs_both_orders_and_one_valid_judge_is_enough():
    table = prompts(*[f"quality {i}" for i in range(4)])
    out, _ = label(quality("half", attempts=1), table)
    assert out["prompt_quality"].to_list() == [None] * 4
    assert out["reason_prompt_quality"].to_list() == ["unparseable"] * 4
    sound, _ = label(quality("exact"), table)
    out, _ = label(quality("down", "exact"), table)
    assert out.equals(sound)
    out, state = label(quality("down", method="bradley_terry"), table)
    assert out["reason_prompt_quality"].to_list() == ["http_500"] * 4
    assert out["prompt_quality"].null_count() == 4
    assert state.tables["anchors"]["strength"].to_list() == [0.0] * 4


def test_faults_of_a_server_move_no_score(monkeypatch):
    monkeypatch.setattr(serving, "BACKOFF_S", 0.005)

    def said(body):
        a, b = (latent(t) for t in shown(body["messages"][1]["content"]))
        return verdicts("first" if a > b else "second")

    def behave(body, times):
        good = answer(chat(said(body)))
        faults = {
            0: ("status", (429, {}, b"")),
            1: ("status", (500, {}, b"")),
            2: ("cut", good),
            3: ("reset", None),
            4: ("late", (0.05, good)),
            5: ("ok", answer(chat('{"clarity": "first"}'))),
            6: ("ok", answer(chat("Two.\n\nParagraphs.\n\n" + said(body)))),
        }
        code = zlib.crc32(json.dumps(body).encode()) % 12
        return faults.get(code, ("ok", good)) if times == 1 else ("ok", good)

    texts = [f"quality {i}" for i in range(12)]
    with MockServer(behave) as server:
        config = {"engine": "server", "base_url": server.url, "model": "m", "timeout_s": 100}
        ctx, step = asking(), PromptQuality(judge=[config], per_prompt=11)
        out, _ = label(step, prompts(*texts), ctx=ctx)
        ctx.engine(step.judge[0]).close()
    assert out["prompt_quality"].to_list() == pytest.approx([i / 11 for i in range(12)])
    assert out["reason_prompt_quality"].null_count() == 12


# -- configuration -----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"judge": []}, "at least 1"),
        ({"judge": [judge("exact"), judge("exact")]}, "the same one is there twice"),
        ({"anchors": []}, "empty"),
        ({"anchors": "no/such.json"}, "no/such.json can't be read"),
        ({"anchors": [{"prompt": [{"role": "user"}]}]}, "`role` and `content`"),
        ({"dimensions": {"se": "x"}}, "not se or anchors"),
        ({"dimensions": {}}, "at least 1"),
        ({"prompts": {"question": "{{ answer }}"}}, "uses 'answer'"),
    ],
)
def test_mistakes_are_found_with_the_recipe(fields, message):
    with pytest.raises(ConfigError, match=message):
        recipe({"labelers.PromptQuality": {"judge": [judge("exact")], **fields}})


def test_files_that_hold_no_anchors(tmp_path):
    file = tmp_path / "a.json"
    for text, message in (("{", "neither JSON"), ("{}", "holds no anchors"), ("7", "no anchors")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            quality("exact", anchors=str(file))


def test_plan_counts_both_orders():
    step = quality("exact", "half", per_prompt=10)
    assert [a.calls for a in step.asks(500, 100)] == [2000, 2000]
    assert step.engines() == [j.identity() for j in step.judge]
    assert step.needs(Shape.PROMPTS) == {}
    assert quality("exact", bucket="kind").needs(Shape.PROMPTS) == {"kind": pl.String()}
    with pytest.raises(DataError, match="has not been fitted"):
        step.label(prompts("quality 1"), asking())
