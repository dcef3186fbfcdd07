import errno
import json
import os

import polars as pl
import pytest
from datasets import List, Value, load_from_disk

from catalog import publish as module
from catalog.publish import publish
from catalog.sources import SourceSpec, open_source
from catalog.versions import Catalog, open_folder, verify
from prefactory.errors import CatalogError, DataError
from prefactory.tables import Shape, canonical_order
from tests.helpers import (
    PAIRS,
    content,
    many_pairs,
    one_file,
    pairs,
    prompts,
    recipe,
    responses,
    run,
)

LIMIT = {"tests.steps.DropLong": {"limit": 20}}


def rows_of(version, table):
    splits = version.manifest.tables[table].splits
    return pl.concat([b for s in splits for b in version.batches(table, s)])


def arrow_bytes(version):
    return {
        p.relative_to(version.path).as_posix(): p.read_bytes()
        for p in sorted(version.path.rglob("*"))
        if p.is_file() and p.suffix in {".arrow", ".json"} and p.parent != version.path
    }


# -- what is published -----


def test_datasets_opens_pairs_and_responses(version):
    found = load_from_disk(str(version.path / "pairs"))
    assert set(found) == {"train", "test"}
    assert {s: d.num_rows for s, d in found.items()} == version.manifest.tables["pairs"].splits
    conversation = List({"role": Value("string"), "content": Value("string")})
    features = found["train"].features
    assert [features[c] for c in ("prompt", "chosen", "rejected")] == [conversation] * 3
    assert features["margin"] == Value("float64")
    assert features["flag"] == Value("bool")
    assert found["train"][0]["chosen"][0]["role"] == "assistant"
    answers = load_from_disk(str(version.path / "responses"))
    assert answers["train"].features["response"] == conversation
    assert answers["train"].features["score_h"] == Value("float64")
    assert sum(d.num_rows for d in answers.values()) == 120


def test_every_row_is_published_unchanged(version):
    table = many_pairs(60)
    found = canonical_order(rows_of(version, "pairs"), Shape.PAIRS).select(table.columns)
    assert found.equals(canonical_order(table, Shape.PAIRS))


def test_a_version_checks_itself(version):
    assert verify(version) == []
    assert open_folder(version.path) == version
    named = set(version.manifest.files)
    assert {"README.md", "croissant.json", "ledger.parquet", "recipe.yaml"} <= named
    croissant = json.loads((version.path / "croissant.json").read_text())
    assert [r["name"] for r in croissant["recordSet"]] == ["responses", "pairs"]


def test_the_ledger_is_published_in_the_order_of_the_stages(make):
    published = make(pl.concat([PAIRS, PAIRS.head(1)]), LIMIT)
    ledger = pl.read_parquet(published.version.path / "ledger.parquet")
    assert ledger.columns == ["row_id", "step", "reason", "detail"]
    reasons = ["duplicate_row", *["too_long"] * (ledger.height - 1)]
    assert ledger["reason"].to_list() == reasons
    assert published.version.manifest.ledger == {"rows": ledger.height}
    stages = published.version.manifest.stages
    assert [s.label for s in stages] == ["source", "tests.steps.DropLong"]
    assert stages[0].rows_in == PAIRS.height + 1
    assert stages[1].rows_out == PAIRS.height + 1 - ledger.height


@pytest.mark.parametrize("n", [5, 1203])
def test_files_are_byte_for_byte_the_same_for_every_cut(make, n):
    found = [
        make(many_pairs(n), "tests.steps.Rank", root=str(size), shard_rows=size).version
        for size in (max(1, n // 12), n // 2, 10_000)
    ]
    assert {v.manifest.content_digest for v in found} == {found[0].manifest.content_digest}
    first = arrow_bytes(found[0])
    assert len(first) == 2 * (2 * 3 + 1)
    for other in found[1:]:
        assert arrow_bytes(other) == first
    ledgers = [pl.read_parquet(v.path / "ledger.parquet") for v in found]
    assert all(ledger.equals(ledgers[0]) for ledger in ledgers)


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (prompts("a", "b"), ["prompts"]),
        (responses(("a", "x"), ("b", "y")), ["responses"]),
        (PAIRS, ["responses", "pairs"]),
    ],
)
def test_each_shape_is_published(make, table, names):
    version = make(table).version
    assert list(version.manifest.tables) == names
    assert verify(version) == []


