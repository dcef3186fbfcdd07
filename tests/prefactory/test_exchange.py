"""Fits cut by key: the same rows, reasons, details and facts however many ranges there are."""

import hashlib
import random
import tempfile

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.duplicates.exact import ExactDuplicates
from filters.duplicates.semantic import SemanticDuplicates
from filters.selection.isa import ISA
from filters.selection.subsample import RandomSubsample
from labelers.combine.combine import Combine
from labelers.heads.heads import RidgeHeads
from prefactory.apply import fit_parts
from prefactory.context import Context, State
from prefactory.errors import DataError
from prefactory.near.likeness import Rule
from prefactory.near.minhash import Banding
from prefactory.orders import Site, do
from prefactory.orders.links import Choose, Keys, Link, Places, Settle
from prefactory.orders.ranges import Cut, FitRange, HandBack, Survey, _rows, in_order
from prefactory.orders.rounds import Conclude, HandOut, Look
from prefactory.shards import in_runs
from prefactory.step import FittedFilter, Labeler
from prefactory.step.exchange import (
    KEY,
    Concluded,
    Exchanged,
    Linking,
    Rounds,
    Streamed,
    of_digests,
)
from prefactory.store import Store
from prefactory.tables import Shape, digests
from tests.helpers import digest, everything, ledger_of, one_file, pairs, recipe, responses, run

HOW = Linking(Banding(69, 3), Rule(0.35))
WORDS = ("yes", "no", "Yes ", "a longer answer", "another")


def some_pairs(n, seed):
    rng = random.Random(seed)
    rows = [
        (f"q{rng.randrange(n // 3 + 1)}", rng.choice(WORDS), rng.choice(WORDS)) for _ in range(n)
    ]
    return pairs(*rows, chosen_score_h=[rng.random() for _ in rows], rejected_score_h=[0.5] * n)


def outcome(steps, table, shard_rows, fit_rows, workers=1, embed=None):
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = run(
                recipe(*steps, seed=3), one_file(table), folder, shard_rows, workers,
                fit_rows=fit_rows, embed=embed,
            )  # fmt: skip
        except DataError as error:  # no row is left
            return str(error)
        facts = [stage.info for stage in made.stages if stage.label != "source"]
        return digest(made), facts, ledger_of(made).rows()


DUPLICATES = (
    {"on": "row"},
    {"on": "row", "on_contradiction": "keep_first", "keep_best": "h"},
    {"on": "prompt"},
    {"on": "response", "shortest": 6},
    {"on": "chosen"},
)
SAMPLES = (
    {"fraction": 0.4},
    {"rows": 5},
    {"rows": 7, "quotas": "source"},
    {"fraction": 0.5, "group_by": "topic"},
    {"rows": 6, "group_by": "topic", "shares": "equal"},
)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 25), st.integers(0, 10**6), st.sampled_from(DUPLICATES),
    st.sampled_from(SAMPLES), st.integers(1, 9), st.integers(1, 12), st.integers(1, 3),
)  # fmt: skip
def test_ranges_shards_and_workers_change_nothing(n, seed, same, sample, shard, fit, workers):
    table = some_pairs(n, seed)
    topics = [None if i % 4 == 0 else f"t{i % 3}" for i in range(table.height)]
    table = table.with_columns(topic=pl.Series(topics, dtype=pl.String))
    steps = [{"filters.ExactDuplicates": same}, {"filters.RandomSubsample": sample}]
    whole = outcome(steps, table, 1000, 1 << 20)
    cut = outcome(steps, table, shard, fit, workers)
    assert cut == whole


def test_the_fit_is_cut_as_soon_as_rows_are_too_many(tmp_path):
    table = some_pairs(30, 1)
    steps = [{"filters.ExactDuplicates": {"on": "prompt"}}]
    n = table["pair_id"].n_unique()
    whole = run(recipe(*steps), one_file(table), tmp_path / "a", 5, fit_rows=n).stages[1]
    cut = run(recipe(*steps), one_file(table), tmp_path / "b", 5, fit_rows=n - 1).stages[1]
    shards = (whole.made - 1) // 2
    assert cut.made == whole.made - 1 + 3 * 2, "two cuts, ranges and states in place of one state"
    assert shards > 2
    again = run(recipe(*steps), one_file(table), tmp_path / "b", 5, fit_rows=n - 1).stages[1]
    assert (again.made, again.reused) == (0, cut.made)


