"""What every selector must hold: budgets, ties, order, shards, threads, groups, tokens, ledger."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

import filters
from filters.selection.selector import CHOICES
from filters.selection.subsample import Budgeted
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.identity import fingerprint
from prefactory.tables import ROW_ID, Shape, shape_of
from tests.helpers import ledger_of, one_file, pairs, prompts, recipe, responses, run, view

ROOT = Path(__file__).parents[3]
SCORES = {"order": "high", "objectives": ("a", "b")}
ALL = {
    "DOptimal": {},
    "DOptimal scored": {"score": "a"},
    "EnsembleUncertainty": SCORES,
    "EnsembleUncertainty heads": {"order": "mid", "heads": 3, "measure": "entropy"},
    "MarginSelection": {"order": "low", "objectives": ("a",)},
    "MarginSelection dual": {**SCORES, "random_share": 0.3},
    "KCenter": {},
    "KCenter difference": {"on": "difference"},
    "FacilityLocation": {},
    "FacilityLocation neighbours": {"neighbours": 5},
    "DPP": {"quality": "a"},
    "DPP jitter": {"jitter": 0.001},
    "DEITA": {"quality": "a", "complexity": "b", "fill": True},
    "InsTag": {"tags": "tags"},
    "MatchTarget": {"mix": {"x": 1, "y": 3}, "column": "kind"},
    "MatchTarget top": {"mix": {"x": 1}, "column": "kind", "select": "top"},
    "SelfRepellent": {},
    "SelfRepellent history": {"walk": "history"},
    "RandomSubsample": {},
    "ISA": {},
}
EVERY = pytest.mark.parametrize("name", ALL)
OURS = pytest.mark.parametrize("name", [n for n in ALL if n not in ("ISA", "RandomSubsample")])
RNG = np.random.default_rng(3)
CLOUDS = RNG.normal(size=(48, 3)) + 3 * RNG.normal(size=(4, 3))[RNG.integers(4, size=48)]


def step(name, **budget):
    fields = ALL[name]
    return getattr(filters, name.split()[0])(**fields, **(budget or {"rows": 10}))


def said(vector):
    return " ".join(f"{x:.4f}" for x in vector)


def embed(encoder, texts):
    """The last line of a text is its vector."""
    found = [[float(x) for x in t.split("\n")[-1].split()] for t in texts]
    return np.asarray(found, dtype=np.float32).reshape(len(found), -1 if found else 3)


def table(vectors=CLOUDS, same=False):
    """Pairs with scores a and b, tags and a kind; question, chosen and rejected are numbers."""
    n = len(vectors)
    draws = np.random.default_rng(5)
    rows = [(said(v + (0 if same else 0.001 * i)), said(v), said(v[::-1] + 1))
            for i, v in enumerate(vectors)]  # fmt: skip
    if same:  # the rows differ in a line of their question that is no part of the vector
        rows = [(f"{i}\n{q}", c, r) for i, (q, c, r) in enumerate(rows)]
    values = {
        f"{side}_score_{o}": [1.0] * n if same else draws.random(n).round(3).tolist()
        for side in ("chosen", "rejected")
        for o in ("a", "b")
    }
    tags = [["t"] if same else [str(t) for t in range(i % 7)] for i in range(n)]
    kind = ["x" if same or i % 3 else "y" for i in range(n)]
    found = pairs(*rows) if n else pairs(("q", "0 0 1", "0 1 0")).head(0)
    columns = [pl.Series(k, v, dtype=pl.Float64) for k, v in values.items()]
    columns.append(pl.Series("tags", tags, dtype=pl.List(pl.String)))
    return found.with_columns(*columns, pl.Series("kind", kind, dtype=pl.String))


def fitted(selector, rows, cuts=(), seed=0):
    ctx = Context(seed=seed, embed=embed)
    edges = [0, *sorted(cuts), rows.height]
    shards = [rows[a:b] for a, b in itertools.pairwise(edges)]
    parts = pl.concat([selector.fit_shard(s, ctx) for s in shards])
    return selector.fit(parts.sort(parts.columns[0]), ctx)


def kept(selector, rows, **how):
    state = fitted(selector, rows, **how)
    assert json.loads(json.dumps(state.info)) == state.info
    answer = selector.keep(rows, Context(state=state))
    assert answer.columns == ["reason", "detail"]
    assert answer.height == rows.height
    assert state.info["k"] == answer["reason"].null_count()
    return rows[ROW_ID[shape_of(rows)]].filter(answer["reason"].is_null()).sort().to_list()


TABLE = table()


@EVERY
@pytest.mark.parametrize("k", [0, 1, 7, 48, 99])
def test_exactly_the_budget_stays(name, k):
    assert len(kept(step(name, rows=k), TABLE)) == min(k, 48)


@EVERY
@pytest.mark.parametrize(("n", "k"), [(0, 2), (1, 0), (1, 1), (1, 2), (2, 1), (3, 2)])
def test_few_rows(name, n, k):
    assert len(kept(step(name, rows=k), table(CLOUDS[:n]))) == min(n, k)


@EVERY
@pytest.mark.parametrize("k", [0, 1, 5, 30, 99])
def test_rows_that_are_all_the_same(name, k):
    rows = table(np.ones((30, 3)), same=True)
    found = kept(step(name, rows=k), rows)
    assert len(found) == min(k, 30)
    drawn = {"RandomSubsample", "ISA", "MatchTarget", "MarginSelection dual"}
    if name not in drawn and not name.startswith("SelfRepellent"):
        assert found == sorted(rows["pair_id"])[:k]  # ties go to the lowest id


@EVERY
def test_a_fraction_and_no_budget(name):
    assert len(kept(step(name, fraction=0.25), TABLE)) == 12
    with pytest.raises(ValidationError, match="exactly one of fraction, rows and tokens"):
        step(name, rows=3, tokens=5)


@EVERY
def test_order_and_shards_do_not_change_a_bit(name):
    selector, rng = step(name), np.random.default_rng(0)
    reference = fitted(selector, TABLE)
    for cuts in ((), (1, 2, 30), range(1, 48)):
        again = fitted(selector, TABLE[rng.permutation(48)], cuts)
        assert again.tables["rows"].equals(reference.tables["rows"])
        assert again.info == reference.info


@EVERY
def test_tokens_are_not_exceeded_and_used(name):
    selector = step(name, tokens=200)
    state = fitted(selector, TABLE)
    cost = TABLE.select(tokens=selector.cost_columns(Shape.PAIRS)[0])["tokens"]
    chosen = TABLE["pair_id"].is_in(state.tables["rows"].filter("selected")["row_id"].implode())
    assert state.info["tokens"] == cost.filter(chosen).sum()
    assert 200 - cost.max() < state.info["tokens"] <= 200
    assert not kept(step(name, tokens=0), TABLE)
    assert len(kept(step(name, tokens=10**9), TABLE)) == 48


@EVERY
def test_groups_have_budgets_of_their_own(name):
    sizes = TABLE["kind"].value_counts()
    assert sorted(sizes.rows()) == [("x", 32), ("y", 16)]
    for shares, expected in (("proportional", (6, 3)), ("equal", (5, 4))):
        selector = step(name, rows=9, group_by="kind", shares=shares)
        assert selector.needs(Shape.PAIRS)["kind"] == pl.String()
        ids = kept(selector, TABLE)
        kinds = TABLE.filter(pl.col("pair_id").is_in(ids))["kind"]
        assert ((kinds == "x").sum(), (kinds == "y").sum()) == expected


@OURS
def test_the_state_says_what_was_chosen_and_what_random_reaches(name):
    state = fitted(step(name), TABLE)
    rows = state.tables["rows"]
    assert rows.schema == CHOICES
    assert rows.filter("selected")["rank"].sort().to_list() == list(range(1, 11))
    assert rows.filter(~pl.col("selected"))["reason"].unique().to_list() == ["not_selected"]
    assert rows.filter(~pl.col("selected"))["detail"].null_count() == 0
    base = state.info["baseline"]
    assert base["draws"] == 5
    assert np.isfinite([base["selected"], base["random_mean"], base["random_sd"]]).all()


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in ALL
        if n not in ("RandomSubsample", "ISA", "EnsembleUncertainty heads", "MatchTarget top")
        and not n.startswith("SelfRepellent")
    ],
)
def test_each_is_better_than_random_at_what_it_is_for(name):
    base = fitted(step(name), TABLE).info["baseline"]
    sign = {"higher": 1, "lower": -1}[base["better"]]
    assert sign * (base["selected"] - base["random_mean"]) > 0


@OURS
def test_unfitted_is_refused_and_needs_are_columns_of_the_table(name):
    selector = step(name)
    with pytest.raises(DataError, match="has not been fitted"):
        selector.keep(TABLE, Context())
    assert {c: TABLE.schema[c] for c in selector.needs(Shape.PAIRS)} == selector.needs(Shape.PAIRS)
    assert isinstance(selector, Budgeted)


@pytest.mark.slow
def test_threads_do_not_change_a_bit():
    """All selectors in processes with one and with three threads, on vectors of 64 dimensions."""
    code = "import tests.filters.selection.test_selectors as t\nprint(t.all_of_them())"
    found = set()
    for threads in ("1", "3"):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads,
               "PYTHONPATH": str(ROOT)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


def all_of_them():
    vectors = np.random.default_rng(0).normal(size=(900, 64))
    rows = table(vectors)
    states = {name: fitted(step(name, rows=100), rows) for name in ALL}
    return fingerprint([[n, s.tables["rows"].to_dicts(), s.info] for n, s in states.items()])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("KCenter", {}),
        ("FacilityLocation", {"on": "prompt"}),
        ("DPP", {"quality": "a"}),
        ("DEITA", {"quality": "a", "most_alike": 1.0}),
        ("SelfRepellent", {}),
        ("InsTag", {}),
        ("MatchTarget", {"mix": {"test": 1}}),
        ("RandomSubsample", {"group_by": "source"}),
    ],
)
def test_prompts_and_responses_too(name, fields):
    score, tags = [float(i) for i in range(20)], [["t", str(i % 3)] for i in range(20)]
    asked = prompts(*[said(v) for v in CLOUDS[:20]])
    asked = asked.with_columns(score_a=pl.Series(score), tags=pl.Series(tags))
    answered = responses(*[(said(v), said(v + 1)) for v in CLOUDS[:20]], score_a=score, tags=tags)
    for rows in (asked, answered):
        selector = getattr(filters, name)(rows=6, **fields)
        assert set(selector.needs(shape_of(rows))) <= set(rows.columns)
        assert len(kept(selector, rows)) == 6


@pytest.mark.parametrize("name", ["EnsembleUncertainty", "MarginSelection", "DPP", "DEITA"])
def test_rows_without_a_score_are_never_chosen(name):
    at = pl.Series([0, 5, 9])
    rows = TABLE.with_columns(
        TABLE["chosen_score_a"].clone().scatter(at, [None, float("nan"), float("inf")])
    )
    selector = step(name, rows=48)
    state = fitted(selector, rows)
    assert state.info["null_score"] == 3
    assert state.info["k"] == 45
    answer = selector.keep(rows, Context(state=state))
    reasons = {i: r for i, r in enumerate(answer.rows()) if r != (None, None)}
    assert reasons == dict.fromkeys([0, 5, 9], ("null_score", None))


def test_all_rows_without_a_score():
    rows = TABLE.with_columns(chosen_score_a=pl.lit(None, pl.Float64))
    for name in ("EnsembleUncertainty", "MarginSelection", "DPP", "DEITA"):
        assert kept(step(name), rows) == []
    assert len(kept(step("DOptimal scored"), rows)) == 10  # undecided, and so most informative


def test_a_run_accounts_for_every_row(tmp_path):
    steps = [{"tests.filters.selection.test_selectors.Plain": {"rows": 5}}]
    result = run(recipe(*steps), one_file(TABLE), tmp_path / "store")
    assert view(result, "pairs").height == 5
    ledger = ledger_of(result)
    assert ledger["reason"].unique().to_list() == ["not_selected"]
    assert ledger.height == 43
    assert ledger["detail"].str.starts_with("margin ").all()


class Plain(filters.MarginSelection):
    """Margin selection that needs no options in a recipe."""

    order: str = "high"
    objectives: tuple[str, ...] = ("a",)


def test_difference_is_of_pairs_and_vectors_need_an_encoder():
    with pytest.raises(ConfigError, match="difference is of pairs"):
        filters.KCenter(rows=1, on="difference").needs(Shape.PROMPTS)
    with pytest.raises(ConfigError, match="KCenter needs an encoder"):
        filters.KCenter(rows=1).fit_shard(TABLE, Context())
