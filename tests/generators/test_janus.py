"""`recipes/janus.yaml` from prompts to pairs across system messages, with a scripted model."""

import json
from pathlib import Path

import polars as pl
import pytest
from datasets import load_from_disk

from pipelines.build import build, load_recipe, open_sources
from pipelines.settings import Settings
from prefactory.stages import thread_mapper
from tests.helpers import ROOT

RECIPE = ROOT / "recipes" / "janus.yaml"


def answers(request):
    """Does what the message says, by saying it; one prompt gets one answer to all messages."""
    message, asked = (m["content"] for m in request.conversation)
    if "2027" in asked:
        return "Nobody can know that, whatever you would like me to say about it."
    return f"About {asked[:20]!r}: {message[::-1]} {request.draw_seed}"


def built(home, shard_rows=5, *words):
    model = {"engine": "scripted", "model": "writer", "function": f"{__name__}.answers"}
    recipe = load_recipe(RECIPE, [f"generators.Responses.models={json.dumps([model])}", *words])
    settings = Settings(home=home, workers=2, shard_rows=shard_rows)
    return build(recipe, open_sources(recipe), settings, thread_mapper(2))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return built(tmp_path_factory.mktemp("home"))


def table(outcome, name):
    splits = load_from_disk(str(Path(outcome.published.version.path) / name))
    return pl.concat([pl.from_arrow(splits[s].data.table) for s in splits])


def test_three_rows_a_prompt_and_a_pair_for_each(outcome):
    stages = {s.label: s for s in outcome.stages}
    assert stages["generators.SystemMessages"].rows_out == 72
    assert stages["generators.Responses"].rows_out == 72
    assert stages["labelers.SystemPairs"].reasons == {"same_text": 3}  # the question about 2027
    pairs = table(outcome, "pairs")
    assert pairs.height == 69
    question = pairs["prompt"].list.slice(1).list.eval(pl.element().struct.field("content"))
    assert set(question.list.join("").value_counts()["count"]) == {3}


def test_the_rejected_answer_was_written_for_another_message_of_the_prompt(outcome):
    pairs = table(outcome, "pairs")
    written = table(outcome, "responses").select(
        rejected_prompt_id="prompt_id", other="prompt", theirs="response"
    )
    both = pairs.join(written, on="rejected_prompt_id", how="left")
    assert (both["theirs"].to_list()) == both["rejected"].to_list()
    assert both["other"].list.slice(1).to_list() == both["prompt"].list.slice(1).to_list()
    for message, chosen, rejected in pairs.select(
        pl.col("prompt").list.first().struct.field("content"),
        pl.col("chosen").list.first().struct.field("content").alias("c"),
        pl.col("rejected").list.first().struct.field("content").alias("r"),
    ).iter_rows():
        assert message[::-1] in chosen
        assert message[::-1] not in rejected


def test_values_travel_to_the_answers_and_coverage_to_the_manifest(outcome):
    responses = table(outcome, "responses")
    assert responses["value_ids"].list.len().unique().to_list() == [4]
    manifest = json.loads((Path(outcome.published.version.path) / "manifest.json").read_text())
    infos = {s["label"]: s["info"] for s in manifest["stages"]}
    found = infos["generators.MessageCoverage"]["coverage"]["janus"]
    assert found == infos["generators.SystemMessages"]["coverage"]
    assert found["dimension"]["entropy"] == 1.0
    counts = [n["n"] for n in found["value"]["nodes"].values()]
    assert (min(counts), max(counts)) == (3, 4)  # 72 messages, 22 or 20 values
    page = (Path(outcome.published.version.path) / "report.html").read_text()
    assert "rouge_l_of_one_prompt" in page


@pytest.mark.slow
def test_shards_change_nothing(outcome, tmp_path):
    other = built(tmp_path, 1000)
    mine, theirs = (o.published.version.manifest.content_digest for o in (outcome, other))
    assert mine == theirs
