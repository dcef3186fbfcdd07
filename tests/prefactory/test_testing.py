"""`check_step` finds what is wrong with a step, and says which invariant it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import polars as pl
import pytest

from prefactory import Filter, Generated, Generator, Labeler, Shape, verdict
from prefactory.step import FittedFilter, State
from prefactory.step.exchange import Exchanged, of_digests
from prefactory.tables import digests, text_of, with_ids
from prefactory.testing import (
    apply_step,
    broken_invariants,
    check_step,
    example,
    pairs,
    responses,
    texts,
    turned,
)
from tests.helpers import ROOT
from tests.steps import Above, BestWorst, Coin, DropLong, Echo, Noise, Rank, Shout


def named(step, table=None):
    """The invariants that a step breaks."""
    return {text.split(": ")[1] for text in broken_invariants(step, table)}


class Scored(Labeler, abstract=True):
    def adds(self, shape):
        return {"score_x": pl.Float64()}


class Counting(Scored):
    """Numbers rows: depends on the order and the shard."""

    def label(self, table, ctx):
        return table.select(score_x=pl.int_range(pl.len()).cast(pl.Float64))


class Centred(Scored):
    """Takes the mean of its shard away."""

    def label(self, table, ctx):
        chars = text_of(pl.col("response")).str.len_chars().cast(pl.Float64)
        return table.select(score_x=chars - chars.mean())


class Greedy(Scored):
    """Reads a column that it does not name."""

    def label(self, table, ctx):
        return table.select(score_x=pl.col("hidden").cast(pl.Float64))


class Indexing(Scored):
    """Takes the first word and the first row for granted."""

    def label(self, table, ctx):
        first = [len(t.split()[0]) for t in texts(table, "response")]
        return pl.DataFrame({"score_x": [float(n) for n in first]}, schema=self.adds(None))


class Random(Scored):
    """Draws from nowhere."""

    drawn: ClassVar[list] = []

    def label(self, table, ctx):
        self.drawn.append(1)
        return table.select(score_x=float(len(self.drawn)))[[0] * table.height]


class Nulls(Filter):
    """Can't compare nulls."""

    def needs(self, shape):
        return {"score_x": pl.Float64()}

    def keep(self, table, ctx):
        goes = pl.Series([score > 2 for score in table["score_x"].to_list()], dtype=pl.Boolean)
        return verdict(table, (pl.lit(goes), "low", pl.lit("")))


class Turn(Generator):
    """Turns all pairs, and forgets their scores."""

    shapes: ClassVar = (Shape.PAIRS,)
    parents: ClassVar = ("parent",)
    scores: bool = True

    def needs(self, shape):
        return {"chosen_score_x": pl.Float64(), "rejected_score_x": pl.Float64()}

    def adds(self, shape):
        return {"parent": pl.String()}

    def generate(self, table, ctx):
        rows = turned(table)
        if not self.scores:
            rows = rows.with_columns(table.select("^.*_score_x$").get_columns())
        lost = pl.DataFrame(schema=dict.fromkeys(("row_id", "reason", "detail"), pl.String))
        return Generated(rows.with_columns(parent=table["pair_id"]), lost)


def test_whole_steps_pass():
    for step in (
        DropLong(),
        Coin(),
        Above(),
        Rank(),
        Noise(),
        Echo(),
        Shout(),
        BestWorst(),
        Turn(),
    ):
        check_step(step)


def test_each_fault_is_named():
    assert {"order", "shards"} <= named(Counting())
    assert "shards" in named(Centred())
    assert "determinism" in named(Random())
    assert "empty text" in named(Indexing())
    assert named(Nulls()) == {"some nulls", "all nulls"}
    assert named(Turn(scores=False)) == {"turning"}


def test_a_column_that_is_read_must_be_named():
    table = example(Shape.RESPONSES).with_columns(hidden=1)
    (text,) = broken_invariants(Greedy(), table)
    assert "needs: without the columns that `needs` does not name it fails: ColumnNotF" in text


def test_a_fault_is_one_sentence_with_row_and_values():
    (text,) = [t for t in broken_invariants(Centred()) if ": shards: " in t]
    how = r"applied to shards of one response each, its rows differ: row \d+: score_x is"
    assert re.search(how, text)
    with pytest.raises(AssertionError, match="Centred: shards"):
        check_step(Centred())
    check_step(Centred(), skip=("shards", "order", "empty shard"))
    with pytest.raises(ValueError, match="no invariant 'shard'"):
        check_step(Centred(), skip=("shard",))


def test_a_step_on_responses_finds_its_columns_on_pairs():
    class Long(Scored):
        def needs(self, shape):
            return {"limit": pl.Int64()}

        def label(self, table, ctx):
            return table.select(score_x=pl.col("limit").cast(pl.Float64))

    table = pairs(("q", "a", "b"), chosen_limit=[3], rejected_limit=[4])
    found = apply_step(Long(), table).rows
    assert found.select("chosen_score_x", "rejected_score_x").row(0) == (3.0, 4.0)


def test_turning_twice_is_the_identity():
    table = with_ids(pairs(("q", "a", "b"), chosen_score_x=[1.0], rejected_score_x=[2.0]), "pairs")
    once = turned(table)
    assert texts(once, "chosen") == ["b"]
    assert once["chosen_score_x"].to_list() == [2.0]
    assert once["pair_id"][0] != table["pair_id"][0]
    assert turned(once).select(table.columns).equals(table)


def test_apply_step_keeps_accounts():
    table = responses(("q", "short"), ("q", "much too long for it"))
    found = apply_step(DropLong(limit=10), table)
    assert texts(found.rows, "response") == ["short"]
    assert set(found.reasons.values()) == {"too_long"}


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    """The step and its test in docs/writing-a-step.md, as they are printed."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/writing-a-step.md").read_text(), re.S)
    for block in blocks:
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, "each Python block says which file it is"
        Path(tmp_path / name[1]).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    test = {}
    exec(compile((tmp_path / "test_my_steps.py").read_text(), "test_my_steps.py", "exec"), test)
    checks = [value for name, value in test.items() if name.startswith("test_")]
    assert checks
    for check in checks:
        check()


class Firsts(Exchanged, FittedFilter):
    """Keeps the first row of what it is fitted to, by keys that do not hold it together."""

    shapes: ClassVar = (Shape.PAIRS,)

    def fit_shard(self, table, ctx):
        return table.select("pair_id")

    def keys(self, parts, ctx):
        return of_digests(digests(parts["pair_id"]))

    def fit(self, parts, ctx):
        gone = parts.sort("pair_id")[1:]
        gone = gone.with_columns(reason=pl.lit("later"), detail=pl.lit(""))
        return State({"dropped": gone}, {"gone": gone.height})


def test_ranges_must_decide_what_all_rows_decide():
    table = pairs(*[(f"q{i}", "a", "b") for i in range(12)])
    found = [t for t in broken_invariants(Firsts(), table) if ": ranges: " in t]
    assert len(found) == 2
    assert "its table 'dropped' differs" in found[0]
    assert "its facts differ" in found[1]
