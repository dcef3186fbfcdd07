"""`recipes/ultrafeedback_like.yaml` from prompts to a published version, with scripted models."""

import json
from pathlib import Path

import polars as pl
import pytest
from datasets import load_from_disk

from pipelines.build import build, load_recipe, open_sources
from pipelines.settings import Settings
from prefactory.stages import thread_mapper
from tests.helpers import ROOT

HERE = __name__
RECIPE = ROOT / "recipes" / "ultrafeedback_like.yaml"
NAMES = ["large-a", "large-b", "medium-a", "medium-b", "small-a", "small-b"]
SAME = "Everybody knows that, and so do I: it is as it is."
RULES = (
    "instruction_following",
    "truthfulness",
    "honesty",
    "helpfulness",
)


def answers(request):
    """Larger models give more reasons; to the question about 2027 all say nearly the same."""
    asked = request.conversation[-1]["content"]
    name = request.row_id.rsplit("/", 2)[1]
    size = {"large": 9, "medium": 6, "small": 3}[name.split("-")[0]]
    if "2027" in asked:
        return f"{SAME} {name}"
    tag = name.replace("-", "")
    reasons = " ".join(f"reason{i}{tag} for {asked[i : i + 7]!r}." for i in range(size))
    return f"{reasons} That is what {tag} draws from {request.draw_seed}."


def judge(request):
    """Rates by the number of reasons; the question about dice gets the best ratings throughout."""
    text = request.conversation[-1]["content"]
    best = "two dice" in text
    rating = 5 if best else 1 + text.count("reason") // 3
    return json.dumps({"ratings": dict.fromkeys(RULES, rating)})


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    models = [{"engine": "scripted", "model": n, "function": f"{HERE}.answers"} for n in NAMES]
    rater = {"engine": "scripted", "model": "judge", "function": f"{HERE}.judge"}
    words = [
        f"generators.Responses.models={json.dumps(models)}",
        f"labelers.Rubric.judge={json.dumps(rater)}",
    ]
    recipe = load_recipe(RECIPE, words)
    settings = Settings(home=tmp_path_factory.mktemp("home"), workers=2, shard_rows=5)
    return build(recipe, open_sources(recipe), settings, thread_mapper(2))


def table(outcome, name):
    splits = load_from_disk(str(Path(outcome.published.version.path) / name))
    return pl.concat([pl.from_arrow(splits[s].data.table) for s in splits])


def test_every_prompt_is_published_or_in_the_ledger(outcome):
    stages = {s.label: s for s in outcome.stages}
    first = stages["generators.Responses"]
    assert (first.rows_in, first.rows_out, first.reasons) == (24, 96, {})
    assert stages["filters.NearIdenticalAnswers"].reasons == {"near_identical": 3}
    assert stages["filters.UninformativePrompts"].reasons == {"too_few_answers": 1}
    assert stages["filters.UninformativePrompts#2"].reasons == {"all_good": 4}  # the dice
    assert stages["filters.PairSanity"].reasons == {}
    pairs = table(outcome, "pairs")
    assert pairs.height == pairs["prompt_id"].n_unique() == 22


def test_pairs_follow_the_judge_and_prompts_hide_the_principle(outcome):
    pairs = table(outcome, "pairs")
    sizes = {"large": 3, "medium": 2, "small": 1}
    for side in ("chosen", "rejected"):
        told = pairs[f"{side}_model"].str.split("-").list.first().replace_strict(sizes)
        assert (pairs[f"{side}_score_overall"] == 1 + told).all()
    assert (pairs["margin"] > 0).all()
    assert set(pairs["label_source"]) == {"judge"}
    roles = pairs["prompt"].list.eval(pl.element().struct.field("role")).explode()
    assert set(roles) == {"user"}
    responses = table(outcome, "responses")
    assert responses["system_used"].n_unique() == 5
    assert set(responses["model"]) == set(NAMES)
