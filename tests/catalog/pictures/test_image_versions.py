"""Pictures from a source through a run into a version, its exports, and back."""

import json

import polars as pl
import pytest
from datasets import Image, List, load_dataset, load_from_disk

from catalog.layouts import LAYOUTS, export
from catalog.publish import publish
from catalog.sources import SourceSpec, open_source
from catalog.versions import Catalog, verify
from prefactory.images.marks import IMAGES
from tests.helpers import ledger_of, recipe, run
from tests.prefactory.images.drawn import bytes_of, square

COLOURS = ("red", "blue", "green", "yellow", "black", "white")
PICTURES = {colour: square(colour, 12) for colour in COLOURS}
RED, BLUE = PICTURES["red"], PICTURES["blue"]


def written(folder, rows):
    """A parquet file of (prompt, chosen, rejected, pictures)."""
    columns = dict(zip(("prompt", "chosen", "rejected", "_"), zip(*rows, strict=True), strict=True))
    images = [[{"bytes": b, "path": None} for b in row] for row in columns.pop("_")]
    frame = pl.DataFrame(columns).with_columns(images=pl.Series(images, dtype=IMAGES))
    frame.write_parquet(folder / "rows.parquet")
    return open_source(SourceSpec(path=str(folder / "rows.parquet")))


ROWS = [
    *[("What colour is it?", f"It is {c}.", "No colour.", [PICTURES[c]]) for c in COLOURS],
    *[("Name another.", f"{c} it is.", "None.", [PICTURES[c]]) for c in COLOURS],
    ("Compare <image> with <image>.", "The first is red.", "The first is blue.", [RED, BLUE]),
    ("And without any picture?", "Then there is none.", "Red.", []),
]


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictured")
    result = run(recipe("filters.ExactDuplicates"), written(folder, ROWS), folder / "store", 5)
    return publish(result, Catalog(root=folder / "catalog")).version


def rows_of(version, table="pairs"):
    parts = [b for s in version.manifest.tables[table].splits for b in version.batches(table, s)]
    return pl.concat(parts)


def test_pictures_reach_the_version_and_stand_once_in_the_store(pictured):
    table = rows_of(pictured)
    assert sorted(map(sorted, bytes_of(table))) == sorted(sorted(r[3]) for r in ROWS)
    files = [p for p in (pictured.path.parents[2] / "store" / "images").rglob("*") if p.is_file()]
    assert sorted(p.read_bytes() for p in files) == sorted(PICTURES.values())
    both = table.filter(pl.col("images").list.len() == 2)
    assert both["prompt"][0][0]["content"] == "Compare <image> with <image>."
    assert bytes_of(both) == [[RED, BLUE]]
    assert verify(pictured) == []


def test_published_tables_are_images_of_datasets(pictured):
    for table in ("pairs", "responses"):
        data = load_from_disk(str(pictured.path / table))["train"]
        assert data.features["images"] == List(Image())
        shown = next(row for row in data if row["images"])
        assert shown["images"][0].size == (12, 12)


def test_the_card_says_that_there_are_pictures(pictured):
    card = (pictured.path / "README.md").read_text()
    assert "image-text-to-text" in card
    assert "`images` holds the pictures of a prompt" in card
    croissant = json.loads((pictured.path / "croissant.json").read_text())
    kinds = {f["name"]: f["dataType"] for r in croissant["recordSet"] for f in r["field"]}
    assert kinds["images"] == "sc:ImageObject"


def test_neither_shards_nor_workers_change_a_byte(tmp_path, pictured):
    digests = set()
    for rows, workers in ((1000, 1), (2, 3)):
        source = written(tmp_path, ROWS)
        result = run(recipe(), source, tmp_path / f"store{rows}", rows, workers)
        version = publish(result, Catalog(root=tmp_path / f"catalog{rows}")).version
        files = version.manifest.files
        sums = sorted(f["sha256"] for name, f in files.items() if name.endswith(".arrow"))
        digests.add((version.manifest.content_digest, *sums))
    assert len(digests) == 1


def test_a_version_is_read_again_as_it_is(pictured, tmp_path):
    source = open_source(SourceSpec(path=str(pictured.path), config="pairs"))
    result = run(recipe(), source, tmp_path / "store")
    version = publish(result, Catalog(root=tmp_path / "catalog")).version
    assert version.manifest.tables["pairs"].digest == pictured.manifest.tables["pairs"].digest


def test_a_picture_changes_the_content_digest(tmp_path):
    digests = []
    for name, data in (("a", RED), ("b", BLUE)):
        (tmp_path / name).mkdir()
        source = written(tmp_path / name, [("It?", "Yes.", "No.", [data])])
        result = run(recipe(publish={"test_fraction": 0}), source, tmp_path / name / "store")
        version = publish(result, Catalog(root=tmp_path / name / "catalog")).version
        digests.append(version.manifest.content_digest)
    assert digests[0] != digests[1]


def test_opposite_answers_to_other_pictures_are_no_contradiction(tmp_path):
    green = PICTURES["green"]
    yes, no = ("Red?", "Yes.", "No."), ("Red?", "No.", "Yes.")
    rows = [(*yes, [RED]), (*no, [BLUE]), (*yes, [green]), (*no, [green])]
    result = run(recipe("filters.ExactDuplicates"), written(tmp_path, rows), tmp_path / "store")
    assert ledger_of(result)["reason"].to_list() == ["contradiction"] * 2
    assert result.views["pairs"].shards[0].rows == 2


@pytest.mark.parametrize(
    "layout", sorted(LAYOUTS.keys() - {"stepwise"})
)  # it reads labels of steps
@pytest.mark.parametrize("file_format", ["arrow", "parquet", "jsonl"])
def test_each_export_loads_with_its_pictures(pictured, tmp_path, layout, file_format):
    out = tmp_path / "out"
    counts = export(pictured, layout, out, file_format)
    arrow = file_format == "arrow"
    data = (
        load_from_disk(str(out)) if arrow else load_dataset(str(out), cache_dir=str(tmp_path / "c"))
    )
    assert {s: d.num_rows for s, d in data.items() if d.num_rows} == {
        s: n for s, n in counts.items() if n
    }
    for rows in data.values():
        assert rows.features["images"] == List(Image())
        for row in rows:
            talk = next(row[c] for c in ("prompt", "messages", "chosen") if c in row)
            content = talk[0]["content"]
            if layout == "responses":
                assert content.count("<image>") == len(row["images"])
                continue
            kinds = [part["type"] for part in content]
            assert kinds.count("image") == len(row["images"])
            assert "<image>" not in str(talk)
            if len(row["images"]) == 2:
                assert [p["text"] for p in content] == ["Compare ", None, " with ", None, "."]
    if file_format == "jsonl":
        files = list((out / "data" / "train" / "images").iterdir())
        assert len(files) == len({f.read_bytes() for f in files})


def test_text_only_exports_stay_as_they_are(version, tmp_path):
    export(version, "trl", tmp_path / "out", "jsonl")
    (file, *_) = sorted((tmp_path / "out" / "data").glob("*.jsonl"))
    row = json.loads(file.read_text().splitlines()[0])
    assert isinstance(row["prompt"][0]["content"], str)
    assert "images" not in row
