"""`recipes/multi_objective.yaml` on one file of the quickstart: every claim of its comments."""

import json
from pathlib import Path

import polars as pl
import pytest
from datasets import load_from_disk

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "multi_objective.yaml")
SMALL = f"source.path={ROOT / 'examples' / 'quickstart' / 'science.jsonl'}"


@pytest.fixture(scope="module")
def published(tmp_path_factory, prefactory_in):
    """Publish once: the folder, the run's JSON and the command."""
    folder = tmp_path_factory.mktemp("multi")

    def run(*words):
        done = prefactory_in(folder, "run", RECIPE, SMALL, "--runner", "threads", "--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return folder, run(), run


def pairs_of(folder, made):
    splits = load_from_disk(str(folder / made["path"] / "pairs"))
    return pl.concat([pl.from_arrow(splits[s].data.table) for s in splits])


def test_pairs_keep_every_score_and_follow_the_soft_and(published):
    folder, made, _ = published
    pairs = pairs_of(folder, made)
    names = [
        "helpfulness",
        "relevance",
        "words",
        "ridge_helpfulness",
        "brevity",
        "palette",
        "all_good",
    ]
    assert {f"chosen_score_{n}" for n in names} <= set(pairs.columns)
    gap = pairs["chosen_score_all_good"] - pairs["rejected_score_all_good"]
    assert gap.to_list() == pytest.approx(pairs["margin"].to_list())
    assert pairs["margin"].min() >= 0.3
    assert (pairs["chosen_score_brevity"] * -100).to_list() == pytest.approx(
        pairs["chosen_score_words"].to_list()
    )


def test_map_reaches_its_palette_and_says_with_which_weights(published):
    folder, made, _ = published
    manifest = json.loads((folder / made["path"] / "manifest.json").read_text())
    (info,) = [s["info"] for s in manifest["stages"] if s["label"] == "labelers.MAP"]
    assert info["feasible"]
    for objective, level in info["palette"].items():
        assert info["realised"][objective] >= level - 1e-4
    assert info["realised"]["brevity"] == pytest.approx(-0.45, abs=1e-4)
    pairs = pairs_of(folder, made)
    weighed = sum(w * pairs[f"chosen_score_{o}"] for o, w in info["weights"].items())
    assert weighed.to_list() == pytest.approx(pairs["chosen_score_palette"].to_list())


def test_the_two_ways_differ_and_the_report_shows_where(published):
    folder, made, _ = published
    pairs = pairs_of(folder, made)
    flipped = pairs.filter(pl.col("chosen_score_palette") < pl.col("rejected_score_palette"))
    assert 0 < flipped.height < pairs.height / 2
    page = (folder / made["path"] / "report.html").read_text()
    assert 'id="pareto"' in page
    assert "Share of pairs that two objectives order in opposite ways" in page


def test_other_pairs_need_no_scoring(published):
    folder, made, run = published
    other = run("labelers.Pairs.objective=palette")
    assert {s["label"] for s in other["stages"] if s["made"]} == {"labelers.Pairs"}
    pairs = pairs_of(folder, other)
    assert (pairs["chosen_score_palette"] > pairs["rejected_score_palette"]).all()
    assert other["content_digest"] != made["content_digest"]