def test_a_list_of_many_parts_lies_in_the_store(tmp_path, monkeypatch):
    few = everything(tmp_path / "few", 3, blocks=3)
    monkeypatch.setattr("prefactory.run.MANY_PARTS", 1)
    many = everything(tmp_path / "many", 3, blocks=3)
    assert digest(many) == digest(few)
    assert len(many.objects) == len(few.objects) + 2, "of the source, and of new prompts"


def test_whole_prompts_go_with_all_their_answers(tmp_path):
    table = responses(("One", "a"), ("one ", "a"), ("One", "b"), ("two", "c"), ("Two", "d"))
    steps = [{"filters.ExactDuplicates": {"on": "prompt"}}]
    made = [
        digest(run(recipe(*steps), one_file(table), tmp_path / str(rows), 1, fit_rows=rows))
        for rows in (100, 2, 1)
    ]
    assert len(set(made)) == 1


def test_tokens_are_drawn_whole():
    assert not RandomSubsample(tokens=10).exchanged()
    assert RandomSubsample(rows=10).exchanged()


def test_keys_are_in_the_order_of_the_draws():
    ids = pl.DataFrame({"pair_id": [f"{i:032x}" for i in range(500)], "group": None})
    ctx = Context(seed=1, step="s")
    keys = RandomSubsample(rows=1).keys(ids, ctx)
    assert keys.dtype == pl.UInt64
    draws = ctx.uniform(ids["pair_id"])
    assert keys.arg_sort().to_list() == draws.arg_sort(descending=True).to_list()
    assert (keys < 2**63).sum() == (draws > 0.5).sum()


def test_keys_of_digests():
    keys = of_digests(pl.Series(["0" * 32, "0" * 15 + "1" + "f" * 16, "f" * 32]))
    assert keys.to_list() == [0, 1, 2**64 - 1]
    assert keys.dtype == pl.UInt64


def test_runs_hold_at_most_so_many_rows():
    assert in_runs([3, 3, 3, 9, 1, 1], 6) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert in_runs([0, 0], 5) == [(0, 2)]
    assert in_runs([7], 5) == [(0, 1)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 40))
def test_runs_are_all_neighbours_and_within_bounds(sizes, most):
    runs = in_runs(sizes, most)
    assert [i for a, b in runs for i in range(a, b)] == list(range(len(sizes)))
    assert all(sum(sizes[a:b]) <= most or b - a == 1 for a, b in runs)


# -- fits that read shard by shard -----


class Longest(Streamed, Labeler):
    """How many pairs stand before each shard, and how large the shards were, in their order."""

    shapes = (Shape.PAIRS,)
    scope = "dataset"
    wrong: bool = False

    def adds(self, shape):
        return {"sizes": pl.String()}

    def fit_shard(self, table, ctx):
        return table.select("pair_id", "prompt_id")

    def fit(self, parts, ctx):
        raise AssertionError("it is not given all rows at once")

    def fit_stream(self, parts, ctx):
        read = [part["prompt_id"].to_list() for part in parts]
        sizes = [len(prompts) for prompts in read]
        flat = [p for prompts in read for p in prompts]
        return None if self.wrong else State(info={"sizes": sizes, "sorted": flat == sorted(flat)})

    def label(self, table, ctx):
        sizes = str(ctx.fitted.info["sizes"])
        return pl.DataFrame({"sizes": [sizes] * table.height}, schema={"sizes": pl.String})


def test_shards_are_read_in_the_order_of_the_table(tmp_path):
    table = some_pairs(60, 4)
    name = "tests.prefactory.test_exchange.Longest"
    stage = run(recipe(name), one_file(table), tmp_path / "a", 6).stages[-1]
    assert len(stage.info["sizes"]) > 5
    assert sum(stage.info["sizes"]) == table["pair_id"].n_unique()
    assert stage.info["sorted"]
    with pytest.raises(DataError, match="fit_stream returned nothing; it must return a `State`"):
        run(recipe({name: {"wrong": True}}), one_file(table), tmp_path / "b", 6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10**6), st.integers(1, 20), st.sampled_from([1, 2, 3]))
