"""RESPONSES -> Combine -> Pairs -> RewardAugmented through a real run, at any shard size."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from labelers import Combine, Margin, Pairs, RewardAugmented
from labelers.pairs.reward_augmented import revert
from prefactory.errors import ConfigError
from prefactory.recipe import Head, Placed, Recipe
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from prefactory.tables import MESSAGES, Shape, with_ids


@dataclass(frozen=True)
class File:
    name: str


@dataclass(frozen=True)
class Block:
    rows: pl.DataFrame
    rejected: pl.DataFrame
    notes: pl.DataFrame
    n_records: int


class InMemory:
    """A source of one table, cut into files of four rows."""

    shape = Shape.RESPONSES

    def __init__(self, table):
        self.table = table
        self.schema = dict(table.schema)
        self.files = [File(f"{i:03d}") for i in range(0, table.height, 4)]

    def identity(self):
        return {"name": "memory"}

    def read(self, file, block_rows=1):
        nothing = pl.DataFrame(
            schema={"row_id": pl.String, "reason": pl.String, "detail": pl.String}
        )
        rows = self.table.slice(int(file.name), 4)
        yield Block(rows, nothing, nothing, rows.height)


def answers():
    """Six prompts with two to four answers; scores are multiples of a quarter, some null."""
    rows = [
        (f"question {p}", f"answer {p}.{a}", float(p * 7 % 5 + a), (p * 3 + a * 5) % 9 / 4)
        for p in range(6)
        for a in range(2 + p % 3)
    ]
    question, answer, x, y = zip(*rows, strict=True)
    table = pl.DataFrame(
        {
            "prompt": pl.Series(
                [[{"role": "user", "content": q}] for q in question], dtype=MESSAGES
            ),
            "source": ["memory"] * len(rows),
            "source_id": [str(i) for i in range(len(rows))],
            "response": pl.Series(
                [[{"role": "assistant", "content": a}] for a in answer], dtype=MESSAGES
            ),
            "model": ["m"] * len(rows),
            "origin": ["rule"] * len(rows),
            "score_x": [None if i == 4 else s for i, s in enumerate(x)],
            "score_y": y,
        }
    )
    return with_ids(table, Shape.RESPONSES)


def run(folder, steps, shard_rows, workers=2):
    placed = tuple(Placed(f"labelers.{type(s).__name__}", s, i) for i, s in enumerate(steps))
    recipe = Recipe(Head(name="chain", seed=3), (), placed, (), Path("chain.yaml"), {}, {})
    options = Options(workers=workers, shard_rows=shard_rows)
    return execute(recipe, [InMemory(answers())], Store(folder), thread_mapper(workers), options)


def table(result, shape):
    return pl.concat([t for t in result.views[shape].tables() if t.height])


def dropped(result, label):
    (stage,) = [s for s in result.stages if s.label == label]
    tables = [result.store.read(key, name) for key, name in stage.ledgers]
    return pl.concat(tables).sort("row_id", "reason")


@pytest.mark.parametrize(
    ("combine", "relabel"),
    [
        pytest.param(
            {"method": "linear", "normalise": "zscore"},
            {"rescale": "quantile"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"method": "logsigmoid"}, {"scale": (-9, 0), "min_gap": 0.05}, marks=pytest.mark.slow
        ),
        ({"method": "logsigmoid", "reference": "dataset"}, {"rescale": "quantile", "half": True}),
    ],
)
def test_tables_are_the_same_at_any_shard_size(tmp_path, combine, relabel):
    steps = [
        Combine(name="all", weights={"x": 1, "y": 0.3}, **combine),
        Pairs(objective="all", strategy="all"),
        RewardAugmented(objective="all", **relabel),
    ]
    runs = [run(tmp_path / str(n), steps, n) for n in (1, 3, 1000)]
    pairs, responses = (table(runs[-1], s) for s in ("goal_pairs", Shape.RESPONSES))
    assert pairs.height > 10
    assert pairs["pair_id"].n_unique() == pairs.height
    assert pairs.columns[-5:] == [
        "source_label_source",
        "source_pair_id",
        "source_margin",
        "goal",
        "goal_kind",
    ]
    ids = pl.concat([pairs["chosen_id"], pairs["rejected_id"]])
    assert ids.is_in(responses["response_id"].implode()).all()
    assert responses["score_all"].null_count() == 1
    back = revert(pairs)
    assert (back["margin"] == back["chosen_score_all"] - back["rejected_score_all"]).all()
    for result in runs[:-1]:
        assert table(result, "goal_pairs").equals(pairs)
        assert table(result, Shape.PAIRS).equals(table(runs[-1], Shape.PAIRS))
        assert table(result, Shape.RESPONSES).equals(responses)
        assert [dict(s.info) for s in result.stages[1:]] == [
            dict(s.info) for s in runs[-1].stages[1:]
        ]
        for label in ("labelers.Pairs", "labelers.RewardAugmented"):
            assert dropped(result, label).equals(dropped(runs[-1], label))


def test_an_unknown_objective_is_found_before_the_run(tmp_path):
    steps = [
        Combine(name="all", weights={"x": 1, "z": 1}),
        Pairs(objective="al"),
        Margin(objective="all"),
    ]
    with pytest.raises(ConfigError) as error:
        run(tmp_path, steps, 10)
    assert ["labelers." + p.split("labelers.")[1].split(",")[0] for p in error.value.problems] == [
        "labelers.Combine needs column 'score_z'",
        "labelers.Pairs needs column 'score_al'",
        "labelers.Margin adds column 'margin'",
    ]


def test_combining_after_relabelling_is_refused(tmp_path):
    steps = [
        Pairs(objective="y"),
        RewardAugmented(objective="y", rescale="quantile"),
        Combine(name="all", weights={"y": 1}),
    ]
    with pytest.raises(ConfigError, match=r"put it before labelers.RewardAugmented"):
        run(tmp_path, steps, 1000)