def test_test_fraction_zero_gives_an_empty_test_split_that_loads(make):
    version = make(PAIRS, publish={"test_fraction": 0}).version
    found = load_from_disk(str(version.path / "pairs"))
    assert (found["train"].num_rows, found["test"].num_rows) == (PAIRS.height, 0)
    assert found["test"].features == found["train"].features
    assert verify(version) == []


TALE = "the old king had three sons and a garden of apple trees behind the tower by the sea and "
TALE += "every autumn he asked them to bring him the ripest fruit that they could find before dusk"


@pytest.mark.parametrize("together", [True, False])
def test_near_duplicate_prompts_are_on_one_side_in_all_tables(make, together):
    words = TALE.split()
    tales = [" ".join([*words[:i], "once", *words[i + 1 :]]) for i in range(0, 30, 2)]
    rows = [(p, f"good {i}", f"bad {i}") for i, p in enumerate(tales)]
    rows += [(f"question {i} of {7 * i}", f"good {i}", f"bad {i}") for i in range(120)]
    publishing = {"test_fraction": 0.5, "near_duplicates": together}
    step = {"filters.RandomSubsample": {"fraction": 0.9}}
    version = make(pairs(*rows), step, publish=publishing).version
    assert version.manifest.payload["publish"] == publishing
    for table in ("pairs", "responses"):
        sides = {
            split
            for split in version.manifest.tables[table].splits
            for batch in version.batches(table, split, ["prompt"])
            if any("apple trees" in text for text in content(batch, "prompt"))
        }
        assert len(sides) == (1 if together else 2)


def test_an_empty_result_is_refused_and_leaves_nothing(make, tmp_path):
    with pytest.raises(DataError, match=r"no row is left after tests.steps.DropLong"):
        make(PAIRS, {"tests.steps.DropLong": {"limit": 0}})
    assert not (tmp_path / "catalog").exists()


def test_a_margin_on_some_rows_is_refused(make, tmp_path):
    for size in (1, 1000):
        table = pairs(("p", "c", "r"), ("q", "c", "r"), margin=[1.0, None])
        with pytest.raises(DataError, match="'margin' is null on some"):
            make(table, shard_rows=size)
        assert list((tmp_path / "catalog").iterdir()) == []


def test_the_report_sees_the_manifest_and_is_listed(make):
    published = make(PAIRS, report=lambda folder: open_folder(folder).manifest.name)
    assert (published.version.path / "report.html").read_text() == "tiny"
    assert "report.html" in published.version.manifest.files
    assert verify(published.version) == []


# -- versions are immutable -----


def test_the_same_content_is_published_once(make):
    first, second = make(PAIRS), make(PAIRS, shard_rows=2)
    assert (first.new, second.new) == (True, False)
    assert second.version == first.version
    # another recipe with the same outcome is the same content
    assert not make(PAIRS, {"tests.steps.DropLong": {"limit": 999}}).new


def test_versions_are_dates_with_a_counter(make, tmp_path):
    tables = [PAIRS.head(n) for n in (5, 6, 7)]
    found = [make(table).version.manifest.version for table in tables]
    assert found == [found[0], f"{found[0]}.1", f"{found[0]}.2"]
    assert len(found[0].split(".")) == 3
    catalog = Catalog(root=tmp_path / "catalog")
    assert [v.manifest.version for v in catalog.versions("tiny")] == found
    assert make(tables[0]).version.manifest.version == found[0]


def test_an_explicit_version(make):
    first = make(PAIRS, LIMIT, version="v1")
    assert (first.new, first.version.ref) == (True, "tiny@v1")
    assert not make(PAIRS, LIMIT, version="v1").new
    assert make(PAIRS, LIMIT, version="v2").new  # the same content under another name


@pytest.mark.parametrize(
    ("steps", "head", "change"),
    [
        (
            [{"tests.steps.DropLong": {"limit": 12}}],
            {},
            "step tests.steps.DropLong: fields.limit: 20 -> 12",
        ),
        ([LIMIT], {"seed": 4}, "seed: 0 -> 4"),
        ([LIMIT], {"publish": {"test_fraction": 0.5}}, "publish.test_fraction: 0.1 -> 0.5"),
        ([], {}, "step tests.steps.DropLong: only in the old recipe"),
    ],
)
def test_a_version_of_another_recipe_is_refused(make, steps, head, change, tmp_path):
    first = make(PAIRS, LIMIT, version="v1").version
    with pytest.raises(
        CatalogError, match="tiny@v1 exists and was made by another recipe"
    ) as error:
        make(PAIRS, *steps, version="v1", **head)
    assert change in str(error.value)
    assert "give the recipe a new `version`" in str(error.value)
    assert verify(first) == []
    assert [p.name for p in (tmp_path / "catalog").iterdir()] == ["tiny"]


