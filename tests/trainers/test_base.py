import subprocess
import sys

import polars as pl
import pytest

from prefactory.errors import CatalogError, DataError
from trainers.base import DatasetRef, margins_of, table


def test_reference_reads_the_manifest(version):
    ref = DatasetRef.from_path(version)
    assert str(ref) == "made@1"
    assert len(ref.digest) == 32
    assert ref.licenses() == ["CC0-1.0"]
    assert (len(ref.pairs("train")), len(ref.pairs("test"))) == (24, 9)


def test_a_folder_that_is_no_version_is_refused(tmp_path):
    with pytest.raises(CatalogError, match="not a dataset version"):
        DatasetRef.from_path(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "x"}')
    with pytest.raises(CatalogError, match="lacks version, content_digest"):
        DatasetRef.from_path(tmp_path)


def test_unknown_split_is_refused(version):
    with pytest.raises(CatalogError, match=r"no split 'dev'; it has \['test', 'train'\]"):
        DatasetRef.from_path(version).pairs("dev")


def test_without_a_test_split_a_tenth_of_the_prompts_is_held_out(tmp_path, make):
    pairs = make.polite_pairs(500)
    ref = DatasetRef.from_path(make.publish(tmp_path, pl.concat([pairs, pairs.reverse()])))
    train, test = (set(ref.pairs(s)["prompt_id"]) for s in ("train", "test"))
    assert not train & test
    assert len(train | test) == 500
    assert 30 < len(test) < 75
    assert len(ref.pairs("train")) == 2 * len(train)


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
