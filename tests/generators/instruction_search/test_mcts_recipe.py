"""`recipes/p_aligner.yaml` from prompts to a published version, with scripted models."""

import json
import re

import polars as pl
import pytest
from datasets import load_from_disk

from catalog.report.trees import count_trees, read_trees
from pipelines.build import build, load_recipe, open_sources
from pipelines.settings import Settings
from prefactory.stages import thread_mapper
from tests.generators.searching import block, instruction
from tests.helpers import ROOT

HERE = __name__
RECIPE = ROOT / "recipes" / "p_aligner.yaml"
STEP = "generators.InstructionSearch"
SAID = {"plainly": "Be plain.", "background": "Give reasons.", "politer": "Be kind, please."}


def rewrite(request):
    """Adds a sentence per principle; instructions with numbers can't be improved."""
    text = request.conversation[1]["content"]
    said = next(s for word, s in SAID.items() if word in text.split("<<<")[0])
    return f"<instruction>{instruction(request)} {said}</instruction>"


def respond(request):
    """Answers the better, the more kinds of sentences were added."""
    asked = request.conversation[-1]["content"]
    kinds = sum(said in asked for said in SAID.values())
    return f"{kinds} reasons, draw {request.draw_seed % 1000}"


def judge(request):
    """Rates by the reasons, with noise by the draw; never for questions with a number."""
    found = re.match(r"(\d) reasons, draw (\d+)", block(request, "answer"))
    kinds, draw = map(int, found.groups())
    if re.search(r"\d", block(request, "conversation")):
        kinds = 0
    return json.dumps({"score": 4 + kinds + (draw - 500) / 2000})


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    models = {"rewriter": "rewrite", "responder": "respond", "scorer.judge": "judge"}
    engines = {
        field: {"engine": "scripted", "model": name, "function": f"{HERE}.{name}"}
        for field, name in models.items()
    }
    words = [f"{STEP}.{field}={json.dumps(engine)}" for field, engine in engines.items()]
    recipe = load_recipe(RECIPE, [*words, f"{STEP}.floor=null"])
    settings = Settings(home=tmp_path_factory.mktemp("home"), workers=2, shard_rows=5)
    return build(recipe, open_sources(recipe), settings, thread_mapper(2))


def table(outcome, name):
    splits = load_from_disk(str(outcome.published.version.path / name))
    return pl.concat([pl.from_arrow(splits[s].data.table) for s in splits])


def test_pairs_where_rewriting_helps_and_reasons_where_it_does_not(outcome):
    stage = {s.label: s for s in outcome.stages}[STEP]
    pairs = table(outcome, "pairs")
    assert (stage.rows_in, stage.rows_out) == (24, pairs.height)
    assert set(stage.reasons) <= {"no_gap", "gap_not_confirmed"}
    assert pairs.height + sum(stage.reasons.values()) == 24
    chosen = pairs["chosen"].list.first().struct.field("content")
    tasks = pairs["prompt"].list.first().struct.field("content")
    raw = tasks.str.extract(r"(?s)<original>\n(.*)\n</original>")
    numbers = raw.str.contains(r"\d")
    plain = pairs.filter(~numbers)
    assert plain.height >= 12
    assert (plain["margin"] > 2).all()
    assert all(said in text for text in chosen.filter(~numbers) for said in SAID.values())
    assert numbers.sum() <= 2  # what rewriting can't help is noise, and most noise is dropped
    assert set(pairs["label_source"]) == {"judge"}
    assert set(pairs["chosen_model"]) == {"rewrite"}


def test_the_version_keeps_its_trees(outcome):
    version = outcome.published.version
    pairs = table(outcome, "pairs")
    assert count_trees(version) == pairs.height
    one = pairs.row(0, named=True)
    for prompt in (one["parent_id"], one["prompt_id"][:12]):
        (kept,) = read_trees(version, prompt)
        assert kept.prompt_id == one["parent_id"]
        assert len(kept.tree.nodes) == 21
        found = kept.tree.nodes[kept.tree.chosen]
        assert one["chosen"][0]["content"] == f"<instruction>\n{found.text}\n</instruction>"
        assert found.unseen_mean == pytest.approx(one["chosen_score_reward"])
    assert [k.prompt_id for k in read_trees(version, most=3)] == sorted(pairs["parent_id"])[:3]


def test_the_report_says_how_many_pairs_luck_would_have_written(outcome):
    stage = {s.label: s for s in outcome.stages}[STEP]
    page = (outcome.published.version.path / "report.html").read_text("utf-8")
    assert (
        f"{STEP} compared 24 trees at level 0.05: {stage.rows_out} wrote something, about 1.2 "
        "would have had nothing helped."
    ) in page
