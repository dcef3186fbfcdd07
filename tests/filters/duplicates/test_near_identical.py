import random

import polars as pl
import pytest
from pydantic import ValidationError

from filters import NearIdenticalAnswers
from prefactory.context import Context
from prefactory.measures.overlap import rouge_l, words
from prefactory.tables import Shape, canonical_order
from tests.helpers import content, ledger_of, one_file, recipe, responses, run, view

TEN = "one two three four five six seven eight nine ten"


def kept(table, **fields):
    verdict = NearIdenticalAnswers(**fields).keep(table, Context())
    return set(content(table.filter(verdict["reason"].is_null()), "response"))


def f1(a, b):
    return rouge_l(words(a) or [a], words(b) or [b])


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        (TEN, TEN.upper() + "!", 1.0),
        (TEN, TEN + " eleven", 20 / 21),
        (TEN, "one two three four five", 10 / 15),
        ("a b c d", "d c b a", 0.25),
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("我爱北京", "我爱上海", 0.5),
        ("😀", "😀", 1.0),
        ("😀", "😎", 0.0),
        ("", "", 1.0),
    ],
)
def test_rouge_l_by_hand(a, b, value):
    assert f1(a, b) == f1(b, a) == pytest.approx(value)


def test_a_rewording_of_few_words_goes_and_says_of_what():
    table = responses(("q", TEN), ("q", TEN + " eleven"), ("q", "something else"))
    verdict = NearIdenticalAnswers().keep(table, Context())
    gone = table.with_columns(verdict).filter(pl.col("reason").is_not_null())
    assert gone["reason"].to_list() == ["near_identical"]
    stays = min(table["response_id"].head(2))
    assert gone["detail"].to_list() == [f"rouge_l 0.952 with {stays}"]
    assert gone["response_id"].to_list() == [max(table["response_id"].head(2))]


def test_the_threshold_is_not_yet_too_alike():
    table = responses(("q", "a b c d"), ("q", "a b c e"))  # F1 is 0.75
    assert len(kept(table, threshold=0.75)) == 2
    assert len(kept(table, threshold=0.74)) == 1


def test_the_best_stays_and_missing_scores_come_last():
    texts = [TEN, TEN + " eleven", "zero " + TEN, TEN + "!"]
    table = responses(*[("q", t) for t in texts], score_h=[1.0, None, 3.0, float("nan")])
    assert kept(table, keep_best="h") == {"zero " + TEN}
    flat = table.with_columns(score_h=pl.lit(None, dtype=pl.Float64))
    assert kept(flat, keep_best="h") == kept(table)


def test_a_chain_does_not_fall_as_a_whole():
    chain = [" ".join(f"w{i}" for i in range(j, j + 10)) for j in range(6)]
    table = responses(*[("q", t) for t in chain], score_h=[6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    # neighbours share 9 of 10 words, the next but one 8: at 0.75 each keeps off two on either side
    assert kept(table, keep_best="h", threshold=0.75) == {chain[0], chain[3]}


def test_other_prompts_do_not_matter():
    table = responses(("q", TEN), ("other q", TEN))
    assert len(kept(table)) == 1  # the same text
    assert NearIdenticalAnswers().keep(table, Context())["reason"].null_count() == 2


def test_bounds_never_change_the_verdict():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(60)]
    table = canonical_order(
        responses(*[(f"q{i % 4}", t) for i, t in enumerate(texts)]).unique("response_id"),
        Shape.RESPONSES,
    )
    verdict = NearIdenticalAnswers(threshold=0.6).keep(table, Context())
    expected = []
    for rows in table.partition_by("prompt_id", maintain_order=True):
        stays = []
        for answer_id, (text,) in zip(
            rows["response_id"],
            rows["response"].list.eval(pl.element().struct.field("content")),
            strict=True,
        ):
            hit = any(f1(text, other) > 0.6 for other in stays)
            expected.append((answer_id, hit))
            stays += [] if hit else [text]
    got = zip(table["response_id"], verdict["reason"].is_not_null(), strict=True)
    assert dict(got) == dict(expected)


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    rows = [(f"q{i % 9}", TEN + " x" * (i % 5)) for i in range(45)]
    rows += [(f"q{i % 9}", f"quite another answer, number {i}") for i in range(9)]
    table = responses(*rows)
    step = {"filters.NearIdenticalAnswers": {}}
    first = run(recipe(step), one_file(table), tmp_path / "a", shard_rows=1000)
    for name, other, size in (("b", table, 1), ("c", table[::-1], 7)):
        again = run(recipe(step), one_file(other), tmp_path / name, shard_rows=size)
        assert (
            view(again, "responses")
            .drop("source_id")
            .equals(view(first, "responses").drop("source_id"))
        )
        assert (
            ledger_of(again)
            .sort("row_id")
            .drop("detail")
            .equals(ledger_of(first).sort("row_id").drop("detail"))
        )
    assert view(first, "responses").height == 18


def test_fields_are_checked():
    with pytest.raises(ValidationError):
        NearIdenticalAnswers(threshold=1.1)
    assert NearIdenticalAnswers(keep_best="h").needs(Shape.RESPONSES) == {"score_h": pl.Float64()}
