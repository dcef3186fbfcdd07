"""A router finds who is better for which prompts, keeps to its budget, whatever stands beside."""

import json

import numpy as np
import polars as pl
import pytest

from labelers import Route
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.router import Router, price_of
from prefactory.tables import Shape
from prefactory.testing import prompts as prompt_table
from trainers import DatasetRef, train_router
from trainers.evaluate.models import scored
from trainers.router import games
from trainers.settings import Router as Settings

QUICK = {"l2": (0.1,), "vectors": False}


def pairs_of_models(make, n=240, seed=0):
    """`a` wins on source x, `b` on y, `c` never; one in twenty the other way round."""
    rng = np.random.default_rng(seed)
    found = make.polite_pairs(n, seed=seed)
    source = rng.choice(["x", "y"], found.height)
    best = np.where(source == "x", "a", "b")
    rest = np.where(rng.random(found.height) < 0.5, "c", np.where(source == "x", "b", "a"))
    turned = rng.random(found.height) < 0.05
    return found.with_columns(
        source=pl.Series(source),
        chosen_model=pl.Series(np.where(turned, rest, best)),
        rejected_model=pl.Series(np.where(turned, best, rest)),
    )


@pytest.fixture
def train(tmp_path, make):
    def run(train, test=None, out="router", **options):
        data = tmp_path / f"data-{out}"
        data.mkdir()
        ref = DatasetRef.from_path(make.publish(data, train, test))
        config = Settings(**{**QUICK, **options})
        return train_router(config, ref, tmp_path / out, make.hash_embed)

    return run


def test_who_is_better_for_which_prompts_is_found(train, make):
    report = train(pairs_of_models(make), pairs_of_models(make, seed=1), prompt=("source",))
    assert report.facts["accuracy"] > 0.9
    assert report.facts["accuracy"] > report.facts["accuracy of one order for all prompts"] + 0.15
    assert not report.notes
    router = Router.load(report.folder)
    assert router.candidates == ("a", "b", "c")
    about = pl.DataFrame({"source": ["x", "y"]})
    utilities = router.utilities(about, pl.Series(["", ""]), None)
    assert [router.candidates[k] for k in router.choose(utilities)] == ["a", "b"]
    assert utilities.sum(axis=1) == pytest.approx(0)
    again = train(pairs_of_models(make), pairs_of_models(make, seed=1), "again", prompt=("source",))
    for name in ("model.safetensors", "router.json"):
        assert (report.folder / name).read_bytes() == (again.folder / name).read_bytes()
    with pytest.raises(ConfigError, match=r"labelers\.Route chooses"):
        scored(str(report.folder), pairs_of_models(make), None, 8, 64)


def test_vectors_tell_what_no_column_does(train, make):
    table, test = (pairs_of_models(make, 300, s) for s in (0, 1))
    told = [
        t.with_columns(
            prompt=pl.concat_list(
                pl.struct(role=pl.lit("user"), content=pl.concat_str(pl.lit("about "), "source"))
            )
        )
        for t in (table, test)
    ]
    report = train(*told, vectors=True)
    assert report.facts["accuracy"] > 0.9
    blind = train(*told, out="blind")
    assert blind.facts["gain"] == 0
    assert "no better than one order" in blind.notes[0]


def test_a_budget_is_kept_to_and_more_of_it_is_never_worse(train, make):
    rng = np.random.default_rng(0)
    utilities, costs = rng.normal(size=(500, 3)), np.array([1.0, 10.0, 4.0])
    worth, spent = [], []
    for budget in (1.0, 2.0, 4.0, 9.0, 99.0):
        price = price_of(utilities, costs, budget)
        taken = (utilities - price * costs).argmax(axis=1)
        spent.append(float(costs[taken].mean()))
        worth.append(float(utilities[range(500), taken].mean()))
        assert spent[-1] <= budget + 1e-9
    assert worth == sorted(worth)
    assert spent[1] > 1.9, "and used"
    assert price_of(utilities, costs, 99) == 0
    with pytest.raises(ConfigError, match="the cheapest candidate costs 1"):
        price_of(utilities, costs, 0.5)
    options = {"prompt": ("source",), "costs": {"a": 1, "b": 10, "c": 2}, "budget": 3}
    table = pairs_of_models(make)
    report = train(table, pairs_of_models(make, seed=1), **options)
    router = Router.load(report.folder)
    assert router.price > 0
    own = router.choose(router.utilities(table, pl.Series([""] * table.height), None))
    assert router.costs[own].mean() <= 3
    cheap = router.choose(np.zeros((1, 3)))
    assert router.candidates[cheap[0]] == "a", "of equals, the cheaper one"


