"""`audit --write-recipe` on the planted noise set: damage goes, clean rows stay."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from pipelines.api import audit
from pipelines.mend import lines_of, mend, text_of
from tests.helpers import ROOT

NOISE = ROOT.parent / "shared" / "data" / "noise" / "noisy_pairs.jsonl.gz"


def written(path, n=120, damaged=12):
    """Pairs of which the first have a chosen answer that goes on to speak for the user."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            leak = "\n\nHuman: and then?" if i < damaged else ""
            row = {
                "prompt": f"What is the number {i} good for?",
                "chosen": f"Number {i} is good for counting to {i}.{leak}",
                "rejected": f"Nobody needs number {i}, or so they say.",
            }
            file.write(json.dumps(row) + "\n")
    return path


def test_each_line_says_what_it_took_and_what_the_audit_says_afterwards(tmp_path):
    data = written(tmp_path / "pairs.jsonl")
    found = audit(str(data), embeddings=False)
    path = tmp_path / "mend.yaml"
    done = mend(found, {"path": str(data)}, path, options={"embeddings": False})
    (line,) = [one for one in done.lines if "role_leak" in one.text]
    assert (line.taken, line.unnamed, line.findings) == (12, 0, ("role_leaks",))
    assert done.after.rows == 108
    assert done.after.finding("role_leaks").rows.height == 0
    assert "120 rows before, 108 after" in done.summary()
    text = path.read_text("utf-8")
    assert "# note provenance" in text
    assert list(lines_of(found)) == [one.text for one in done.lines]


def test_a_set_without_faulty_rows_gets_a_recipe_without_steps(tmp_path):
    data = written(tmp_path / "pairs.jsonl", damaged=0)
    found = audit(str(data), embeddings=False)
    assert lines_of(found) == {}
    assert "steps: []" in text_of(found, {"path": str(data)}, [])
    done = mend(found, {"path": str(data)}, tmp_path / "mend.yaml")
    assert "no finding names rows" in done.summary()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_planted_noise_set_loses_its_damage_and_keeps_its_clean_rows(tmp_path):
    if not NOISE.exists():
        pytest.skip(f"NOT RUN: the planted noise set is not at {NOISE}")
    from catalog.versions import Catalog

    home = tmp_path / "home"
    found = audit(str(NOISE), home=home)
    mend(found, {"path": str(NOISE)}, tmp_path / "mend.yaml", home=home)
    shares = kept(next(iter(Catalog(home))))
    assert shares["clean"] >= 0.95
    for kind, most in MOST_LEFT.items():
        assert shares[kind] <= most, kind


MOST_LEFT = {
    "identical": 0.05, "empty_rejected": 0.05, "loop_chosen": 0.05, "role_leak_chosen": 0.05,
    "offtopic_chosen": 0.15, "garbled_chosen": 0.10,
}  # fmt: skip
"""Share of each kind of damage that may stay."""


def kept(version):
    """Share of the rows of each kind that a version holds."""
    with gzip.open(NOISE, "rt", encoding="utf-8") as file:
        ids = [json.loads(line)["id"] for line in file]
    with (NOISE.parent / "noisy_pairs_truth.csv").open(encoding="utf-8") as file:
        truth = {row["id"]: row["kind"] for row in csv.DictReader(file)}
    places = version.frame().select("source_id").collect()["source_id"]
    left = [truth[ids[int(place.rpartition(":")[2]) - 1]] for place in places]
    kinds = list(truth.values())
    return {kind: left.count(kind) / kinds.count(kind) for kind in set(kinds)}
