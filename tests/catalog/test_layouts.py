import json

import polars as pl
import pytest
from datasets import List, Value, load_dataset, load_from_disk

from catalog import layouts
from catalog.layouts import LAYOUTS, export
from prefactory.errors import CatalogError, DataError
from prefactory.tables import MESSAGES
from tests.helpers import PAIRS, many_pairs, pairs, responses

KEPT = ["pair_id", "prompt_id", "source", "chosen_model", "rejected_model"]
SCORES = ["chosen_score_h", "rejected_score_h"]
CONVERSATION = List({"role": Value("string"), "content": Value("string")})
COLUMNS = {
    "trl": ["prompt", "chosen", "rejected", *KEPT, *SCORES],
    "trl-implicit": ["chosen", "rejected", "margin", *KEPT, *SCORES],
    "kto": ["prompt", "completion", "label", "pair_id", "prompt_id"],
    "sft": ["messages", "pair_id"],
}
FORMATS = ("arrow", "parquet", "jsonl")


def load(folder, file_format, cache):
    if file_format == "arrow":
        return load_from_disk(str(folder))
    return load_dataset(str(folder), cache_dir=str(cache))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "stepwise"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_each_layout_loads_with_its_columns(version, tmp_path, layout, file_format):
    out = tmp_path / "out"
    counts = export(version, layout, out, file_format)
    found = load(out, file_format, tmp_path / "cache")
    table = LAYOUTS[layout].table
    columns = COLUMNS.get(layout, list(version.manifest.tables[table].columns))
    for split, data in found.items():
        assert data.column_names == columns
        rows = version.manifest.tables[table].splits[split]
        assert data.num_rows == counts[split] == rows * (2 if layout == "kto" else 1)
        for name in {"prompt", "chosen", "rejected", "completion", "messages"} & set(columns):
            assert data.features[name].feature.keys() == CONVERSATION.feature.keys()
            assert data[0][name][0]["content"]
    assert "load_dataset" in (out / "README.md").read_text() or file_format == "arrow"


def test_stepwise_has_the_steps_as_far_as_their_labels_go(version):
    table = responses(("p", "a"), ("q", "b"), ("r", "c"), ("s", "d"), source="signs").with_columns(
        steps=pl.Series([["a", "b", "c"]] * 3 + [None], dtype=pl.List(pl.String)),
        step_labels=pl.Series([[1.0, 0.0, -1.0], [1.0], [0.6, 0.4], None]),
        source=pl.Series(["signs", "signs", "chances", "signs"]),
    )
    view = LAYOUTS["stepwise"].view
    assert set(view(table)["labels"].to_list()[0]) <= {True, False}
    found = layouts.stepwise(table, signed=["signs"])
    assert found.columns[:3] == ["prompt", "completions", "labels"]
    assert found["prompt"].to_list() == ["p", "q", "r"]
    assert found["completions"].to_list() == [["a", "b", "c"], ["a"], ["a", "b"]]
    assert found["labels"].to_list() == [[True, True, False], [True], [True, False]]
    wrong = layouts.stepwise(table, signed=["signs"], neutral="wrong")
    assert wrong["labels"].to_list()[0] == [True, False, False]


def test_stepwise_needs_labels_of_steps(version, tmp_path):
    with pytest.raises(CatalogError, match=r"has no step_labels, steps: sources of steps"):
        export(version, "stepwise", tmp_path / "out")


ONE = pairs(("p", "c", "r"), ("q", "d", "s"), margin=[1.0, 2.0])


