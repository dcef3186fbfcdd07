"""What is said of a class that is no whole step, and of a hook that returns something else."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import polars as pl
import pytest

from prefactory import Context, Filter, Generated, Generator, Labeler, Shape, State, Step, verdict
from prefactory.apply import apply_filter, apply_generator, apply_labeler, fit, fit_shard
from prefactory.errors import ConfigError, DataError
from prefactory.recipe import find_step, load
from tests.helpers import SECTIONS, responses


def test_a_filter_without_keep_is_refused_when_it_is_defined():
    with pytest.raises(ConfigError, match=r"Empty \(test_contract.py, line \d+\) has no `keep\("):

        class Empty(Filter):
            pass


def test_a_misspelt_hook_is_named():
    with pytest.raises(ConfigError, match=r"`keep\(table, ctx\)`; is that what `keeep` should be"):

        class Misspelt(Filter):
            def keeep(self, table, ctx):
                return verdict(table)


def test_a_misspelt_optional_hook_is_named_and_a_private_method_is_not():
    with pytest.raises(ConfigError, match="a method `need`; should it be called `needs`"):

        class Needing(Filter):
            def need(self, shape):
                return {}

            def keep(self, table, ctx):
                return verdict(table)

    class Private(Filter):
        def _need(self, shape):
            return {}

        def keep(self, table, ctx):
            return verdict(table)


def test_a_dataset_step_needs_both_halves_of_its_fit():
    with pytest.raises(ConfigError) as error:

        class Half(Filter):
            scope = "dataset"

            def keep(self, table, ctx):
                return verdict(table)

    assert [p.split(") ", 1)[1] for p in error.value.problems] == [
        "has no `fit_shard(table, ctx)`",
        "has no `fit(parts, ctx)`",
    ]


def test_a_fit_without_the_scope_is_said():
    with pytest.raises(ConfigError, match="has scope 'row' and a `fit`"):

        class Lost(Filter):
            def fit(self, parts, ctx):
                return State()

            def keep(self, table, ctx):
                return verdict(table)


def test_a_wrong_scope_and_no_shapes_are_said_at_once():
    with pytest.raises(ConfigError) as error:

        class Odd(Filter):
            scope = "datset"
            shapes = ()

            def keep(self, table, ctx):
                return verdict(table)

    assert "'datset', which is none of" in str(error.value)
    assert "has no `shapes`" in str(error.value)


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
def test_a_class_attribute_written_as_a_field_is_said():
    with pytest.raises(ConfigError, match=r"write `scope: ClassVar = \.\.\.`"):

        class Field(Filter):
            scope: str = "dataset"

            def keep(self, table, ctx):
                return verdict(table)


def test_a_wrong_signature_and_a_wrong_annotation_are_said():
    with pytest.raises(ConfigError) as error:

        class Short(Filter):
            def keep(self, table) -> pl.Series:
                return table["prompt_id"]

    assert "it must take `keep(table, ctx)`" in str(error.value)
    assert "a `keep` that returns Series; it must return DataFrame" in str(error.value)


def test_an_annotation_that_only_a_type_checker_knows_is_left_alone():
    class Typed(Filter):
        def keep(self, table, ctx) -> Unknown:  # noqa: F821
            return verdict(table)

    assert Typed().version == 1


def test_labelers_name_their_columns_and_generators_their_parents():
    with pytest.raises(ConfigError, match=r"has no `adds\(shape\)`"):

        class Nameless(Labeler):
            def label(self, table, ctx):
                return table

    with pytest.raises(ConfigError, match="has no `parents`"):

        class Orphans(Generator):
            def generate(self, table, ctx):
                return Generated(table, table)


def test_a_step_is_of_one_kind():
    with pytest.raises(ConfigError, match="one of a Filter, a Labeler or a Generator"):

        class Bare(Step):
            pass


def test_a_base_of_steps_may_lack_its_hooks_and_is_no_step_of_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "base_steps.py").write_text(
        "from prefactory import Filter, verdict\n"
        "class Base(Filter, abstract=True):\n    most: int = 1\n"
        "class Whole(Base):\n    def keep(self, table, ctx):\n        return verdict(table)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_step("base_steps.Whole")(most=2).most == 2
    with pytest.raises(ConfigError, match=r"no step 'base_steps\.Base'"):
        find_step("base_steps.Base")


def test_check_names_the_recipes_line_and_every_fault(tmp_path):
    (tmp_path / "half_steps.py").write_text(
        "from prefactory import Filter\nclass Half(Filter):\n    scope = 'dataset'\n"
    )
    recipe = tmp_path / "half.yaml"
    recipe.write_text("name: x\nsource: {path: a}\nsteps:\n  - half_steps.Half\n")
    with pytest.raises(ConfigError) as error:
        load(Path(recipe), [], SECTIONS)
    assert len(error.value.problems) == 3
    assert all(p.startswith("half.yaml: line 4: ") for p in error.value.problems)
    assert ": half_steps.Half (half_steps.py, line 2) has no `keep(table, ctx)`" in str(error.value)


ROWS = responses(("q", "a"), ("p", "b"))


class Anything(Filter):
    """Returns what it is told to."""

    answers: ClassVar[list] = []

    def keep(self, table, ctx):
        return self.answers[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (pl.Series([True, False]), "Anything.keep returned a Series of Boolean; it must return a"),
        (None, "Anything.keep returned nothing; it must return a table with `reason`"),
        (ROWS.lazy(), "returned a LazyFrame"),
        (ROWS, "it must return a table with `reason`"),
        (ROWS.with_columns(reason=True, detail=pl.lit("")), "gives reasons of type Boolean"),
    ],
)
def test_a_wrong_answer_of_a_filter_is_one_sentence(answer, said, monkeypatch):
    monkeypatch.setattr(Anything, "answers", [answer])
    with pytest.raises(DataError) as error:
        apply_filter(Anything(), "x.Anything", ROWS, Shape.RESPONSES, Context())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


class Label(Labeler):
    def adds(self, shape):
        return {"score_x": pl.Float64()}

    def label(self, table, ctx):
        return table["prompt_id"]


class Make(Generator):
    parents: ClassVar = ("parent",)
    rows: bool = True

    def generate(self, table, ctx):
        return Generated(table, table) if self.rows else table


class Fit(Label):
    scope: ClassVar = "dataset"

    def fit_shard(self, table, ctx):
        return table.select(n=1)

    def fit(self, parts, ctx):
        return parts


def test_wrong_answers_of_other_hooks_are_sentences_too():
    with pytest.raises(DataError, match=r"x\.label returned a Series of String"):
        apply_labeler(Label(), "x", ROWS, Shape.RESPONSES, Context())
    with pytest.raises(DataError, match=r"x\.generate returned a DataFrame; it must return a `Gen"):
        apply_generator(Make(rows=False), "x", ROWS, Shape.RESPONSES, Context())
    with pytest.raises(DataError, match="without parent, row_id, reason, detail"):
        apply_generator(Make(), "x", ROWS, Shape.RESPONSES, Context())
    with pytest.raises(DataError, match="the first must be an id"):
        fit_shard(Fit(), "x", ROWS, Shape.RESPONSES, Context())
    with pytest.raises(DataError, match=r"x.fit returned a DataFrame; it must return a `State`"):
        fit(Fit(), "x", ROWS, Context())
