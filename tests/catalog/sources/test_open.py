"""Opening: paths of every kind, identity, mapping, detection, and errors that say what to do."""

import json
import pickle

import datasets
import fsspec
import orjson
import polars as pl
import pytest
from pydantic import ValidationError

from catalog.sources import SourceSpec, open_source, peek
from prefactory.errors import DataError
from prefactory.identity import canonical_json, fingerprint
from prefactory.tables import Shape

PAIR = {"prompt": "q", "chosen": "1", "rejected": "2"}


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(orjson.dumps(r) for r in records) + b"\n")


def pairs(n, start=0):
    return [{**PAIR, "prompt": f"q{i}"} for i in range(start, start + n)]


def rows_of(source):
    return pl.concat([b.rows for f in source.files for b in source.read(f)])


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "mine"
    write(data / "b.jsonl", pairs(2))
    write(data / "sub" / "a.jsonl", pairs(3, 2))
    write(data / ".hidden" / "c.jsonl", pairs(1, 9))
    (data / "README.md").write_text("words")
    return data


def test_folder_glob_and_relative_paths(folder):
    source = open_source(SourceSpec(path="mine"), base=folder.parent)
    assert [f.name for f in source.files] == ["b.jsonl", "sub/a.jsonl"]
    assert rows_of(source)["source_id"].to_list()[-1] == "sub/a.jsonl:3"
    assert set(rows_of(source)["source"]) == {"mine"}
    globbed = open_source(SourceSpec(path=f"{folder}/**/*.jsonl"))
    assert [f.name for f in globbed.files] == ["b.jsonl", "sub/a.jsonl"]
    assert globbed.identity() == source.identity()


def test_identity_is_of_content_not_of_place(folder, tmp_path):
    one = open_source(SourceSpec(path=str(folder)))
    canonical_json(one.identity())
    assert str(tmp_path) not in json.dumps(one.identity())
    moved = tmp_path / "else" / "mine"
    moved.parent.mkdir()
    before = one.identity()
    folder.rename(moved)
    two = open_source(SourceSpec(path=str(moved), license="mit"))
    assert fingerprint(two.identity()) == fingerprint(before)
    assert len(two.identity()["files"][0]["sha256"]) == 64
    three = open_source(SourceSpec(path="mine"), base=moved.parent)
    assert two.identity() == three.identity()
    two.files.reverse()
    assert two.identity() == three.identity()
    write(moved / "b.jsonl", pairs(2, 50))
    assert open_source(SourceSpec(path=str(moved))).identity() != three.identity()
    limited = open_source(SourceSpec(path=str(moved), limit=1))
    assert limited.identity()["limit"] == 1
    assert rows_of(limited).height == 2


def test_remote_filesystem():
    with fsspec.open("memory://bucket/x.jsonl", "wb") as file:
        file.write(orjson.dumps(PAIR))
    source = open_source(SourceSpec(path="memory://bucket/x.jsonl"))
    assert source.files[0].url.startswith("memory://")
    assert "checksum" in source.identity()["files"][0]
    assert rows_of(source).height == 1
    assert open_source(SourceSpec(path="memory://bucket")).identity()["name"] == "bucket"


def test_saved_datasets(tmp_path):
    data = datasets.DatasetDict(
        train=datasets.Dataset.from_list(pairs(5)), test=datasets.Dataset.from_list(pairs(2, 7))
    )
    data.save_to_disk(tmp_path / "both", num_shards={"train": 2, "test": 1})
    data["train"].save_to_disk(tmp_path / "one")
    both = open_source(SourceSpec(path=str(tmp_path / "both")))
    assert [f.name for f in both.files] == [
        "test/data-00000-of-00001.arrow",
        "train/data-00000-of-00002.arrow",
        "train/data-00001-of-00002.arrow",
    ]
    assert rows_of(both).height == 7
    test = open_source(SourceSpec(path=str(tmp_path / "both"), split="test"))
    assert rows_of(test).height == 2
    assert rows_of(open_source(SourceSpec(path=str(tmp_path / "one")))).height == 5
    with pytest.raises(DataError, match="no split 'dev'; its splits: test, train"):
        open_source(SourceSpec(path=str(tmp_path / "both"), split="dev"))


def test_a_published_version_says_which_table(tmp_path):
    version = tmp_path / "set" / "v1"
    table = rows_of(_source(tmp_path, pairs(3)))
    for name in ("pairs", "responses"):
        datasets.Dataset.from_list(table.to_dicts()).save_to_disk(version / name)
    (version / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="config: pairs"):
        open_source(SourceSpec(path=str(version)))
    source = open_source(SourceSpec(path=str(version), config="pairs"))
    assert source.layout == "prefactory"
    assert rows_of(source)["pair_id"].to_list() == table["pair_id"].to_list()