def test_other_content_of_the_same_recipe_is_refused(tmp_path):
    """A step that was changed without a new `version` number: only the digest tells."""
    catalog, same = Catalog(root=tmp_path / "catalog"), recipe(version="v1")
    for i, table in enumerate((PAIRS, PAIRS.head(3))):
        source = one_file(table)
        source.identity = lambda: {"name": "memory"}
        result = run(same, source, tmp_path / str(i))
        if i == 0:
            publish(result, catalog)
    with pytest.raises(CatalogError, match=r"tiny@v1 exists with other content .* same recipe"):
        publish(result, catalog)


def test_one_name_in_two_catalogs(make):
    first, second = make(PAIRS), make(PAIRS, root="elsewhere")
    assert second.new
    assert first.version.manifest == second.version.manifest


# -- interruptions -----


@pytest.mark.parametrize(
    "call", ["_write_tables", "_write_ledger", "card", "croissant", "_write_manifest", "_move"]
)
def test_an_interrupted_publish_leaves_no_version(make, monkeypatch, tmp_path, call):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, call, stop)
        with pytest.raises(KeyboardInterrupt):
            make(PAIRS)
    catalog = Catalog(root=tmp_path / "catalog")
    assert catalog.versions("tiny") == []
    assert list(catalog.root.iterdir()) == []
    assert make(PAIRS).new
    assert [verify(v) for v in catalog.versions("tiny")] == [[]]


def test_what_a_killed_publish_leaves_is_no_version(make, tmp_path):
    junk = tmp_path / "catalog" / ".tiny-killed"
    junk.mkdir(parents=True)
    (junk / "manifest.json").write_text("{}")
    make(PAIRS)
    assert Catalog(root=tmp_path / "catalog").names() == ["tiny"]


def test_a_version_that_appears_meanwhile_is_not_overwritten(make, tmp_path):
    other = tmp_path / "catalog" / "tiny" / "v1"
    other.mkdir(parents=True)
    (other / "theirs").write_text("x")
    with pytest.raises(CatalogError, match="appeared while this run was publishing"):
        make(PAIRS, version="v1")
    assert (other / "theirs").read_text() == "x"


def test_a_full_disk_at_the_last_step_is_no_version_that_appeared(make, monkeypatch):
    def full(folder, final):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "settle", full)
    with pytest.raises(OSError, match="No space left"):
        make(PAIRS, version="v1")


# -- odd rows -----

ODD = ["", "🙂👩‍👩‍👧", "שלום \u202eabc", "\x00\x1b\x7f", "\u2028\u2029", "b" * 1_000_000, "e\u0301"]


def test_odd_texts_are_published_and_verified(make):
    table = pairs(*[(t, f"c{t}", t) for t in ODD])
    version = make(table, "tests.steps.Length", shard_rows=2).version
    assert verify(version) == []
    loaded = load_from_disk(str(version.path / "pairs"))
    found = {r["prompt"][0]["content"] for split in loaded.values() for r in split}
    assert found == set(ODD)


def test_lone_surrogates_of_a_file_are_mended_and_noted(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text(
        '{"prompt": "half \\ud83d", "chosen": "\\udc00 c", "rejected": "r"}\n'
        '{"prompt": "whole \\ud83d\\ude42", "chosen": "c", "rejected": "r"}\n'
    )
    source = open_source(SourceSpec(path=str(path)), tmp_path)
    result = run(recipe("tests.steps.Length"), source, tmp_path / "store")
    version = publish(result, Catalog(root=tmp_path / "catalog")).version
    assert verify(version) == []
    assert version.manifest.stages[0].notes == {"lone_surrogate": 1}
    found = content(rows_of(version, "pairs"), "prompt")
    assert sorted(found) == ["half \ufffd", "whole 🙂"]


def test_a_run_can_be_published_twice_from_one_result(tmp_path):
    result = run(recipe(), one_file(PAIRS), tmp_path / "store")
    catalog = Catalog(root=tmp_path / "catalog")
    assert [publish(result, catalog).new for _ in range(2)] == [True, False]
