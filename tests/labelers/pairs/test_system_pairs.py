"""Pairs across system messages: structure, conflicts, and one result whatever the shards."""

import polars as pl
import pytest

from labelers import SystemPairs
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.tables import (
    COLUMNS,
    Shape,
    canonical_order,
    check,
    text_of,
    with_ids,
    with_prompt_id,
)
from tests.helpers import MemorySource, assistant, content, messages, recipe, run, system, user
from tests.helpers import ledger_of as ledger
from tests.helpers import view as rows_of


def answers(*rows, models=None, scores=None):
    """Rows are (system message or None, question, answer)."""
    n = len(rows)
    table = pl.DataFrame(
        {
            "prompt": messages(
                *[([system(s)] if s is not None else []) + [user(q)] for s, q, _ in rows]
            ),
            "source": ["t"] * n,
            "source_id": [f"t:{i}" for i in range(n)],
            "response": messages(*[[assistant(a)] for _, _, a in rows]),
            "model": pl.Series(models or ["m"] * n, dtype=pl.String),
            "origin": ["self"] * n,
        }
    )
    table = with_ids(with_prompt_id(table), Shape.RESPONSES).select(*COLUMNS[Shape.RESPONSES])
    if scores is not None:
        table = table.with_columns(score_fit=pl.Series(scores, dtype=pl.Float64))
    return canonical_order(table, Shape.RESPONSES)


def made(step, shards, seed=0):
    """All pairs in canonical order, and reasons by answer text."""
    ctx = Context(seed=seed)
    parts = pl.concat([step.fit_shard(s, ctx) for s in shards]).sort("response_id")
    ctx = Context(seed=seed, state=step.fit(parts, ctx))
    found = [apply_generator(step, "s", shard, Shape.RESPONSES, ctx) for shard in shards]
    rows = canonical_order(pl.concat([f[0] for f in found]), Shape.PAIRS)
    check(rows, Shape.PAIRS)
    table = pl.concat(shards)
    names = dict(zip(table["response_id"], content(table, "response"), strict=True))
    dropped = pl.concat([f[1] for f in found])
    assert dropped["detail"].null_count() == 0
    return rows, {names[i]: r for i, r in dropped.select("row_id", "reason").iter_rows()}


def shown(rows):
    systems = rows.select(text_of(pl.col("prompt"), "system")).to_series()
    return set(zip(systems, content(rows, "chosen"), content(rows, "rejected"), strict=True))


TRIPLES = [(f"role {s}", f"q{i}", f"q{i} as {s}") for i in range(8) for s in "abc"]


def test_janus_structure():
    table = answers(*TRIPLES)
    rows, reasons = made(SystemPairs(), [table])
    assert rows.height == 24
    assert reasons == {}
    for role, chosen, rejected in shown(rows):
        assert chosen.split(" as ")[1] == role.split()[1]
        assert rejected.split(" as ")[0] == chosen.split(" as ")[0]
        assert rejected != chosen
    assert rows["label_source"].unique().to_list() == ["rule"]
    assert dict(zip(rows.columns, rows.dtypes, strict=True)).keys() >= set(COLUMNS[Shape.PAIRS])
    partner = table.select("prompt_id", text="response").unique()
    origin = rows.join(partner, left_on="rejected_prompt_id", right_on="prompt_id")
    assert (origin["text"] == origin["rejected"]).all()
    assert (rows["rejected_prompt_id"] != rows["prompt_id"]).all()
    everyone, _ = made(SystemPairs(others="all"), [table])
    assert everyone.height == 48
    assert shown(rows) < shown(everyone)


def test_the_partner_is_drawn_by_seed_and_evenly():
    table = answers(*[(f"role {s}", f"q{i}", f"q{i} as {s}") for i in range(150) for s in "abc"])
    rows, _ = made(SystemPairs(), [table])
    other, _ = made(SystemPairs(), [table], seed=1)
    assert shown(rows) != shown(other)
    under_a = [r.split(" as ")[1] for s, _, r in shown(rows) if s == "role a"]
    assert 50 <= under_a.count("b") <= 100


