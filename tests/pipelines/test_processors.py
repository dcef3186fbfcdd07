"""One digest on processors of another kind, as far as libraries can be told to see one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefactory.measures.test_portable import OLDEST

RECIPE = f"""
name: rated
seed: 7
source: {{path: {Path("examples/quickstart").absolute()}, layout: helpsteer2, name: quickstart}}
steps:
  - filters.Length: {{min_words: 2}}
  - filters.Quality: {{}}
  - filters.Damage: {{}}
  - filters.ExactDuplicates: {{on: row}}
  - filters.NearDuplicates: {{}}
  - labelers.R3: {{objectives: [length, repetition]}}
  - labelers.Normalise:
      {{objectives: [coherence], method: logistic, target: helpfulness, compare: pairs}}
  - labelers.Combine: {{name: overall, method: linear, weights: helpsteer2-70b}}
  - labelers.Combine:
      {{name: balanced, method: logsigmoid, weights: {{helpfulness: 1, correctness: 1}}}}
  - labelers.SteerWeights: {{name: steer, target: {{helpfulness: 4}}}}
  - labelers.Pairs: {{objective: overall, strategy: all, min_margin: 0.1, label_source: judge}}
  - labelers.DynamicBeta: {{objective: balanced}}
  - labelers.Signs: {{objectives: [overall, balanced]}}
  - filters.RandomSubsample: {{fraction: 0.7}}
"""


def digest(home, recipe, environment):
    home.mkdir()
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe)]
    told = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "PREFACTORY_HOME": str(home), **environment},
    )  # fmt: skip
    found = re.search(r"digest\s+([0-9a-f]{32})", told.stdout + told.stderr)
    assert found, told.stdout + told.stderr
    return found[1]


@pytest.mark.slow
def test_a_light_recipe_has_one_digest_on_every_processor(tmp_path):
    recipe = tmp_path / "rated.yaml"
    recipe.write_text(RECIPE)
    here = digest(tmp_path / "here", recipe, {})
    assert digest(tmp_path / "oldest", recipe, OLDEST) == here