def test_rows_get_their_candidate_whatever_stands_beside_them(train, make):
    report = train(pairs_of_models(make), prompt=("source",), costs={"a": 3, "b": 2, "c": 1})
    assert "no held-out games" in report.notes[-1]
    rows = prompt_table("one", "two", "three").with_columns(source=pl.Series(["x", "y", "z"]))
    step = Route(model=report.folder)
    found = step.label(rows, Context())
    assert found["route"].to_list()[:2] == ["a", "b"]
    assert found["route_cost"].to_list()[:2] == [3, 2]
    assert found["route_gain"][0] > 0
    assert found.schema == step.adds(Shape.PROMPTS)
    assert step.label(rows[1:2], Context()).equals(found[1:2])
    assert step.label(rows.clear(), Context()).height == 0
    assert step.needs(Shape.PROMPTS) == {"source": pl.String()}
    assert Route(model=report.folder, max_cost=2).label(rows, Context())["route"][0] != "a"
    with pytest.raises(ConfigError, match="no candidate costs"):
        Route(model=report.folder, max_cost=0.5).label(rows, Context())
    with pytest.raises(ConfigError, match="train router"):
        Route(model="nowhere").identity()


def test_judges_play_for_who_is_right(make, tmp_path, train):
    table = make.polite_pairs(60).with_columns(label_source=pl.lit("human"))
    better = (table["chosen_id"] > table["rejected_id"]).cast(pl.Int32).to_list()
    votes = [
        [{"judge": 0, "answer": b}, {"judge": 1, "answer": 1 - b if i % 2 else b},
         {"judge": 2, "answer": None if i % 3 else -1}]
        for i, b in enumerate(better)
    ]  # fmt: skip
    kind = pl.List(pl.Struct({"judge": pl.Int32, "answer": pl.Int32}))
    table = table.with_columns(judge_votes=pl.Series(votes, dtype=kind))
    report = train(table, table, candidates="judges", judges=("good", "half", "lost"))
    router = Router.load(report.folder)
    assert router.candidates == ("good", "half", "lost")
    one = router.utilities(pl.DataFrame({"x": [1]}), pl.Series([""]), None)[0]
    assert one[0] > one[1] > one[2]
    ref = DatasetRef.from_path(make.publish(tmp_path / "v", table, table))
    found = games(Settings(candidates="judges"), ref, "train")
    assert found.filter((pl.col("better") == "0") & (pl.col("worse") == "1")).height == 30
    judged = table.with_columns(label_source=pl.lit("judge"))
    with pytest.raises(DataError, match="no games between two judges"):
        train(judged, candidates="judges", out="judged")


def test_costs_that_fit_nobody_and_missing_columns_are_said(train, make):
    table = pairs_of_models(make)
    with pytest.raises(ConfigError, match="costs name d, which plays no game"):
        train(table, costs={"d": 1}, out="1")
    with pytest.raises(ConfigError, match="needs the cost of every candidate; b has none"):
        train(table, costs={"a": 1}, budget=1, out="2")
    with pytest.raises(DataError, match="no column 'language'"):
        train(table, prompt=("language",), out="3")
    with pytest.raises(DataError, match="no games between two models"):
        train(table.with_columns(chosen_model=pl.lit("a"), rejected_model=pl.lit("a")), out="4")


def test_another_folder_is_no_router(tmp_path):
    with pytest.raises(ConfigError, match="holds no router"):
        Router.load(tmp_path)
    (tmp_path / "router.json").write_text(json.dumps({"format": 9, "model": "router"}))
    with pytest.raises(ConfigError, match="no router of format 1"):
        Router.load(tmp_path)