def _source(tmp_path, records, **spec):
    write(tmp_path / "data.jsonl", records)
    return open_source(SourceSpec(path=str(tmp_path / "data.jsonl"), **spec))


def test_splits_of_a_folder_of_files(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        pl.DataFrame(pairs(2)).write_parquet(tmp_path / f"{name}.parquet")
    source = open_source(SourceSpec(path=str(tmp_path), split="train"))
    assert len(source.files) == 2
    with pytest.raises(DataError, match="no data file of split 'dev'"):
        open_source(SourceSpec(path=str(tmp_path), split="dev"))


class _Info:
    sha = "abc123"


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def load_dataset(path, name=None, split=None, revision=None, streaming=False):
        calls.append((path, name, split, revision, streaming))
        made = {
            s: datasets.Dataset.from_list(r).to_iterable_dataset()
            for s, r in {"train": pairs(5), "test": pairs(2, 7)}.items()
        }
        return made[split] if split else datasets.IterableDatasetDict(made)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda self, repo, revision=None: _Info()
    )
    return calls


@pytest.mark.parametrize("path", ["hf://datasets/owner/name", "owner/name"])
def test_hub(hub, path, tmp_path):
    source = open_source(SourceSpec(path=path, config="default"), base=tmp_path)
    assert [f.name for f in source.files] == ["test", "train"]
    rows = pl.concat([b.rows for f in source.files for b in source.read(f, block_rows=2)])
    assert rows["source_id"].to_list() == [
        "test:1",
        "test:2",
        *[f"train:{i}" for i in range(1, 6)],
    ]
    assert set(rows["source"]) == {"name"}
    assert source.identity()["hub"] == {
        "dataset": "owner/name",
        "config": "default",
        "commit": "abc123",
    }
    assert all(call[3:] == ("abc123", True) and call[1] == "default" for call in hub)
    one = open_source(SourceSpec(path=path, split="test", limit=1), base=tmp_path)
    assert rows_of(one).height == 1


def test_hub_out_of_reach(monkeypatch):
    def fail(self, repo, revision=None):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(DataError, match=r"'owner/name' can't be opened: no route; download it"):
        open_source(SourceSpec(path="hf://datasets/owner/name"))


def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(SourceSpec(path="data/none.jsonl"), base=tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(SourceSpec(path="/nowhere"))
    with pytest.raises(DataError, match="no data file"):
        open_source(SourceSpec(path=str(tmp_path)))
    with pytest.raises(DataError, match="no data file"):
        open_source(SourceSpec(path=f"{tmp_path}/*.jsonl"))
    with pytest.raises(DataError, match="can't be opened"):
        open_source(SourceSpec(path="nosuch://bucket/x.jsonl"))


def test_mapping(tmp_path):
    record = {
        "ask": "q",
        "good": "1",
        "bad": "2",
        "meta": {"s": [3, 1], "by": "m"},
        "gap": 0.5,
        "topic": "art",
        "n": 4,
    }
    source = _source(
        tmp_path,
        [record, {**record, "gap": None}],
        mapping={
            "prompt": "ask",
            "chosen": "good",
            "rejected": "bad",
            "chosen_model": "meta.by",
            "chosen_score_x": "meta.s.0",
            "rejected_score_x": "meta.s.1",
            "margin": "gap",
            "topic": "topic",
            "count": "n",
        },
        name="named",
        label_source="judge",
    )
    block = next(source.read(source.files[0]))
    row = block.rows.row(0, named=True)
    assert source.layout == "pairs-text"
    assert list(source.schema)[-5:] == [
        "chosen_score_x",
        "rejected_score_x",
        "margin",
        "topic",
        "count",
    ]
    assert (row["chosen_model"], row["chosen_score_x"], row["margin"]) == ("m", 3.0, 0.5)
    assert (row["topic"], row["count"], row["source"]) == ("art", 4, "named")
    assert row["label_source"] == "judge"
    assert block.rejected["reason"].to_list() == ["missing_label"]
    assert source.identity()["mapping"]["margin"] == "gap"


def test_mapping_of_responses_and_columns_with_dots(tmp_path):
    source = _source(
        tmp_path,
        [{"in.put": "q", "out": "a", "kind": "human", "who": "w"}],
        mapping={"prompt": "in.put", "response": "out", "origin": "kind", "model": "who"},
    )
    row = rows_of(source).row(0, named=True)
    assert source.shape == Shape.RESPONSES
    assert (row["origin"], row["model"], row["prompt"][0]["content"]) == ("human", "w", "q")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"mapping": {"prompt": "nope"}},
            r"no column 'nope' \(for prompt\); its columns are prompt",
        ),
        ({"mapping": {"pair_id": "prompt"}}, "'pair_id' can't be mapped"),
        ({"layout": "pears"}, "no layout 'pears'; did you mean pairs"),
        ({"layout": "kto"}, "can't be read with layout 'kto': no column for score_label"),
    ],
)
def test_errors_of_mapping_and_layout(tmp_path, spec, message):
    records = [{"prompt": "q", "completion": "a"} if spec.get("layout") == "kto" else PAIR]
    with pytest.raises(DataError, match=message):
        _source(tmp_path, records, **spec)


