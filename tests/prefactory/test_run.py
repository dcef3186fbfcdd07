import os
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.errors import ConfigError, DataError
from prefactory.stages import common_schema
from prefactory.tables import Shape, canonical_order, check
from tests.helpers import (
    PAIRS,
    ROOT,
    Block,
    MemorySource,
    assistant,
    content,
    digest,
    everything,
    in_order,
    ledger_of,
    messages,
    one_file,
    pairs,
    prompts,
    recipe,
    rejected,
    responses,
    run,
    view,
)


def made(result):
    return sum(s.made for s in result.stages)


def reused(result):
    return sum(s.reused for s in result.stages)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of everything, in one shard."""
    return everything(tmp_path_factory.mktemp("whole"))


# -- what comes out -----


def test_a_recipe_without_steps_gives_the_source_in_canonical_order(tmp_path):
    result = run(recipe(), one_file(PAIRS.reverse()), tmp_path)
    assert view(result, Shape.PAIRS).equals(canonical_order(PAIRS, Shape.PAIRS))
    answers = view(result, Shape.RESPONSES)
    assert set(answers["response_id"]) == {*PAIRS["chosen_id"], *PAIRS["rejected_id"]}
    assert ledger_of(result).height == 0


def test_every_row_is_in_the_result_or_in_the_ledger(whole):
    for stage in whole.stages:
        dropped = sum(stage.reasons.values())
        assert stage.rows_in == stage.rows_out + dropped
        parts = [whole.store.read(k, t) for k, t in stage.ledgers]
        assert sum(p.height for p in parts) == dropped
        assert {step for p in parts for step in p["step"]} <= {stage.label}
    assert [s.rows_in for s in whole.stages[1:]] == [s.rows_out for s in whole.stages[:-1]]
    assert whole.stages[0].rows_in == PAIRS.height
    assert in_order(whole)


def test_known_answers(whole):
    labels = [s.label.removeprefix("tests.steps.") for s in whole.stages]
    assert labels == ["source", "DropLong", "Length", "Coin", "Above", "Rank", "Shout"]
    assert whole.stages[1].reasons == {"too_long": 1}
    gone = ledger_of(whole).filter(reason="too_long")
    assert gone["detail"].to_list() == ["chosen: 30 chars"]
    found = view(whole, Shape.PAIRS)
    chars = [float(len(t)) for t in content(found, "chosen")]
    assert found["chosen_score_length"].to_list() == chars
    mean = whole.stages[4].info["mean"]
    assert all(c <= mean for c in chars)
    assert {t.upper() for t in content(found, "prompt")} == {*content(found, "prompt")}


def test_responses_are_kept_as_they_were_before_pairs_were_made(tmp_path):
    table = responses(("p", "a"), ("p", "bb"), ("p", "ccc"), ("q", "only"))
    result = run(recipe("tests.steps.Length", "tests.steps.BestWorst"), one_file(table), tmp_path)
    answers, found = view(result, Shape.RESPONSES), view(result, Shape.PAIRS)
    assert answers.height == 4
    assert "score_length" in answers.columns
    assert (content(found, "chosen"), content(found, "rejected")) == (["ccc"], ["a"])
    assert found.select("chosen_score_length", "rejected_score_length").row(0) == (3.0, 1.0)
    assert result.stages[-1].reasons == {"not_an_end": 2}


def test_from_prompts_to_pairs(tmp_path):
    result = run(recipe("tests.steps.Echo"), one_file(prompts("a", "b", "silent")), tmp_path)
    assert list(result.views) == [Shape.RESPONSES]
    assert sorted(content(view(result, Shape.RESPONSES), "response")) == ["echo a", "echo b"]
    assert ledger_of(result)["reason"].to_list() == ["silent"]


def test_new_prompts_are_cut_again_and_their_copies_leave(tmp_path):
    table = pairs(("a", "x", "y"), ("A", "x", "y"), ("b", "x", "y"), ("B", "x", "z"))
    for shard_rows in (1, 2, 1000):
        result = run(
            recipe("tests.steps.Shout"), one_file(table), tmp_path / str(shard_rows), shard_rows
        )
        found = check(view(result, Shape.PAIRS), Shape.PAIRS)
        assert sorted(content(found, "prompt")) == ["A", "B", "B"]
        assert in_order(result)
        assert result.stages[-1].reasons == {"duplicate_row": 1}
        ids = [i for shard in result.views[Shape.PAIRS].tables() for i in {*shard["prompt_id"]}]
        assert len(ids) == len(set(ids)) == 2  # the two rows of B are in one shard


def test_copies_across_files_and_sources_are_in_the_ledger_once(tmp_path):
    again = pairs(("p", "c", "r"), source="b")
    files = MemorySource(
        {"1": [pairs(("p", "c", "r"), ("q", "c", "r"), source="a")], "2": [again, again.clear()]}
    )
    third = MemorySource({"1": [pairs(("p", "c", "r"), source="c")]}, "third")
    for shard_rows in (1, 1000):
        result = run(recipe(), [files, third], tmp_path / str(shard_rows), shard_rows)
        found = ledger_of(result)
        assert found["row_id"].to_list() == ["b:0", "c:0"]
        assert {*found["reason"]} == {"duplicate_row"}
        assert view(result, Shape.PAIRS)["source"].to_list() == ["a", "a"]
        assert (result.stages[0].rows_in, result.stages[0].rows_out) == (4, 2)


def test_rejected_records_and_notes_of_a_source(tmp_path):
    block = Block(pairs(("p", "c", "r")), rejected("f:2", "f:3"), rejected("f:1", reason="odd"))
    result = run(recipe(), MemorySource({"f": [block, Block(pairs(("q", "c", "r")))]}), tmp_path)
    (stage,) = result.stages
    assert (stage.rows_in, stage.rows_out) == (4, 2)
    assert (stage.reasons, stage.notes) == ({"no_answer": 2}, {"odd": 1})
    assert ledger_of(result).rows() == [
        ("f:2", "source", "no_answer", "because"),
        ("f:3", "source", "no_answer", "because"),
    ]


def test_a_source_that_loses_rows_is_found(tmp_path):
    source = MemorySource({"f": [Block(pairs(("p", "c", "r")), broken=1)]})
    with pytest.raises(DataError, match="2 rows came in, 1 went out and 0 are in the ledger"):
        run(recipe(), source, tmp_path)


def test_a_source_without_a_usable_row(tmp_path):
    source = MemorySource({"f": [Block(PAIRS.clear(), rejected("f:1"))]})
    with pytest.raises(DataError, match=r"1 records, dropped for \{'no_answer': 1\}"):
        run(recipe(), source, tmp_path)


def test_mistakes_are_found_before_anything_is_read(tmp_path):
    source = one_file(PAIRS)
    with pytest.raises(ConfigError, match="needs column 'chosen_score_length'"):
        run(recipe("tests.steps.Above"), source, tmp_path / "store")
    assert source.reads == []
    assert not (tmp_path / "store").exists()


def test_an_error_of_the_source_is_not_blamed_on_the_store(tmp_path):
    source = one_file(PAIRS)
    source.read = lambda file: (_ for _ in ()).throw(FileNotFoundError("the file is gone"))
    with pytest.raises(DataError, match="source failed with FileNotFoundError: the file is gone"):
        run(recipe(), source, tmp_path)


def test_a_run_ends_where_no_row_is_left_and_says_what_dropped_them(tmp_path):
    steps = ({"tests.steps.DropLong": {"limit": 0}}, "tests.steps.Length")
    told = f"no row is left after tests.steps.DropLong.*{PAIRS.height} for too_long"
    with pytest.raises(DataError, match=told):
        run(recipe(*steps), one_file(PAIRS), tmp_path, 3)


# -- several sources -----


def test_columns_that_only_one_source_has_are_null_elsewhere(tmp_path):
    one = MemorySource({"f": [pairs(("p", "c", "r"), chosen_score_a=[1.0], note=["n"])]}, "one")
    two = MemorySource({"f": [pairs(("q", "c", "r"), margin=[1.0])]}, "two")
    both = [run(recipe(), s, tmp_path / str(i)) for i, s in enumerate(([one, two], [two, one]))]
    assert digest(both[0]) == digest(both[1])
    found = view(both[0], Shape.PAIRS)
    assert "margin" not in found.columns  # on all rows or on none
    assert found.columns == view(both[1], Shape.PAIRS).columns
    assert sorted(found["note"].to_list(), key=str) == [None, "n"]


def test_sources_in_another_order_reuse_the_parts(tmp_path):
    one = MemorySource({"f": [pairs(("p", "c", "r"), note=["n"])]}, "one")
    two = MemorySource({"f": [pairs(("q", "c", "r"), about=["a"])]}, "two")
    first = run(recipe(), [one, two], tmp_path)
    second = run(recipe(), [two, one], tmp_path)
    assert made(second) == 0
    assert digest(first) == digest(second)


def test_equal_rows_of_equal_places_do_not_depend_on_the_order_of_sources(tmp_path):
    """Two folders may hold files of the same name, so that rows differ only in their extras."""
    one, two = (
        MemorySource({"f": [pairs(("p", "c", "r"), chosen_score_a=[score])]}, "same")
        for score in (1.0, 2.0)
    )
    both = [run(recipe(), s, tmp_path / str(i)) for i, s in enumerate(([one, two], [two, one]))]
    assert digest(both[0]) == digest(both[1])


def test_sources_of_different_shape_or_type_are_refused():
    with pytest.raises(DataError, match="must be of one shape"):
        common_schema([one_file(PAIRS), one_file(prompts("p"))])
    number, text = (one_file(PAIRS.with_columns(x=pl.lit(x))) for x in (1.5, "a"))
    for order in ([number, text], [text, number]):
        with pytest.raises(
            DataError, match=r"column .x. is (Float64|String) in one source and (Float64|String)"
        ):
            common_schema(order)


# -- invariants -----


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("shard_rows", [pytest.param(1, marks=pytest.mark.slow), 3, 7, 1000])
def test_the_cut_and_the_workers_change_nothing(tmp_path, whole, shard_rows, workers):
    result = everything(tmp_path, shard_rows, workers)
    assert digest(result) == digest(whole)
    assert in_order(result)


@settings(max_examples=3)
@given(st.randoms(), st.integers(1, 4), st.integers(1, 3), st.sampled_from([2, 5, 1000]))
def test_the_order_of_the_input_changes_nothing(
    tmp_path_factory, whole, random, files, blocks, shard_rows
):
    order = list(range(PAIRS.height))
    random.shuffle(order)
    result = everything(tmp_path_factory.mktemp("run"), shard_rows, 2, PAIRS[order], files, blocks)
    assert digest(result) == digest(whole)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hash_seed_changes_nothing_and_another_process_reuses(tmp_path, whole):
    code = (
        "from tests.helpers import *\n"
        f"r = everything({str(tmp_path)!r}, 3)\n"
        "print(digest(r), sum(s.made for s in r.stages))"
    )
    first, second = python(code, PYTHONHASHSEED="1"), python(code, PYTHONHASHSEED="2")
    assert first.stdout.split()[0] == digest(whole), first.stderr
    assert second.stdout.split() == [digest(whole), "0"]


def test_the_seed_changes_stochastic_steps_only(tmp_path):
    def coins(seed):
        store = tmp_path / str(seed)
        result = everything(store, seed=seed)
        found = ledger_of(result)
        return (
            {*found.filter(reason="coin")["row_id"]},
            {*found.filter(reason="too_long")["row_id"]},
        )

    found = [coins(seed) for seed in range(4)]
    assert len({frozenset(coin) for coin, _ in found}) > 1
    assert len({frozenset(long) for _, long in found}) == 1


def test_two_coins_of_one_recipe_fall_apart(tmp_path):
    coin = {"tests.steps.Coin": {"rate": 0.5}}
    result = run(recipe(coin, coin), one_file(PAIRS), tmp_path)
    assert 0 < result.stages[2].rows_out < result.stages[1].rows_out


def test_settings_that_change_no_data_reuse_everything(tmp_path):
    source = one_file(PAIRS)
    run(recipe({"tests.steps.DropLong": {"limit": 15, "workers": 1}}), source, tmp_path)
    again = recipe({"tests.steps.DropLong": {"limit": 15, "workers": 9}}, description="x", name="y")
    assert made(run(again, source, tmp_path)) == 0


@pytest.mark.parametrize("shard_rows", [pytest.param(1, marks=pytest.mark.slow), 5, 1000])
def test_a_second_run_makes_nothing(tmp_path, shard_rows):
    first = everything(tmp_path, shard_rows)
    second = everything(tmp_path, shard_rows)
    assert [s.made for s in second.stages] == [0] * 7
    assert reused(second) == made(first) + reused(first)
    assert digest(first) == digest(second)


def test_a_changed_step_makes_only_what_follows(tmp_path):
    steps = ("tests.steps.Length", {"tests.steps.Coin": {"rate": 0.5}}, "tests.steps.Rank")
    run(recipe(*steps), one_file(PAIRS), tmp_path)
    changed = (steps[0], {"tests.steps.Coin": {"rate": 0.4}}, steps[2])
    result = run(recipe(*changed), one_file(PAIRS), tmp_path)
    assert [s.made > 0 for s in result.stages] == [False, False, True, True]


def test_a_damaged_object_is_made_again(tmp_path):
    first = everything(tmp_path, 3)
    files = sorted(tmp_path.glob("objects/*/*/*.arrow"))
    for path in files[::4]:
        path.write_bytes(path.read_bytes()[:-9])
    second = everything(tmp_path, 3)
    assert made(second) == len({p.parent for p in files[::4]})
    assert digest(second) == digest(first)


# -- odd rows -----

ODD = ["", " ", "🙂👩‍👩‍👧", "שלום \u202eabc", "\x00\x1b", "\u2028", "a" * 1_000_000, "é", "\ufffd"]


def test_odd_texts_come_through_unchanged(tmp_path):
    table = pairs(*[(t, f"c{t}", t) for t in ODD], *[(f"p{i}", t, "r") for i, t in enumerate(ODD)])
    result = run(recipe("tests.steps.Length", "tests.steps.Rank"), one_file(table), tmp_path, 2)
    found = view(result, Shape.PAIRS)
    assert found.select(table.columns).equals(canonical_order(table, Shape.PAIRS))
    chars = [float(len(t)) for t in content(found, "rejected")]
    assert found["rejected_score_length"].to_list() == chars


@pytest.mark.parametrize("n", [1, 2, 5])
def test_all_rows_alike(tmp_path, n):
    table = pl.concat([pairs(("p", "c", "c"), first_id=i) for i in range(n)])
    result = run(recipe("tests.steps.Length", "tests.steps.Rank"), one_file(table), tmp_path, 1)
    assert view(result, Shape.PAIRS).height == 1
    assert result.stages[0].reasons == ({"duplicate_row": n - 1} if n > 1 else {})


def test_null_scores_and_extra_columns_pass_through(tmp_path):
    table = pairs(
        ("p", "c", "r"),
        ("q", "c", "r"),
        chosen_score_x=[None, 1.0],
        tags=[["a"], None],
        deep=[{"a": 1}, {"a": None}],
    )
    result = run(recipe("tests.steps.Length"), one_file(table), tmp_path, 1)
    found = view(result, Shape.PAIRS).select(table.columns)
    assert found.equals(canonical_order(table, Shape.PAIRS))


def test_conversations_without_messages(tmp_path):
    table = pairs(("p", "c", "r")).with_columns(
        rejected=messages([]), chosen=messages([assistant("")])
    )
    result = run(recipe("tests.steps.Length"), one_file(table), tmp_path)
    found = view(result, Shape.PAIRS)
    assert found.select("chosen_score_length", "rejected_score_length").row(0) == (0.0, 0.0)
