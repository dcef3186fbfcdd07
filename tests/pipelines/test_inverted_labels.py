"""Whole sets of people's labels, right and turned round, through the audit as a user starts it."""

import json

import polars as pl
import pytest

SETS = {
    "hh helpful": "preference_human/hh_helpful_base.jsonl.gz",
    "ultrafeedback": "preference_judge/ultrafeedback_binarized.jsonl.gz",
    "ukp": "preference_human/ukp_convarg_pairs.parquet",
}


def turned(table):
    """The same rows with the opposite label, in the columns that the file has."""
    if "label" in table.columns:  # ukp: the better of two arguments, a1 or a2
        return table.with_columns(pl.col("label").replace_strict({"a1": "a2", "a2": "a1"}))
    names = {"chosen": "rejected", "rejected": "chosen"}
    return table.rename(names).select(table.columns)


def read(path):
    """The rows of a set, without the scores that would tell right labels from turned ones."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    table = pl.read_ndjson(path, infer_schema_length=None)
    return table.select(c for c in ("prompt", "chosen", "rejected") if c in table.columns)


def labels(prefactory_in, folder, table, name):
    """The finding on labels of `prefactory audit FILE`, at its defaults."""
    table.write_parquet(folder / f"{name}.parquet")
    done = prefactory_in(folder, "audit", f"{name}.parquet", "--json", timeout=800)
    assert done.returncode == 0, done.stderr
    return next(f for f in json.loads(done.stdout)["findings"] if f["check"] == "labels")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SETS)
def test_turned_labels_are_a_fault_and_right_ones_are_not(
    name, prefactory_in, shared_data, tmp_path
):
    table = read(shared_data / SETS[name])
    right = labels(prefactory_in, tmp_path, table, "right")
    assert right["metrics"]["inverted"]["value"] == 0
    assert right["metrics"]["against"]["value"] == 0
    assert right["severity"] != "fault"
    assert right["headline"].startswith("an outside opinion agrees with the labels")
    wrong = labels(prefactory_in, tmp_path, turned(table), "wrong")
    assert wrong["severity"] == "fault"
    assert wrong["headline"].startswith("labels look turned round")
    assert "estimated wrong" not in wrong["headline"]  # it would take most of them as right
    assert "wrong" not in wrong["metrics"]
    # rows whose prompts the anchor was trained on have no say, and that is said
    seen = [note for note in wrong["notes"] if "it was trained on their prompts" in note]
    assert bool(seen) == (name == "hh helpful")
    judged = wrong["metrics"]["inverted"]["n"]
    assert judged < table.height * 0.6 if seen else judged > 500