def test_ids_of_the_rejected_answer_are_of_the_text_under_this_prompt():
    rows, _ = made(SystemPairs(), [answers(("a", "q", "x"), ("b", "q", "y"))])
    assert rows.equals(with_ids(rows, Shape.PAIRS).select(rows.columns))


def test_scores_of_the_rejected_side_are_unknown():
    table = answers(("a", "q", "x"), ("b", "q", "y"), scores=[1, 2])
    rows, _ = made(SystemPairs(), [table])
    assert sorted(rows["chosen_score_fit"]) == [1.0, 2.0]
    assert rows["rejected_score_fit"].null_count() == 2


def test_who_is_in_no_pair():
    table = answers(
        (None, "q", "no system"),
        ("  ", "q", "empty system"),
        ("a", "alone", "alone"),
        ("a", "p", "Same"),
        ("b", "p", "same "),
        ("A ", "twice", "one"),
        ("a", "twice", "two"),
    )
    rows, reasons = made(SystemPairs(), [table])
    assert rows.height == 0
    assert reasons == {
        "no system": "no_system",
        "empty system": "no_system",
        "alone": "single_system",
        "Same": "same_text",
        "same ": "same_text",
        "one": "single_system",
        "two": "single_system",
    }


def test_a_text_that_answers_both_messages_is_rejected_under_neither():
    table = answers(
        *[("a", "q", "for a"), ("a", "q", "for both"), ("b", "q", "for both")], scores=[2, 1, 1]
    )
    rows, reasons = made(SystemPairs(objective="fit"), [table])
    assert shown(rows) == {("b", "for both", "for a")}
    assert reasons == {"for a": "same_text", "for both": "not_selected"}


def test_the_best_answer_stands_for_its_prompt():
    table = answers(
        ("a", "q", "low"), ("a", "q", "high"), ("b", "q", "other"), ("b", "q", "unscored"),
        scores=[1, 2, 0, None],
    )  # fmt: skip
    rows, reasons = made(SystemPairs(objective="fit"), [table])
    assert shown(rows) == {("a", "high", "other"), ("b", "other", "high")}
    assert reasons == {"low": "not_selected", "unscored": "null_score"}


def test_models():
    table = answers(("a", "q", "x"), ("b", "q", "y"), ("c", "q", "z"), models=["m1", "m1", None])
    rows, reasons = made(SystemPairs(models="same", others="all"), [table])
    assert shown(rows) == {("a", "x", "y"), ("b", "y", "x")}
    assert reasons == {"z": "no_model"}
    rows, reasons = made(SystemPairs(models="different"), [table])
    assert rows.height == 0
    assert reasons == {"x": "same_model", "y": "same_model", "z": "no_model"}


def test_bytes_do_not_depend_on_shards_or_order():
    table = answers(*TRIPLES)
    whole, _ = made(SystemPairs(), [table])
    parts = table.partition_by("prompt_id")
    assert made(SystemPairs(), parts[::-1])[0].equals(whole)
    assert made(SystemPairs(), [table.sample(fraction=1, shuffle=True, seed=1)])[0].equals(whole)


def test_as_a_run(tmp_path):
    table = answers(*TRIPLES, (None, "q0", "plain"))
    found = {}
    for shard_rows in (3, 1000):
        result = run(
            recipe("labelers.SystemPairs"),
            MemorySource({"a": [table]}),
            tmp_path / str(shard_rows),
            shard_rows,
        )
        found[shard_rows] = rows_of(result, "pairs")
        assert ledger(result)["reason"].to_list() == ["no_system"]
        assert result.stages[-1].info == {"conversations": 8, "prompts": 24, "pairs": 24}
    assert found[3].equals(found[1000])


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match="is none of"):
        SystemPairs(label_source="guess")
