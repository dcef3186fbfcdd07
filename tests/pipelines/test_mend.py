"""`audit --write-recipe` on the planted noise set: damage goes, clean rows stay."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re

import pytest

from catalog.versions import Catalog
from pipelines.api import audit
from pipelines.mend import lines_of, mend, text_of
from tests.helpers import ROOT
from tests.pipelines.conftest import command

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


def test_leaks_in_half_of_the_rows_are_found_not_taken_for_transcripts(tmp_path):
    found = audit(str(written(tmp_path / "pairs.jsonl", 24, 12)), embeddings=False)
    assert found.rows == 24
    assert found.finding("role_leaks").rows.height == 12


def test_a_set_without_faulty_rows_gets_a_recipe_without_steps(tmp_path):
    data = written(tmp_path / "pairs.jsonl", damaged=0)
    found = audit(str(data), embeddings=False)
    assert lines_of(found) == {}
    assert "steps: []" in text_of(found, {"path": str(data)}, [])
    done = mend(found, {"path": str(data)}, tmp_path / "mend.yaml")
    assert "no finding names rows" in done.summary()


def test_the_command_writes_a_recipe_tries_it_and_the_recipe_runs(tmp_path):
    written(tmp_path / "pairs.jsonl")
    words = ("audit", "pairs.jsonl", "--no-embeddings", "--write-recipe", "mend.yaml")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +12 +0  filters.Damage: {rules: \[role_leak", done.stderr, re.MULTILINE)
    assert "120 rows before, 108 after" in done.stderr
    assert not (tmp_path / "home" / "versions").exists()  # tried in a temporary folder
    ran = command("run", "mend.yaml", "--runner", "threads", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert Catalog(tmp_path / "home").get("mended-pairs").frame().collect().height == 108


def test_the_command_also_drops_the_least_trusted_fifth(tmp_path):
    written(tmp_path / "pairs.jsonl")
    words = ("audit", "pairs.jsonl", "--no-embeddings", "--write-recipe", "mend.yaml", "--suspects")
    done = command(*words, "--home", "mended", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"22 +22  filters.SuspectLabels: .*do: drop", done.stderr), done.stderr
    assert "120 rows before, 86 after" in done.stderr
    version = Catalog(tmp_path / "mended").get("mended-pairs")
    assert version.frame().collect().height == 86
    assert set(version.ledger()["reason"]) == {"role_leak", "suspect_label"}


def test_suspects_that_the_self_test_can_not_find_are_marked_and_stay(tmp_path):
    data = random_labels(tmp_path / "pairs.jsonl")
    words = ("audit", data.name, "--no-embeddings", "--write-recipe", "mend.yaml", "--suspects")
    done = command(*words, "--home", "mended", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "suspects are marked for review and stay: " in done.stderr
    assert "self-test's precision must be 0.15" in done.stderr
    assert "do: review" in (tmp_path / "mend.yaml").read_text("utf-8")
    table = Catalog(tmp_path / "mended").get("mended-pairs").frame().collect()
    assert (table.height, table["suspect"].sum()) == (120, 24)


def random_labels(path, n=120):
    """Pairs whose answers are drawn alike, so that there is nothing to learn."""
    rng = random.Random(0)
    words = ["river", "stone", "lamp", "orange", "quiet", "engine", "paper", "window"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            said = [" ".join(rng.choices(words, k=12)) for _ in range(2)]
            row = {"prompt": f"What of number {i}?", "chosen": said[0], "rejected": said[1]}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suspects", [False, True])
def test_the_planted_noise_set_loses_its_damage_and_keeps_its_clean_rows(tmp_path, suspects):
    if not NOISE.exists():
        pytest.skip(f"NOT RUN: the planted noise set is not at {NOISE}")
    words = ("audit", str(NOISE), "--write-recipe", "mend.yaml", "--home", "mended")
    more = ("--suspects",) if suspects else ()
    done = command(*words, *more, cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    shares, swapped = kept(Catalog(tmp_path / "mended").get("mended-noisy-pairs"))
    assert shares["clean"] >= (0.78 if suspects else 0.95)
    for kind, most in MOST_LEFT.items():
        assert shares[kind] <= most, kind
    assert swapped <= (0.16 if suspects else 0.189)


MOST_LEFT = {
    "identical": 0.05, "empty_rejected": 0.05, "loop_chosen": 0.05, "role_leak_chosen": 0.05,
    "offtopic_chosen": 0.15, "garbled_chosen": 0.10,
}  # fmt: skip
"""Share of each kind of damage that may stay."""


def kept(version):
    """Share of the rows of each kind that a version holds; and that of swapped labels."""
    with gzip.open(NOISE, "rt", encoding="utf-8") as file:
        ids = [json.loads(line)["id"] for line in file]
    with (NOISE.parent / "noisy_pairs_truth.csv").open(encoding="utf-8") as file:
        truth = {row["id"]: row["kind"] for row in csv.DictReader(file)}
    places = version.frame().select("source_id").collect()["source_id"]
    left = [truth[ids[int(place.rpartition(":")[2]) - 1]] for place in places]
    kinds = list(truth.values())
    shares = {kind: left.count(kind) / kinds.count(kind) for kind in set(kinds)}
    return shares, left.count("flipped") / (left.count("flipped") + left.count("clean"))