def test_a_combination_is_the_same_to_the_bit_however_it_is_read(n, seed, shard, objectives):
    rng = random.Random(seed)
    rows = [(f"q{rng.randrange(n // 3 + 1)}", f"answer {i}") for i in range(n)]
    names = [f"o{i}" for i in range(objectives)]
    scores = {
        f"score_{o}": [None if rng.random() < 0.1 else rng.gauss(0, 10**i) for _ in rows]
        for i, o in enumerate(names)
    }
    table = responses(*rows, **scores).sort("prompt_id", "response_id")
    step = Combine(name="r", method="logsigmoid", weights=dict.fromkeys(names, 1.0))
    part = step.fit_shard(table, Context())
    whole = step.fit(part.sample(fraction=1.0, shuffle=True, seed=seed), Context())
    prompts = part.partition_by("prompt_id", maintain_order=True)
    shards = [pl.concat(some) for some in batches(prompts, shard)]
    assert step.fit_stream(iter(shards), Context()).info == whole.info
    assert fit_parts(step, "c", [*shards, part.clear()], Context()).info == whole.info


def batches(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


# -- fits in rounds -----


def embed(encoder, texts):
    """Float32[n, 5] by the text alone."""
    seeds = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest()) for t in texts]
    rows = [np.random.default_rng(seed).normal(size=5) for seed in seeds]
    return np.asarray(rows, np.float32).reshape(-1, 5)


def scored_pairs(n, seed):
    rng = random.Random(seed)
    rows = [(f"q{rng.randrange(n // 2 + 1)}", f"a {i}", f"b {rng.randrange(n)}") for i in range(n)]
    scores = {
        f"{side}_score_{name}": [
            None if rng.random() < 0.2 else rng.gauss(3, 2 * at + 1) for _ in rows
        ]
        for side in ("chosen", "rejected")
        for at, name in enumerate(("h", "length"))
    }
    table = pairs(*rows, **scores)
    return table.with_columns(pl.col(list(scores)).cast(pl.Float64))


HEADS = ({"labelers.RidgeHeads": {"objectives": ["h", "label"], "folds": 3}},)
FEW_FEATURES = {"labelers.DirectionalCorrection": {"name": "fair", "objective": "h",
                                                   "nuisance": "length"}}  # fmt: skip


@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from([2, 5, 30]), st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 40),
    st.integers(1, 3),
)  # fmt: skip
def test_heads_are_the_same_to_the_bit_however_rows_are_cut(n, seed, shard, fit, workers):
    table, steps = scored_pairs(n, seed), [*HEADS, FEW_FEATURES]
    whole = outcome(steps, table, 1000, 1 << 20, embed=embed)
    assert outcome(steps, table, shard, fit, workers, embed=embed) == whole


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 20))
def test_duplicates_by_meaning_within_prompts_are_the_same_in_ranges(n, seed, shard, fit):
    table = scored_pairs(n, seed)
    step = {"on": "response", "threshold": 0.2, "keep_best": "h", "polarity_words": 0}
    steps = [{"filters.SemanticDuplicates": step}]
    whole = outcome(steps, table, 1000, 1 << 20, embed=embed)
    assert outcome(steps, table, shard, fit, embed=embed) == whole
    assert SemanticDuplicates(**step).exchanged()
    assert not SemanticDuplicates(on="row").exchanged()


SELECTED = (
    {"rows": 7, "dims": 2, "sample": 25, "restarts": 1},
    {"fraction": 0.3, "quotas": "component", "trim": 0.1, "init": "labels", "restarts": 1},
    {"tokens": 60, "select": "sample", "mode": "pointwise_normalised", "restarts": 1},
    {"rows": 9, "group_by": "source", "covariance": "diag", "sample": 12, "restarts": 1},
)


@settings(max_examples=4, deadline=None)
@given(
    st.sampled_from([1, 4, 30]), st.integers(0, 10**6), st.sampled_from(SELECTED),
    st.integers(1, 9), st.integers(2, 30), st.integers(1, 3),
)  # fmt: skip
def test_a_selection_is_the_same_to_the_bit_however_rows_are_cut(
    n, seed, fields, shard, fit, workers
):
    table, steps = scored_pairs(n, seed), [{"filters.ISA": fields}]
    whole = outcome(steps, table, 1000, 1 << 20, embed=embed)
    assert outcome(steps, table, shard, fit, workers, embed=embed) == whole