def test_unknown_layouts_name_columns_and_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"columns are prompt, better, worse;.* nearest: .*mapping"):
        _source(tmp_path, [{"prompt": ["x"], "better": "1", "worse": "2"}])
    with pytest.raises(DataError, match="is empty: it holds no record"):
        _source(tmp_path, [])
    (tmp_path / "bad.jsonl").write_text("{\n{\n")
    with pytest.raises(DataError, match="the first problem: unexpected end of data"):
        open_source(SourceSpec(path=str(tmp_path / "bad.jsonl")))


def test_a_table_with_answers_is_not_taken_for_prompts(tmp_path):
    with pytest.raises(DataError, match=r"prompts .*if you name it"):
        _source(tmp_path, [{"prompt": "q", "prediction": "a"}])
    assert _source(tmp_path, [{"prompt": "q", "prediction": "a"}], layout="prompts").files


def test_spec_refuses_unknown_keys_and_label_sources():
    with pytest.raises(ValidationError):
        SourceSpec(path="x", layuot="hh")
    with pytest.raises(ValidationError):
        SourceSpec(path="x", label_source="robot")


def test_peek_counts_everything(tmp_path):
    write(tmp_path / "data.jsonl", [*pairs(4), {**PAIR, "chosen": "2"}, {"prompt": "q"}])
    looked = peek(SourceSpec(path=str(tmp_path / "data.jsonl")), n=2)
    assert (looked.layout, looked.shape) == ("pairs-text", Shape.PAIRS)
    assert (looked.n_records, looked.n_rows, looked.rows.height) == (6, 4, 2)
    assert looked.rejected == {"equal_answers": 1, "missing_field": 1}
    assert looked.notes == {}


def test_a_file_of_another_layout_in_a_folder_is_named(tmp_path):
    write(tmp_path / "mix" / "a.jsonl", pairs(2))
    write(tmp_path / "mix" / "b.jsonl", [{"instruction": "x", "output": "y"}])
    with pytest.raises(DataError, match=r"b.jsonl is of another form .* needs chosen, prompt"):
        peek(SourceSpec(path=str(tmp_path / "mix")))
    assert peek(SourceSpec(path=str(tmp_path / "mix/a*"))).n_rows == 2


def test_an_open_source_travels_to_another_process(tmp_path):
    source = _source(tmp_path, pairs(3))
    again = pickle.loads(pickle.dumps(source))
    assert rows_of(again).equals(rows_of(source))
    assert again.identity() == source.identity()


def test_questions_named_in_the_mapping(tmp_path):
    write(tmp_path / "asked" / "q.jsonl", [{"question_id": "x", "turns": ["u"]}])
    write(tmp_path / "a" / "b" / "m.jsonl", [{"question_id": "x", "model_id": "m", "turns": ["t"]}])
    spec = {"path": "a/b/m.jsonl", "mapping": {"questions": "asked/q.jsonl"}}
    source = open_source(SourceSpec(**spec), base=tmp_path)
    assert rows_of(source)["prompt"].to_list() == [[{"role": "user", "content": "u"}]]
    with pytest.raises(DataError, match=r"mapping: \{questions"):
        open_source(SourceSpec(path="a/b/m.jsonl"), base=tmp_path)
    write(tmp_path / "a" / "b" / "question_1.jsonl", [{"question_id": "x", "turns": ["u"]}])
    write(tmp_path / "a" / "b" / "question_2.jsonl", [{"question_id": "x", "turns": ["v"]}])
    with pytest.raises(DataError, match="another question x"):
        open_source(SourceSpec(path="a/b/m.jsonl"), base=tmp_path)
