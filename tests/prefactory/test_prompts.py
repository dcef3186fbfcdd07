"""Prompt texts: defaults from files, replaced by a recipe, rendered in a sandbox."""

from typing import ClassVar

import polars as pl
import pytest
from pydantic import Field

from prefactory.engines.configs import AnyEngine
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError
from prefactory.prompts import Prompted, Text
from prefactory.recipe import parse
from prefactory.step import Labeler
from tests.helpers import SECTIONS, recipe


class Ask(Prompted, Labeler):
    templates: ClassVar = {"question": Text("Is {{ answer }} good?", ("answer",))}

    judges: tuple[AnyEngine, ...] = ()
    by_name: dict[str, AnyEngine] = Field(default_factory=dict)

    def adds(self, shape):
        return {"score_x": pl.Float64()}

    def label(self, table, ctx):
        return table.select(score_x=1.0)


NAME = f"{__name__}.Ask"


def test_texts_are_rendered_with_values_never_as_templates():
    assert Ask().render("question", answer="{{ 7 * 7 }}") == "Is {{ 7 * 7 }} good?"


def test_a_replaced_text_is_another_step_and_stands_in_the_identity(tmp_path):
    file = tmp_path / "mine.j2"
    file.write_text("Grade {{ answer }}.")
    mine = Ask(prompts={"question": f"@{file}"})
    assert mine.render("question", answer="a") == "Grade a."
    assert mine.identity()["prompts"] == {"question": "Grade {{ answer }}."}
    assert mine.fingerprint() != Ask().fingerprint()
    assert mine.fingerprint() == Ask(prompts={"question": "Grade {{ answer }}."}).fingerprint()


def test_a_file_beside_the_recipe_comes_before_one_in_the_working_folder(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "both.j2").write_text(f"{folder.name}: {{{{ answer }}}}")
    (here / "only.j2").write_text("only here")
    monkeypatch.chdir(here)

    def text(name):
        data = {"name": "t", "source": {"path": "x"}}
        data["steps"] = [{NAME: {"prompts": {"question": f"@{name}"}}}]
        step = parse(data, there / "r.yaml", [], SECTIONS).steps[0].step
        return step.texts()["question"]

    assert text("both.j2") == "there: {{ answer }}"
    assert text("only.j2") == "only here"
    assert Ask(prompts={"question": "@both.j2"}).texts()["question"] == "here: {{ answer }}"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"qestion": "x"}, "no prompt text 'qestion' .*did you mean 'question'"),
        ({"question": "{{ anser }}"}, "uses 'anser', but is given answer.*did you mean 'answer'"),
        ({"question": "{% if %}"}, "question.*[Ee]xpected"),
        ({"question": "{{ answer | nofilter }}"}, "question.*No filter named 'nofilter'"),
        ({"question": " "}, "'question' is empty"),
        ({"question": "@no/such.j2"}, "no/such.j2 can't be read"),
    ],
)
def test_mistakes_are_found_with_the_recipe(prompts, message):
    with pytest.raises(ConfigError, match=message):
        recipe({NAME: {"prompts": prompts}})


@pytest.mark.parametrize(
    "attack",
    [
        "{{ answer.__class__.__mro__ }}",
        "{{ answer.__init__.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ answer.missing }}",
        "{{ 1 / 0 }}",
        "{{ answer * 10**15 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_the_sandbox_holds(attack):
    with pytest.raises(ConfigError, match=r"Ask\.prompts\.question"):
        Ask(prompts={"question": attack}).render("question", answer="a")


def test_engines_in_lists_and_mappings_belong_to_the_address():
    one, two = Scripted(model="a", answers=["x"]), Scripted(model="b", answers=["x"])
    assert Ask(judges=(one,), by_name={"two": two}).engines() == [one.identity(), two.identity()]