def test_no_look_of_a_selection_holds_more_rows_than_it_may(tmp_path, monkeypatch):
    held, look = [], ISA.look

    def counted(self, parts, known, ctx):
        held.append(parts.height)
        return look(self, parts, known, ctx)

    monkeypatch.setattr(ISA, "look", counted)
    made = run(
        recipe({"filters.ISA": SELECTED[0]}), one_file(scored_pairs(40, 5)), Store(tmp_path), 8,
        embed=embed, fit_rows=20,
    )  # fmt: skip
    assert len(held) > 6
    assert max(held) <= 20
    assert sum(held) == 3 * made.stages[1].rows_in, "three rounds"
    assert made.stages[1].info["fitted"] == 25


def in_rounds(folder, store=Store, **cut):
    return run(recipe(*HEADS), one_file(scored_pairs(40, 5)), store(folder), 8, embed=embed, **cut)


def test_rounds_have_orders_of_runs_of_rows(tmp_path, monkeypatch):
    held, look = [], RidgeHeads.look

    def counted(self, parts, known, ctx):
        held.append(parts.height)
        return look(self, parts, known, ctx)

    monkeypatch.setattr(RidgeHeads, "look", counted)
    stages = [in_rounds(tmp_path / "a").stages[1], in_rounds(tmp_path / "b", fit_rows=30).stages[1]]
    assert stages[0].info == stages[1].info
    shards = (stages[0].made - 1) // 2
    runs, rest = divmod(stages[1].made - 2 * shards, 3)  # three rounds, each with one conclusion
    assert (runs - 1 > 2, rest) == (True, 0)
    assert held[:3] == [sum(held[3:]) // 3] * 3, "whole, and in runs, in three rounds"
    assert max(held[3:]) <= 30
    again = in_rounds(tmp_path / "b", fit_rows=30).stages[1]
    assert (again.made, again.reused) == (0, stages[1].made)


class Crash(BaseException):
    """The power went."""


@pytest.mark.slow
def test_a_crash_in_any_round_is_resumed(tmp_path):
    whole = digest(in_rounds(tmp_path / "whole"))
    total = sum(s.made for s in in_rounds(tmp_path / "cut", fit_rows=30).stages)
    for k in range(total // 3, total, 2):

        class Brittle(Store):
            left = k

            def _commit(self, key, writer):
                if not self.left:
                    raise Crash
                self.left -= 1
                super()._commit(key, writer)

        root = tmp_path / str(k)
        with pytest.raises(Crash):
            in_rounds(root, Brittle, fit_rows=30)
        again = in_rounds(root, fit_rows=30)
        assert digest(again) == whole
        assert sum(s.made for s in again.stages) == total - k


class Unsure(Rounds, Labeler):
    """A labeler whose rounds return something else than they should."""

    shapes = (Shape.PAIRS,)
    scope = "dataset"
    fault: str = ""

    def adds(self, shape):
        return {"x": pl.Int64()}

    def fit_shard(self, table, ctx):
        return table.select("pair_id")

    def look(self, parts, known, ctx):
        return {} if self.fault == "look" else State(info={"rows": parts.height})

    def conclude(self, looks, known, ctx):
        state = State(info={"rows": sum(look.info["rows"] for look in looks)})
        return state if self.fault == "conclude" else Concluded(state, last=True)

    def label(self, table, ctx):
        return table.select(
            x=pl.lit(ctx.fitted.info["rows"], dtype=pl.Int64).repeat_by(1).explode()
        )


@pytest.mark.parametrize("fault", ["look", "conclude"])
def test_a_round_that_returns_something_else_is_named(tmp_path, fault):
    steps = [{"tests.prefactory.test_exchange.Unsure": {"fault": fault}}]
    with pytest.raises(DataError, match=rf"Unsure.{fault} must return a `"):
        run(recipe(*steps), one_file(some_pairs(20, 1)), tmp_path, 4, fit_rows=5)


# -- the orders, one by one -----


def site_of(step_words, folder):
    return Site(recipe(step_words), [], Store(folder))


def looks(site, label, table, n):
    """What the map leaves of a table in n shards, in the store; the keys of it."""
    step, keys = site.step(label), []
    size = -(-table.height // n)
    for i in range(n):
        part = step.fit_shard(table[i * size : (i + 1) * size], site.context(label))
        keys.append(f"{i:032x}")
        with site.store.write(keys[-1]) as writer:
            writer.table("part", part)
    return keys


def test_every_range_holds_its_own_keys_and_no_more(tmp_path):
    site = site_of({"filters.ExactDuplicates": {"on": "prompt"}}, tmp_path)
    label = site.recipe.steps[0].label
    table = some_pairs(400, 2)
    keys = looks(site, label, table, 4)
    cuts = [f"c{i}" for i in range(4)]
    for cut, key in zip(cuts, keys, strict=True):
        do(Cut(cut, label, [key]), site)
        rows = site.store.read(cut, "cut")
        assert rows[KEY].is_sorted()
        assert rows.drop(KEY).schema == site.store.read(key, "part").schema
    parts = [_rows(site.store, cuts, i) for i in range(4)]
    assert sum(p.height for p in parts) == table.height
    for i, part in enumerate(parts):
        assert part.columns[0] == "pair_id"
        assert part["pair_id"].is_sorted()
        assert ((part[KEY] >= i * 2**62) & (part[KEY] <= (i + 1) * 2**62 - 1)).all()
        assert part.height < 2 * table.height / 4, "the hash spreads them"


def test_texts_are_laid_in_the_order_of_the_rows_and_nothing_else_changes():
    table = pl.DataFrame(
        {
            "text": [f"a text of more than twelve bytes, {i}" for i in range(9)],
            "none": pl.Series([None] * 9, dtype=pl.String),
            "set": pl.Series([[i, 2] for i in range(9)], dtype=pl.List(pl.UInt32)),
            "vector": pl.Series([[0.5, i] for i in range(9)], dtype=pl.Array(pl.Float32, 2)),
            "flag": [None, True, False] * 3,
        }
    )
    for rows in (table[::-2], table.clear()):
        laid = in_order(rows)
        assert laid.schema == rows.schema
        assert laid.equals(rows)


class Wrong(Exchanged, FittedFilter):
    """A filter whose keys or decisions are wrong."""

    shapes = (Shape.PAIRS,)
    fault: str = ""

    def fit_shard(self, table, ctx):
        return table.select("pair_id")

    def keys(self, parts, ctx):
        if self.fault == "keys":
            return pl.Series([1] * parts.height)
        return of_digests(digests(parts["pair_id"]))

    def fit(self, parts, ctx):
        unit = pl.lit("nobody") if self.fault == "unit" else pl.col("pair_id")
        dropped = parts.head(1).select(unit=unit, reason=pl.lit("r"), detail=pl.lit("d"))
        more = {"more": dropped} if self.fault == "more" else {}
        return State({"dropped": dropped, **more}, {"n": parts.height})


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("keys", r"it must return .* of UInt64 without"),
        ("unit", "decided about 1 units that its range does not have"),
        ("more", "must return a `State` with the table 'dropped' alone"),
    ],
)
def test_a_step_that_breaks_its_promise_is_named(tmp_path, fault, told):
    steps = [{"tests.prefactory.test_exchange.Wrong": {"fault": fault}}]
    with pytest.raises(DataError, match=told):
        run(recipe(*steps), one_file(some_pairs(20, 1)), tmp_path, 4, fit_rows=5)


def test_decisions_that_the_store_has_lost(tmp_path):
    site = site_of({"filters.ExactDuplicates": {}}, tmp_path)
    with pytest.raises(DataError, match=r"has lost what .* decided; run again"):
        do(HandBack("h", site.recipe.steps[0].label, ["gone"], 0), site)


def test_orders_are_small_and_plain():
    import pickle

    keys = [f"{i:032x}" for i in range(100)]
    for order in (
        Cut("k", "l", keys), Survey("k", "l", keys, 1), FitRange("k", "l", keys, 1, keys),
        HandBack("k", "l", keys, 1), Keys("k", "l", HOW, keys), Places("k", "l", HOW, keys),
        Link("k", "l", HOW, keys, "p", (1, 2), keys[:2]), Choose("k", "l", HOW, keys, "p", keys),
        Settle("k", "l", keys, "c", 1), Look("k", "l", keys, "c"), Conclude("k", "l", keys, "c"),
        HandOut("k", "l", "c", 10, 20),
    ):  # fmt: skip
        data = pickle.dumps(order)
        assert pickle.loads(data) == order
        assert len(data) < 10_000


def test_exact_duplicates_are_still_one_step_in_recipes():
    assert ExactDuplicates().exchanged()
    assert issubclass(ExactDuplicates, FittedFilter)


# -- near-duplicates, linked run by run -----


def near_pairs(n, seed):
    """Pairs of few prompts and answers with some words changed: chains, copies, contradictions."""
    rng = random.Random(seed)
    base = [[f"w{rng.randrange(400)}" for _ in range(12)] for _ in range(n // 6 + 1)]

    def text():
        words = list(rng.choice(base))
        for _ in range(rng.randrange(6)):
            words[rng.randrange(12)] = f"x{rng.randrange(400)}"
        return " ".join(words)

    rows = [(text(), text(), text()) for _ in range(n)]
    return pairs(*rows, chosen_score_h=[rng.choice([0.1, 0.2]) for _ in rows],
                 rejected_score_h=[0.1] * n)  # fmt: skip


NEAR = (
    {"on": "prompt", "short": 2, "long": 8},
    {"on": "row", "short": 2, "long": 8, "keep_best": "h"},
    {"on": "response", "short": 2, "long": 8},
    {"on": "response", "within": "all", "short": 2, "long": 8},
    {"on": "prompt", "short": 2, "long": 8, "linkage": "kept"},
    {"on": "row", "short": 2, "long": 8, "keep_best": "h", "linkage": "kept"},
)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 50), st.integers(0, 10**6), st.sampled_from(NEAR), st.integers(2, 12),
    st.integers(8, 24), st.integers(1, 3),
)  # fmt: skip
def test_near_duplicates_are_the_same_however_they_are_linked(n, seed, near, shard, fit, workers):
    table = near_pairs(n, seed)
    steps = [{"filters.NearDuplicates": near}]
    assert outcome(steps, table, shard, fit, workers) == outcome(steps, table, 1000, 1 << 20)


def test_near_duplicates_are_linked_in_runs(tmp_path):
    table, steps = near_pairs(60, 3), [{"filters.NearDuplicates": NEAR[0]}]
    made = run(recipe(*steps), one_file(table), tmp_path, 8, fit_rows=20).stages[1]
    whole = run(recipe(*steps), one_file(table), tmp_path / "b", 8).stages[1]
    assert made.info == whole.info
    assert made.info["near_duplicate"] > 5
    fit = made.made - (whole.made - 1)
    assert fit in [3 * n + 2 + n * (n - 1) // 2 for n in (3, 4, 5)], "of so many runs"
    again = run(recipe(*steps), one_file(table), tmp_path, 8, fit_rows=20).stages[1]
    assert (again.made, again.reused) == (0, made.made)


def test_rows_beside_kept_ones_go_however_rows_are_cut(tmp_path):
    table, steps = near_pairs(60, 3), [{"filters.NearDuplicates": NEAR[-2]}]
    whole = run(recipe(*steps), one_file(table), tmp_path / "a", 8)
    cut = run(recipe(*steps), one_file(table), tmp_path / "b", 8, fit_rows=20)
    assert digest(cut) == digest(whole)
    assert cut.stages[1].info == whole.stages[1].info
    assert cut.stages[1].made > whole.stages[1].made
    clusters = run(recipe({"filters.NearDuplicates": NEAR[0]}), one_file(table), tmp_path / "c", 8)
    assert clusters.stages[1].rows_out < cut.stages[1].rows_out, "chains lose all but one"


def test_links_that_the_store_has_lost(tmp_path):
    site = site_of({"filters.NearDuplicates": {}}, tmp_path)
    label = site.recipe.steps[0].label
    with pytest.raises(DataError, match=r"has lost what .* linked; run again"):
        do(Settle("s", label, ["gone"], "choice", 0), site)
