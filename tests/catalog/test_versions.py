import shutil
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.versions import (
    Catalog,
    ContentDigest,
    Version,
    content_digest,
    manifest_digest,
    open_folder,
    verify,
    version_key,
)
from prefactory.errors import CatalogError
from tests.helpers import PAIRS, many_pairs


@pytest.fixture
def copy(version, tmp_path):
    """A copy of the version whose files a test may change."""
    shutil.copytree(version.path, tmp_path / "copy")
    return open_folder(tmp_path / "copy")


def pairs_file(copy):
    return copy.path / "pairs" / "train" / "data-00000-of-00001.arrow"


# -- verify -----


def test_a_changed_byte(copy):
    path = pairs_file(copy)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    name = path.relative_to(copy.path).as_posix()
    assert verify(copy) == [f"{name}: its sha256 does not match"]


def test_a_truncated_file(copy):
    path = pairs_file(copy)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-8])
    name = path.relative_to(copy.path).as_posix()
    assert verify(copy) == [f"{name}: {size - 8} bytes, not {size}"]


@pytest.mark.parametrize("name", ["README.md", "ledger.parquet", "pairs/test/state.json"])
def test_a_missing_file(copy, name):
    (copy.path / name).unlink()
    assert verify(copy) == [f"{name}: missing"]


def test_an_extra_file(copy):
    (copy.path / "pairs" / "notes.txt").write_text("")
    assert verify(copy) == ["pairs/notes.txt: not in the manifest"]


def test_a_changed_ledger(copy):
    path = copy.path / "ledger.parquet"
    row = dict.fromkeys(("row_id", "step", "reason", "detail"), "x")
    pl.concat([pl.read_parquet(path), pl.DataFrame([row])]).write_parquet(path)
    (problem,) = verify(copy)
    assert problem.startswith("ledger.parquet: ")


def test_several_changes_are_all_told(copy):
    (copy.path / "README.md").unlink()
    (copy.path / "extra").write_text("")
    assert len(verify(copy)) == 2


def told(manifest):
    """A manifest with digests that fit what it says now."""
    update = {"content_digest": content_digest(manifest.tables), "digest": ""}
    manifest = manifest.model_copy(update=update)
    return manifest.model_copy(update={"digest": manifest_digest(manifest)})


def test_a_manifest_that_lies_about_the_content(copy):
    def lie(**update):
        tables = copy.manifest.tables
        pairs = {**tables, "pairs": tables["pairs"].model_copy(update=update)}
        return Version(copy.path, told(copy.manifest.model_copy(update={"tables": pairs})))

    assert verify(lie(digest="0" * 32)) == ["pairs: the content does not match its digest"]
    (problem,) = verify(
        lie(splits={"train": 1, "test": copy.manifest.tables["pairs"].splits["test"]})
    )
    assert problem.endswith("rows, the manifest says 1")


@pytest.mark.parametrize(
    ("field", "value"), [("license", "mit"), ("seed", 99), ("content_digest", "0" * 32)]
)
def test_a_manifest_that_was_edited(copy, field, value):
    edited = Version(copy.path, copy.manifest.model_copy(update={field: value}))
    assert "manifest.json: it was changed after publishing" in verify(edited)


# -- reading -----


def test_a_table_as_a_dataset_and_as_a_lazy_frame(version):
    for split in ("train", "test"):
        rows = pl.concat(version.batches("pairs", split))
        assert version.pairs(split)["pair_id"][:] == rows["pair_id"].to_list()
        assert version.frame("pairs", split).collect().equals(rows)
    assert version.responses()["response_id"][:]
    lazy = version.frame()
    first = version.pairs()["pair_id"][0]
    assert lazy.select("split", "margin").collect().equals(lazy.collect().select("split", "margin"))
    assert lazy.filter(pair_id=first).select("split").collect().rows() == [("train",)]
    assert lazy.head(3).collect().equals(lazy.collect().head(3))
    assert lazy.select("split").head(2).collect().height == 2
    assert lazy.select(pl.len()).collect().item() == sum(
        version.manifest.tables["pairs"].splits.values()
    )


def test_what_a_version_lacks_is_said_with_what_it_has(version):
    with pytest.raises(CatalogError, match=r"has no table 'goal_pairs'; it has: .*pairs"):
        version.frame("goal_pairs")
    with pytest.raises(CatalogError, match="no split 'dev'; it has: train, test"):
        version.pairs("dev")
    with pytest.raises(CatalogError, match="no split 'dev'"):
        list(version.batches("pairs", "dev"))


