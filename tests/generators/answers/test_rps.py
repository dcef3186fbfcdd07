"""RPS: directions on the cap, the baseline at theta_max 0, the best of what was scored."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from generators import RPS
from generators.answers.rps import cap, percents
from labelers import Combine, Pairs
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.tables import Shape
from tests.generators.sampling import asked_run, model, said
from tests.helpers import asking, content, digest, prompts, recipe

HERE = __name__
TARGET = {"helpfulness": 1.0, "brevity": 1.0}
TABLE = prompts(*[f"q{i}" for i in range(40)])


def obedient(request):
    """Says the weights that it was told, and its draw."""
    told = request.conversation[0]["content"]
    numbers = [line.rsplit(": ", 1)[1] for line in told.splitlines() if line.startswith("- ")]
    return f"{' '.join(numbers)} #{request.draw_seed}"


def made(table=TABLE, **fields):
    step = RPS(**{"model": model("m", f"{HERE}.obedient"), "target": TARGET, **fields})
    return step, apply_generator(step, "generators.RPS", table, Shape.PROMPTS, asking())[0]


def matrix(rows, column="direction"):
    return np.array(rows[column].to_list())


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda v: sum(v) > 0.01),
    st.floats(0, 89),
    st.sampled_from(["area", "cosine"]),
    st.sampled_from(["clip", "reflect"]),
    st.integers(0, 2**32),
)
def test_directions_are_unit_in_the_cone_and_never_negative(weights, theta, spread, outside, seed):
    target = np.array(weights) / np.linalg.norm(weights)
    rng = np.random.default_rng(seed)
    axes, radius = rng.standard_normal((50, target.size)), rng.random(50)
    found = cap(target, axes, radius, theta, spread, outside)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert (found >= 0).all()
    angles = np.degrees(np.arccos(np.clip(found @ target, -1, 1)))
    assert (angles <= theta + 1e-5).all()


def test_for_two_objectives_the_angle_is_even_on_both_sides():
    target = np.array([math.sqrt(0.5)] * 2)
    rng = np.random.default_rng(0)
    found = cap(target, rng.standard_normal((4000, 2)), rng.random(4000), 30.0)
    angles = np.degrees(np.arctan2(found[:, 1], found[:, 0])) - 45
    counts = np.histogram(angles, 6, (-30, 30))[0]
    assert counts.sum() == 4000
    assert (abs(counts - 4000 / 6) < 4 * math.sqrt(4000 / 6)).all()


def test_for_three_objectives_the_cosine_is_even_over_the_cap():
    target = np.array([math.sqrt(1 / 3)] * 3)
    rng = np.random.default_rng(0)
    axes, radius = rng.standard_normal((4000, 3)), rng.random(4000)
    found = cap(target, axes, radius, 20.0, "cosine")
    low = math.cos(math.radians(20))
    counts = np.histogram(found @ target, 5, (low, 1))[0]
    assert (abs(counts - 800) < 4 * math.sqrt(800)).all()
    # over a small cap, evenness by area and by cosine are nearly one thing
    near = np.histogram(cap(target, axes, radius, 20.0) @ target, 5, (low, 1))[0]
    assert (abs(near - 800) < 100).all()


def test_at_a_corner_negative_weights_are_cut_or_turned():
    target, axes = np.array([1.0, 0.0]), np.array([[0.0, -1.0], [0.0, 1.0]])
    radius = np.array([1.0, 1.0])
    third = [math.cos(math.pi / 6), 0.5]
    assert np.allclose(cap(target, axes, radius, 30.0), [[1, 0], third])
    assert np.allclose(cap(target, axes, radius, 30.0, outside="reflect"), [third, third])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=7).filter(lambda v: sum(v) > 0.01))
def test_percents_sum_to_a_hundred_and_keep_the_order(weights):
    found = percents(np.array(weights))
    assert sum(found) == 100
    assert all(abs(p - 100 * w / sum(weights)) <= 1 for p, w in zip(found, weights, strict=True))


def test_known_percents():
    assert percents(np.array([1.0, 1.0, 1.0])) == [34, 33, 33]
    assert percents(np.array([0.7, 0.3])) == [70, 30]
    assert percents(np.array([1.0, 0.0])) == [100, 0]


def test_theta_0_is_the_baseline():
    _, baseline = made(at_target=5)
    _, narrow = made(theta_max=0, at_target=0)
    assert narrow.equals(baseline)
    assert baseline["angle"].max() < 1e-5
    assert baseline.height == 5 * TABLE.height  # five different samples of each prompt


def test_candidates_are_told_their_own_direction():
    step, rows = made(k=4, at_target=1, theta_max=25)
    assert rows.height == 4 * TABLE.height
    directions, angle = matrix(rows), rows["angle"].to_numpy()
    assert np.allclose(matrix(rows, "target"), step.unit_target())
    assert np.allclose(
        np.degrees(np.arccos(np.clip(directions @ step.unit_target(), -1, 1))), angle
    )
    assert angle.max() <= 25 + 1e-9
    first = rows["sample"].to_numpy() == 0
    assert (angle[first] < 1e-5).all()
    assert (angle[~first] > 0).mean() == 1
    for text, direction in zip(content(rows, "response"), directions, strict=True):
        assert text.split(" #")[0] == " ".join(map(str, percents(direction)))
    told = said(rows)["system_used"][0]
    assert told.startswith("Weigh what makes")
    assert "- helpfulness: " in told


def test_names_and_text_of_the_message_are_options():
    prompts_ = {"weights": "{% for w in weights %}<{{ w.name }}={{ w.percent }}>{% endfor %}"}
    step, rows = made(names={"brevity": "being short"}, prompts=prompts_, at_target=5, k=5)
    assert set(rows["system_used"]) == {"<helpfulness=50><being short=50>"}
    assert step.identity()["prompts"] == prompts_


def test_the_pair_is_the_best_and_worst_for_the_target_not_for_the_own_direction():
    _, rows = made(k=5, at_target=1, theta_max=30)
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(rows.height, 2))
    rows = rows.with_columns(
        score_helpfulness=pl.Series(rewards[:, 0]), score_brevity=pl.Series(rewards[:, 1])
    )
    combine = Combine(name="target", weights=TARGET)
    ctx = Context(state=combine.fit(combine.fit_shard(rows, Context()), Context()))
    rows = rows.hstack(combine.label(rows, ctx).get_columns())
    pairs = Pairs(objective="target").generate(rows, Context()).rows
    value = pl.Series("value", rewards.sum(axis=1))
    best = rows.with_columns(value).sort("value").group_by("prompt_id", maintain_order=True)
    best = best.agg(low=pl.col("response_id").first(), high=pl.col("response_id").last())
    found = pairs.join(best, on="prompt_id")
    assert found.height == TABLE.height
    assert found["chosen_id"].equals(found["high"], check_names=False)
    assert found["rejected_id"].equals(found["low"], check_names=False)


def toy_win(degrees, neighbours):
    """Share of prompts where the best of five candidates beats the best of five at the target.

    A model trained at 5 degrees: the reward of an answer falls with the angle between its
    direction and that (width 25 degrees), with noise. The scorer sees the reward for the target.
    """
    radians = math.radians(degrees)
    target = {"a": math.cos(radians), "b": math.sin(radians)}
    step = RPS(model=model("m", f"{HERE}.obedient"), target=target, at_target=0)
    ids = pl.Series([f"p{i}" for i in range(3000)])
    near = step._directions(ids, step.unit_target(), Context(seed=neighbours))
    mode = np.array([math.cos(math.radians(5)), math.sin(math.radians(5))])
    rng = np.random.default_rng(neighbours)

    def best(directions):
        off = np.degrees(np.arccos(np.clip(directions @ mode, -1, 1)))
        quality = np.exp(-((off / 25) ** 2))
        gain = quality * (directions @ step.unit_target())
        return (gain + 0.1 * rng.normal(size=gain.shape)).reshape(-1, 5).max(axis=1)

    at = np.tile(step.unit_target(), (near.shape[0], 1))
    return float((best(near) > best(at)).mean())


def test_it_helps_far_from_what_the_model_knows_and_hurts_close_to_it():
    """The toy of the specification: below one half near the mode, well above it far away."""
    near, far = toy_win(10, 1), toy_win(40, 2)
    assert near < 0.45
    assert far > 0.7


@pytest.mark.slow
def test_shards_and_order_change_nothing(tmp_path):
    step = recipe({"generators.RPS": {"model": model("m", f"{HERE}.obedient"), "target": TARGET}})
    digests = {
        digest(asked_run(step, t, tmp_path / str(i), size, 2))
        for i, (t, size) in enumerate([(TABLE, 1000), (TABLE, 1), (TABLE[::-1], 7)])
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"target": {"a": 1}}, "at least 2"),
        ({"target": {"a": 0, "b": 0}}, "above 0"),
        ({"target": {"a": 1, "b": -1}}, "greater than or equal"),
        ({"theta_max": 90}, "less than 90"),
        ({"k": 2, "at_target": 3}, "there are 2 candidates"),
        ({"names": {"c": "x"}}, "c is no objective"),
        ({"prompts": {"weights": "{{ weight }}"}}, "did you mean 'weights'"),
    ],
)
def test_fields_are_checked(fields, text):
    with pytest.raises(ValidationError, match=text):
        RPS(**{"model": model("m", f"{HERE}.obedient"), "target": TARGET, **fields})
