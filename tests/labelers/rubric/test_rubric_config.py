"""Mistakes in the recipe of a rubric judge, each with a sentence that says what to do."""

import pytest

from labelers.rubric.step import Rubric
from prefactory.context import Context
from prefactory.errors import ConfigError
from tests.helpers import recipe, responses

HELPFUL = {"name": "helpful"}
HONEST = {"name": "honest", "scale": (0, 10)}
KIND = {"id": "kind", "text": "Be kind."}
JUDGE = {"engine": "scripted", "answers": ["x"]}

WRONG = [
    ({}, "name one of"),
    ({"attributes": [HELPFUL], "criteria": [KIND]}, "name one of"),
    ({"attributes": [HELPFUL, HELPFUL]}, "helpful is there twice"),
    ({"attributes": [HELPFUL], "samples": 3}, "set sampling.temperature"),
    ({"attributes": [HELPFUL], "min_samples": 3}, "min_samples"),
    ({"attributes": [HELPFUL], "scale": (1, 5)}, "scale is for rubric"),
    ({"attributes": [HELPFUL], "keep_critique": True}, "keep_critique"),
    ({"attributes": [HELPFUL, HONEST], "combined": True}, "different scales"),
    ({"attributes": [HELPFUL], "combined": True, "name": "helpful"}, "is an attribute"),
    ({"attributes": [{"name": "x", "scale": (5, 1)}]}, "5 is not below 1"),
    ({"attributes": [{"name": "x", "scale": (0, 0.5)}]}, "whole: false"),
    ({"attributes": [{"name": "x", "levels": {9: "?"}}]}, "9 is not from 1 to 5"),
    ({"attributes": [{"name": "ratings"}]}, "is taken"),
    ({"attributes": [{"name": "x y"}]}, "pattern"),
    ({"criteria": [{"id": "a"}]}, "text"),
    ({"criteria": "no/such/file.yaml"}, "no/such/file.yaml can't be read"),
    ({"criteria": 7}, "expected a list of criteria"),
    ({"criteria": [{**KIND, "weight": 0}]}, "greater than 0"),
    ({"rubric": "own", "combined": False}, "only score"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_mistakes_are_found_with_the_recipe(fields, message):
    with pytest.raises(ConfigError, match=message):
        recipe({"labelers.Rubric": {"judge": JUDGE, **fields}})


def test_a_broken_file_and_a_run_without_engines(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("- [")
    with pytest.raises(ValueError, match=r"broken\.yaml is no YAML"):
        Rubric(judge=JUDGE, criteria=str(file))
    with pytest.raises(ConfigError, match="opens none"):
        Rubric(judge=JUDGE, attributes=[HELPFUL]).label(responses(("q", "a")), Context())