def said(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def test_trl_is_explicit_and_has_no_margin():
    found = LAYOUTS["trl"].view(ONE)
    assert found.columns == ["prompt", "chosen", "rejected", *KEPT]
    assert found.row(0)[:3] == (
        said(("user", "p")),
        said(("assistant", "c")),
        said(("assistant", "r")),
    )


def test_trl_implicit_holds_whole_conversations_and_the_margin():
    found = LAYOUTS["trl-implicit"].view(ONE)
    assert found["chosen"][0].to_list() == said(("user", "p"), ("assistant", "c"))
    assert found["rejected"][1].to_list() == said(("user", "q"), ("assistant", "s"))
    assert found["margin"].to_list() == [1.0, 2.0]
    assert "margin" not in LAYOUTS["trl-implicit"].view(ONE.drop("margin")).columns
    views = {n: one.view for n, one in LAYOUTS.items() if n != "stepwise"}
    assert [n for n, view in views.items() if "margin" in view(ONE).columns] == [
        "trl-implicit",
        "responses",  # a view that changes nothing, of a table that has no margin
    ]


TRAINING = {
    "beta": [0.1, 0.12],
    "dimension": [0, 1],
    "objective": ["help", "harm"],
    "sign_harm": pl.Series([-1, 0], dtype=pl.Int8),
    "margin_pal": [0.5, -0.25],
}


def test_columns_for_trainers_of_several_objectives_are_carried(make, tmp_path):
    table = ONE.with_columns(pl.Series(name, values) for name, values in TRAINING.items())
    for layout in ("trl", "trl-implicit"):
        found = LAYOUTS[layout].view(table)
        assert set(TRAINING) <= set(found.columns)
        assert found.select(*TRAINING).equals(table.select(*TRAINING))
    version = make(table, publish={"test_fraction": 0}).version
    for file_format in FORMATS:
        out = tmp_path / file_format
        export(version, "trl", out, file_format)
        data = load(out, file_format, tmp_path / "cache")["train"].with_format("arrow")[:]
        assert sorted(data["sign_harm"].to_pylist()) == [-1, 0]
        assert sorted(data["dimension"].to_pylist()) == [0, 1]


def test_kto_has_two_rows_a_pair_the_chosen_first():
    found = LAYOUTS["kto"].view(ONE)
    assert [c[0]["content"] for c in found["completion"]] == ["c", "r", "d", "s"]
    assert found["label"].to_list() == [True, False, True, False]
    assert [p[0]["content"] for p in found["prompt"]] == ["p", "p", "q", "q"]
    empty = LAYOUTS["kto"].view(ONE.clear())
    assert empty.schema == found.schema
    assert empty.height == 0


def test_sft_is_the_chosen_conversation():
    found = LAYOUTS["sft"].view(ONE)
    assert found.schema["messages"] == MESSAGES
    assert found["messages"][1].to_list() == said(("user", "q"), ("assistant", "d"))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("layout", ["trl", "kto"])
def test_an_empty_split(make, tmp_path, layout, file_format):
    version = make(PAIRS, publish={"test_fraction": 0}).version
    out = tmp_path / "out"
    assert export(version, layout, out, file_format)["test"] == 0
    found = load(out, file_format, tmp_path / "cache")
    n = PAIRS.height * (2 if layout == "kto" else 1)
    assert {s: d.num_rows for s, d in found.items() if d.num_rows} == {"train": n}


def test_rows_are_exported_in_order_and_unchanged(version, tmp_path):
    for file_format in FORMATS:
        export(version, "trl", tmp_path / file_format, file_format)
    expected = pl.concat(version.batches("pairs", "train"))["pair_id"].to_list()
    folder = "data/train-00000-of-00001"
    lines = (tmp_path / "jsonl" / f"{folder}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [r["pair_id"] for r in rows] == expected
    parquet = pl.read_parquet(tmp_path / "parquet" / f"{folder}.parquet")
    assert parquet["pair_id"].to_list() == expected
    assert load_from_disk(str(tmp_path / "arrow"))["train"]["pair_id"][:] == expected
    assert rows[0]["chosen"] == parquet["chosen"][0].to_list()


def test_several_record_batches(make, tmp_path):
    version = make(many_pairs(2300), publish={"test_fraction": 0}).version
    for file_format in FORMATS:
        counts = export(version, "kto", tmp_path / file_format, file_format)
        assert counts == {"train": 4600, "test": 0}
    name = "data/train-00000-of-00001"
    assert len((tmp_path / "jsonl" / f"{name}.jsonl").read_bytes().splitlines()) == 4600
    assert pl.read_parquet(tmp_path / "parquet" / f"{name}.parquet").height == 4600
    assert load_from_disk(str(tmp_path / "arrow"))["train"].num_rows == 4600


def test_responses_of_a_version_without_pairs(make, tmp_path):
    version = make(responses(("p", "a"), ("q", "b")), publish={"test_fraction": 0}).version
    assert export(version, "responses", tmp_path / "out") == {"train": 2, "test": 0}
    with pytest.raises(CatalogError, match="has no pairs, which layout 'trl' needs"):
        export(version, "trl", tmp_path / "pairs")


# -- refusals -----


@pytest.mark.parametrize(
    ("layout", "file_format", "words"),
    [
        ("trll", "arrow", r"no layout 'trll'; did you mean 'trl'\? \(of trl, trl-implicit, kto"),
        ("trl", "csv", "no format 'csv'; choose one of arrow, parquet, jsonl"),
    ],
)
def test_unknown_names(version, tmp_path, layout, file_format, words):
    with pytest.raises(CatalogError, match=words):
        export(version, layout, tmp_path / "out", file_format)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_unless_it_is_empty(version, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(version, "sft", out)
    with pytest.raises(CatalogError, match="exists already; name another folder"):
        export(version, "sft", out)
    assert load_from_disk(str(out))["train"].column_names == COLUMNS["sft"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CatalogError, match="exists already"):
        export(version, "sft", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_is_all_or_nothing(version, tmp_path, monkeypatch, file_format):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "_card", stop)
    with pytest.raises(KeyboardInterrupt):
        export(version, "trl", tmp_path / "deep" / "out", file_format)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_version_whose_pairs_were_all_dropped_is_not_published(make):
    table = responses(("p", "a"), ("q", "b"))  # one answer each: no pair
    with pytest.raises(DataError, match=r"no row is left after tests.steps.BestWorst"):
        make(table, "tests.steps.Length", "tests.steps.BestWorst")