def test_ledger_report_and_a_look_in_a_notebook(version):
    assert version.ledger().columns == ["row_id", "step", "reason", "detail"]
    assert Path(version.report) == version.path / "report.html"
    shown = version._repr_html_()
    assert version.ref in shown
    assert version.manifest.content_digest in shown


def test_texts_of_others_are_escaped_in_a_notebook(copy):
    (copy.path / "report.html").write_text('<p>"x"</p>')
    assert 'srcdoc="&lt;p&gt;&#34;x&#34;&lt;/p&gt;"' in copy.report._repr_html_()
    stage = copy.manifest.stages[0].model_copy(update={"reasons": {"<script>": 1}})
    evil = Version(copy.path, copy.manifest.model_copy(update={"stages": [stage]}))
    assert "<script>" not in evil._repr_html_()


def test_a_catalog_is_listed_and_asked_by_name(make, tmp_path):
    catalog = Catalog(root=tmp_path / "catalog")
    old, new = make(PAIRS.head(3), version="1.2").version, make(PAIRS, version="1.10").version
    assert [v.ref for v in catalog] == ["tiny@1.2", "tiny@1.10"]
    assert (catalog["tiny"], catalog["tiny@1.2"]) == (new, old)
    assert "tiny@1.10" in catalog._repr_html_()
    assert Catalog(tmp_path).root == tmp_path / "versions"


# -- content digest -----


@given(st.lists(st.integers(0, 20), max_size=4))
def test_the_digest_does_not_depend_on_the_pieces_or_column_order(cuts):
    table = many_pairs(20)
    whole, pieces = ContentDigest(), ContentDigest()
    whole.update(table)
    edges = [0, *sorted(cuts), 20]
    for start, stop in pairwise(edges):
        pieces.update(table[start:stop].select(reversed(table.columns)))
    assert pieces.hexdigest() == whole.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.reverse(),
        lambda t: t.head(3),
        lambda t: t.with_columns(margin=pl.col("margin") + 1e-9),
        lambda t: t.with_columns(chosen_score_h=pl.col("chosen_score_h").fill_null(0)),
        lambda t: t.with_columns(extra=pl.lit(None, dtype=pl.String)),
        lambda t: t.rename({"flag": "mark"}),
        lambda t: t.with_columns(chosen="rejected", rejected="chosen"),
    ],
)
def test_the_digest_sees_every_change(change):
    def digest(table):
        found = ContentDigest()
        found.update(table)
        return found.hexdigest()

    table = many_pairs(4)
    assert digest(change(table)) != digest(table)


# -- the catalog -----


def test_open_by_name_version_and_folder(make, tmp_path):
    catalog = Catalog(root=tmp_path / "catalog")
    old, new = make(PAIRS.head(3), version="1.2").version, make(PAIRS, version="1.10").version
    assert catalog.names() == ["tiny"]
    assert catalog.get("tiny") == new  # 1.10 comes after 1.2
    assert catalog.get("tiny@1.2") == old
    assert catalog.get(str(old.path)) == old


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("tinny", "no dataset 'tinny' in .*; did you mean 'tiny'?"),
        ("zzz", "no dataset 'zzz' in .*; there are: tiny"),
        ("tiny@v9", "tiny has no version 'v9'; it has: v1"),
        ("UPPER", "'UPPER' is not a dataset name"),
        ("", "'' is not a dataset name"),
        ("../catalog", "is no dataset version"),
        ("./nowhere", "is no dataset version: it has no manifest.json"),
    ],
)
def test_what_is_not_there(make, tmp_path, ref, words):
    make(PAIRS, version="v1")
    with pytest.raises(CatalogError, match=words):
        Catalog(root=tmp_path / "catalog").get(ref)


def test_an_empty_catalog(tmp_path):
    catalog = Catalog(root=tmp_path / "no")
    assert catalog.names() == []
    with pytest.raises(CatalogError, match="the catalog is empty"):
        catalog.get("tiny")
    assert not catalog.root.exists()


def test_a_damaged_manifest(copy):
    for text in ("", "{", "[]", '{"name": "x"}'):
        (copy.path / "manifest.json").write_text(text)
        with pytest.raises(CatalogError, match="is damaged"):
            open_folder(copy.path)


def test_versions_are_ordered_as_numbers():
    names = [
        "1.10",
        "1.9",
        "1",
        "1.9.1",
        "v.2",
        "v.10",
        "2026.01.02",
        "2026.01.02.10",
        "2026.01.02.9",
    ]
    assert sorted(names, key=version_key) == [
        "1",
        "1.9",
        "1.9.1",
        "1.10",
        "2026.01.02",
        "2026.01.02.9",
        "2026.01.02.10",
        "v.2",
        "v.10",
    ]
