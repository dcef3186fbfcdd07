"""`prefactory steps | schema | init`, and help texts that lose nothing."""

import json
import re

import jsonschema
import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from catalog.sources import SourceSpec
from pipelines.cli.app import app
from pipelines.schema import recipe_schema
from pipelines.starter import starter
from pipelines.steps import describe, step_classes, step_page, type_text
from prefactory.errors import ConfigError
from prefactory.step import Filter
from tests.helpers import ROOT

CLASSES = step_classes()


def commands(group, name=()):
    inner = getattr(group, "commands", None)
    if not inner:
        return [(name, group)]
    return [pair for key in inner for pair in commands(inner[key], (*name, key))]


ALL = commands(typer.main.get_command(app))


@pytest.mark.parametrize("name", [n for n, _ in ALL], ids=" ".join)
def test_help_shows_every_text_whole(name):
    command = dict(ALL)[name]
    env = {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*name, "--help"], env=env)
    shown = re.sub(r"[\s\u2500-\u257f|]+", "", result.output)
    for param in command.params:
        text = re.sub(r"[\s|`]+", "", getattr(param, "help", None) or "")
        assert text in shown, param.name


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_step_has_a_page_with_all_fields_and_a_valid_example(name):
    page = describe(CLASSES[name])
    assert page.summary.endswith(".")
    assert [f.name for f in page.fields if not f.text] == []
    assert f"- {name}:" in page.example


def test_a_step_is_found_by_its_class_alone():
    assert step_page("ISA").name == "filters.ISA"
    with pytest.raises(ConfigError, match="did you mean 'ISA'"):
        step_page("ISAA")


def test_a_step_with_required_fields_needs_an_example():
    class Bare(Filter):
        """Nothing."""

        most: int

        def keep(self, table, ctx):
            return table

    with pytest.raises(ConfigError, match=r"has no example.*most"):
        describe(Bare)


def test_types_are_told_in_words():
    assert type_text(list[int] | None) == "list of integer or null"
    assert type_text(dict[str, float]) == "mapping of text to number"


@pytest.fixture(scope="module")
def validator():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def recipes():
    return sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", recipes(), ids=lambda p: p.stem)
def test_shipped_recipes_fit_the_schema(path, validator):
    assert list(validator.iter_errors(YAML(typ="safe", pure=True).load(path.read_text()))) == []


def test_the_schema_refuses_what_check_refuses(validator):
    good = {"name": "x", "source": "x.jsonl", "steps": [{"filters.Length": {"min_words": 2}}]}
    assert validator.is_valid(good)
    assert validator.is_valid({**good, "steps": [{"my_steps.NoUrls": {"most": 1}}]})
    assert not validator.is_valid({**good, "steps": [{"filters.Length": {"min_wrds": 2}}]})
    assert not validator.is_valid({**good, "steps": [{"filters.Lenght": {}}]})
    assert not validator.is_valid({**good, "sorce": "x"})


def run(*words, cwd=None):
    result = CliRunner().invoke(app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_steps_prints_a_list_one_step_and_json():
    assert "filters.NearDuplicates" in run("steps")
    text = run("steps", "Length")
    assert "min_words" in text
    assert "- filters.Length: {}" in text
    assert json.loads(run("steps", "filters.Length", "--json"))["scope"] == "row"


ROWS = {
    "pairs": {
        "prompt": "Why is the sky blue?",
        "chosen": "Rayleigh scattering.",
        "rejected": "No.",
    },
    "responses": {"prompt": "Why is the sky blue?", "response": "Rayleigh scattering does it."},
    "prompts": {"prompt": "Why is the sky blue?"},
}


@pytest.mark.parametrize("shape", ROWS)
def test_init_writes_a_recipe_that_checks(shape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My Data!.jsonl").write_text(json.dumps(ROWS[shape]) + "\n")
    text = starter(SourceSpec(path="My Data!.jsonl"), tmp_path / "recipe.yaml").text
    (tmp_path / "recipe.yaml").write_text(text)
    assert "name: my-data" in text
    assert "fine" in run("check", "recipe.yaml")


def test_init_does_not_overwrite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS["pairs"]) + "\n")
    assert "recipe.yaml written" in run("init", "a.jsonl")
    with pytest.raises(ConfigError, match="is there already"):
        run("init", "a.jsonl")
