import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from catalog.versions import open_folder
from prefactory.errors import CatalogError, DataError
from trainers.base import DatasetRef, margins_of, table
from trainers.transformer import save


def test_reference_reads_the_manifest(version):
    ref = DatasetRef.from_path(version)
    assert str(ref) == "made@1"
    assert len(ref.digest) == 32
    assert ref.version.licenses() == ["CC0-1.0"]
    assert (len(ref.pairs("train")), len(ref.pairs("test"))) == (24, 9)


def test_a_folder_that_is_no_version_is_refused(tmp_path):
    with pytest.raises(CatalogError, match="no dataset version"):
        DatasetRef.from_path(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "x"}')
    with pytest.raises(CatalogError, match="is damaged"):
        DatasetRef.from_path(tmp_path)


def test_an_unknown_table_or_split_is_refused(version):
    with pytest.raises(CatalogError, match="no split 'dev'; it has: train, test"):
        DatasetRef.from_path(version).pairs("dev")
    with pytest.raises(CatalogError, match="made@1 has no table 'goal_pairs'; it has: pairs"):
        DatasetRef(open_folder(version), "goal_pairs").pairs("train")


def test_an_empty_test_split_stays_empty(tmp_path, make):
    pairs = make.polite_pairs(20)
    ref = DatasetRef.from_path(make.publish(tmp_path, pairs, pairs.clear()))
    assert len(ref.pairs("train")) == 20
    assert table(ref.pairs("test")).height == 0


def test_margins_must_be_on_every_row(version):
    ref = DatasetRef.from_path(version)
    for bad, message in [
        (pl.DataFrame({"a": [1]}), "no margin column"),
        (pl.DataFrame({"margin": [1.0, None]}), "pairs without one"),
        (pl.DataFrame({"margin": [1.0, -1.0]}), ">= 0"),
        (pl.DataFrame({"margin": [1.0, float("nan")]}), "finite"),
    ]:
        with pytest.raises(DataError, match=message):
            margins_of(bad, ref, "use_margin")
    assert margins_of(pl.DataFrame({"margin": [0.0, 2.0]}), ref, "x").to_list() == [0.0, 2.0]


def test_the_package_and_the_settings_load_nothing_heavy():
    code = (
        "import sys, trainers; from trainers import DPO, Reward, Lora; DPO(model='x');"
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists():
    import trainers

    assert all(getattr(trainers, name) is not None for name in trainers.__all__)


class Adapter:
    """Saves as peft does: what it keeps as a set, in the order of this process's hashes."""

    def __init__(self, targets):
        self.targets = targets

    def save_model(self, folder):
        facts = {"target_modules": self.targets, "r": 8, "exclude_modules": None}
        (Path(folder) / "adapter_config.json").write_text(json.dumps(facts))
        (Path(folder) / "training_args.bin").write_bytes(b"a pickle")


def test_an_adapter_is_the_same_bytes_whatever_the_hashes_of_the_process(tmp_path):
    told = []
    for name, targets in (("a", ["v", "o", "q"]), ("b", ["q", "v", "o"])):
        (tmp_path / name).mkdir()
        save(Adapter(targets), tmp_path / name)
        told.append((tmp_path / name / "adapter_config.json").read_bytes())
        assert [p.name for p in (tmp_path / name).iterdir()] == ["adapter_config.json"]
    assert told[0] == told[1]
    assert json.loads(told[0]) == {
        "exclude_modules": None, "r": 8, "target_modules": ["o", "q", "v"]
    }  # fmt: skip
