import json
from types import SimpleNamespace

import polars as pl
import pytest

from audit import audit, load
from audit.loading import _splits
from catalog.versions import Catalog
from prefactory.errors import CatalogError, DataError
from tests.audit.cases import NO_EMBEDDING


def write(path, n=20, start=0, **more):
    rows = [
        {"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}", **more}
        for i in range(start, start + n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def catalog(tmp_path):
    return Catalog(root=tmp_path / "versions")


def test_a_file_with_what_the_reader_left_out(tmp_path, catalog):
    path = write(tmp_path / "a.jsonl")
    with path.open("a") as file:
        file.write('{"prompt": "q", "chosen": "same", "rejected": "same"}\n{broken\n')
    found = load(str(path), catalog)
    assert found.table.height == 20
    assert found.intake.records == 22
    assert sorted(found.intake.rejected["reason"]) == ["equal_answers", "malformed"]
    assert found.intake.name == "a"
    assert found.intake.license is None
    report = audit(found.table, NO_EMBEDDING, found.intake).finding("identical")
    assert report.metrics["pairs"].value == pytest.approx(1 / 21)


def test_splits_of_a_folder_and_the_licence_of_its_card(tmp_path, catalog):
    write(tmp_path / "d" / "train.jsonl")
    write(tmp_path / "d" / "test.jsonl", 5, 15)
    (tmp_path / "d" / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n# d\n")
    found = load(str(tmp_path / "d"), catalog)
    assert found.table["split"].value_counts().sort("split").rows() == [("test", 5), ("train", 20)]
    assert found.intake.license == "mit, apache-2.0"
    aliases = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    for front in (
        f"a0: &a0 mit\n{aliases}license: *a11",
        "license: " + "[" * 9000,
        "license: {a: b}",
    ):
        (tmp_path / "d" / "README.md").write_text(f"---\n{front}\n---\n# d\n")
        assert load(str(tmp_path / "d"), catalog).intake.license is None, front[:60]
    leak = audit(found.table, NO_EMBEDDING, found.intake).finding("leakage")
    assert leak.metrics["prompts"].value == 1.0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.jsonl", "test.jsonl"], ["train", "test"]),
        (["data/train-00000-of-2.parquet", "data/dev-00000-of-2.parquet"], ["train", "dev"]),
        (["a_train.json", "a_eval.json"], ["train", "eval"]),
        (["train-0.json", "train-1.json"], []),
        (["train.json", "other.json"], []),
        (["training.json", "tested.json"], []),
    ],
)
def test_splits_by_file_name(names, expected):
    assert list(_splits(names).values()) == expected


def test_a_draw_keeps_prompts_together_and_is_seeded(tmp_path, catalog):
    rows = [
        {"prompt": f"q{i // 4}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(400)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    one, two, other = (load(str(path), catalog, rows=40, seed=s) for s in (0, 0, 1))
    assert one.table.height == 40
    assert one.table["prompt_id"].n_unique() == 10
    assert one.intake.total == 400
    assert one.table.sort("pair_id").equals(two.table.sort("pair_id"))
    assert set(one.table["pair_id"]) != set(other.table["pair_id"])
    path.write_text("".join(json.dumps(r) + "\n" for r in reversed(rows)))
    turned = load(str(path), catalog, rows=40)
    assert set(turned.table["pair_id"]) == set(one.table["pair_id"])
    assert load(str(path), catalog, rows=4000).table.height == 400


def test_what_can_not_be_audited(tmp_path, catalog):
    with pytest.raises(CatalogError, match="no dataset 'nothing'"):
        load("nothing", catalog)
    with pytest.raises(DataError, match="there is no such file"):
        load(str(tmp_path / "none.jsonl"), catalog)
    (tmp_path / "tied.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "a"}\n')
    with pytest.raises(DataError, match="holds no row to audit: equal_answers 1"):
        load(str(tmp_path / "tied.jsonl"), catalog)
    path = write(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"--table pairs: .* is no version"):
        load(str(path), catalog, table="pairs")


def test_a_version_has_no_such_table(tmp_path, catalog, monkeypatch):
    version = SimpleNamespace(
        ref="a@1", manifest=SimpleNamespace(tables={"pairs": SimpleNamespace(splits={})})
    )
    monkeypatch.setattr("audit.loading.version_of", lambda *_: version)
    with pytest.raises(DataError, match=r"a@1 has no table 'goal_pairs'; it has: pairs"):
        load("a", catalog, table="goal_pairs")


def test_the_order_of_files_changes_nothing(tmp_path, catalog):
    write(tmp_path / "x" / "a.jsonl", 10)
    write(tmp_path / "x" / "b.jsonl", 10, 10)
    write(tmp_path / "y" / "a.jsonl", 10, 10)
    write(tmp_path / "y" / "b.jsonl", 10)
    one, two = (load(str(tmp_path / d), catalog).table for d in "xy")
    columns = ["pair_id", "prompt_id"]
    assert one.select(columns).sort(columns).equals(two.select(columns).sort(columns))


def test_records_left_out_are_named_whatever_block_they_were_read_in():
    rows = [("a:1", "tie"), ("a:2", "empty_answer"), ("a:3", "empty_answer"), ("a:4", "tie")]
    blocks = [pl.DataFrame({"row_id": [i], "reason": [r], "detail": ["so"]}) for i, r in rows]
    from audit import Intake

    intake = Intake(rejected=pl.concat(blocks, rechunk=False))
    named = intake.named("empty_answer")
    assert named["row_id"].to_list() == ["a:2", "a:3"]
    assert named["note"][0] == "left out by the reader, empty_answer: so"
