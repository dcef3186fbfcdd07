"""Density ratios of prompts: known answers, refusals, and that a table's cut changes nothing."""

import numpy as np
import polars as pl
import pytest

from labelers import DensityRatio
from labelers.heads.density import fitted
from prefactory.errors import DataError
from prefactory.testing import apply_step
from tests.helpers import responses


def test_the_ratio_of_two_normals_is_their_density_ratio():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000)])[:, None]
    found = fitted(x, np.arange(40_000) < 20_000)
    at = np.linspace(-1, 2, 7)
    expected = np.exp(at - 0.5)
    np.testing.assert_allclose(np.exp(found.log_odds(at[:, None])), expected, rtol=0.06)
    few = np.concatenate([x[:2_000], x[20_000:]])
    again = fitted(few, np.arange(22_000) < 2_000)
    np.testing.assert_allclose(np.exp(again.log_odds(at[:, None])), expected, rtol=0.15)


def answers(n, of_good, of_bad):
    """Answers with thumbs up and down, whose prompts have the words of their class in turn."""
    words = [of_bad[i // 2 % len(of_bad)] if i % 2 == 0 else of_good for i in range(n)]
    rows = [(f"tell me about {word} {i}", f"answer {i}") for i, word in enumerate(words)]
    table = responses(*rows)
    text = table["response"].list.first().struct.field("content")
    good = text.str.extract(r"(\d+)").cast(pl.Int64) % 2
    return table.with_columns(score_label=good.cast(pl.Float64))


def test_bad_answers_to_prompts_of_the_good_ones_weigh_more():
    done = apply_step(DensityRatio(), answers(160, "eggs", ("eggs", "cars")))
    assert done.state.info["matched"]
    rows = done.rows.with_columns(about=pl.col("prompt").list.first().struct.field("content"))
    assert set(rows.filter(pl.col("score_label") == 1)["density_ratio"]) == {1.0}
    bad = rows.filter(pl.col("score_label") == 0)
    eggs, cars = (
        bad.filter(pl.col("about").str.contains(word))["density_ratio"] for word in ("egg", "car")
    )
    assert eggs.median() > 1 > cars.median()
    assert bad["density_ratio"].is_between(0.5, 10).all()


def test_prompts_that_coincide_are_refused_and_so_is_one_class():
    same = answers(80, "eggs", ("eggs",))
    with pytest.raises(DataError, match=r"can't be told apart.*nothing to match"):
        apply_step(DensityRatio(), same)
    done = apply_step(DensityRatio(on_same="one"), same)
    assert set(done.rows["density_ratio"]) == {1.0}
    with pytest.raises(DataError, match="0 bad"):
        apply_step(DensityRatio(), same.with_columns(score_label=pl.lit(1.0)))


def test_an_answer_without_a_score_has_no_ratio():
    table = answers(80, "eggs", ("cars",))
    first = pl.col("response_id") == table["response_id"][0]
    table = table.with_columns(score_label=pl.when(~first).then("score_label"))
    done = apply_step(DensityRatio(), table)
    assert done.rows["density_ratio"].null_count() == 1
