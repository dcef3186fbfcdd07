"""What policies reach on objectives that disagree, and the volume they dominate."""

import numpy as np
import polars as pl
import pytest

from prefactory.errors import ConfigError
from trainers import RACO, DatasetRef
from trainers.objectives.frontier import (
    ARMS,
    Frontier,
    Point,
    by_objective,
    explored,
    hypervolume,
    kept_beside,
    simplex,
    undominated,
)


def test_hypervolume_of_steps_and_boxes():
    assert hypervolume(np.array([[0.2, 0.9], [0.7, 0.4]])) == pytest.approx(0.2 * 0.9 + 0.5 * 0.4)
    assert hypervolume(np.array([[0.5, 0.5], [0.4, 0.3]])) == pytest.approx(0.25), "dominated"
    assert hypervolume(np.ones((3, 3))) == 1
    assert hypervolume(np.zeros((0, 2))) == 0
    corners = np.array([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1.0]])
    assert hypervolume(corners) == pytest.approx(0.125 * (1 + 3))
    assert hypervolume(corners, 0.5) == 0


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_is_the_share_of_a_cube_that_is_dominated(m):
    rng = np.random.default_rng(m)
    levels = rng.uniform(0.2, 1, size=(8, m))
    drawn = rng.uniform(size=(100_000, m))
    share = (drawn[:, None] <= levels).all(axis=2).any(axis=1).mean()
    assert hypervolume(levels) == pytest.approx(share, abs=0.006)
    assert hypervolume(levels[undominated(levels)]) == pytest.approx(hypervolume(levels))


def test_the_best_are_those_that_none_is_better_than():
    levels = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.4], [0.5, 0.5]])
    assert undominated(levels).tolist() == [True, True, True, False, True]


def test_weights_cover_the_simplex():
    assert list(simplex(2, 2)) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    three = list(simplex(3, 4))
    assert len(three) == len(set(three)) == 15
    assert np.array(three).sum(axis=1) == pytest.approx(1)


@pytest.fixture
def data(tmp_path, make):
    """Held-out pairs of which `a` likes all and `b` every other one, with a tie."""
    held = make.polite_pairs(8, seed=1).with_columns(
        sign_a=pl.lit(1), sign_b=pl.Series([1, -1, 1, -1, 1, -1, 0, 0])
    )
    train = make.polite_pairs(8).with_columns(sign_a=pl.lit(1), sign_b=pl.lit(-1))
    return DatasetRef.from_path(make.publish(tmp_path / "v", train, held))


def test_accuracy_by_objective_counts_what_it_has_a_say_on(data):
    margins = pl.DataFrame({"pair_id": data.pairs("test")["pair_id"][:]})
    margins = margins.with_columns(margin=pl.Series([2.0, 1, 1, 1, -1, 1, 0, 1]))
    signs = {"a": "sign_a", "b": "sign_b"}
    found = by_objective(margins, data, signs)
    assert found == {"a": pytest.approx(6.5 / 8), "b": pytest.approx(2 / 6)}


def test_a_frontier_goes_on_after_the_last_training_that_was_done(data, tmp_path):
    config = RACO(model="m", frontier=2)
    ids = data.pairs("test")["pair_id"][:]
    asked = []

    def train(one, ref, folder):
        asked.append((dict(one.objectives), one.radius))
        assert one.frontier == 0
        if len(asked) == 3:
            raise KeyboardInterrupt
        sign = 1.0 if one.objectives.get("a", 0) >= 0.5 else -1.0
        return pl.DataFrame({"pair_id": ids, "margin": [sign] * len(ids)})

    with pytest.raises(KeyboardInterrupt):
        explored(config, ["a", "b"], data, tmp_path / "m", train)
    found = explored(config, ["a", "b"], data, tmp_path / "m", train)
    assert asked == [
        ({"b": 1.0}, 0.0), ({"a": 0.5, "b": 0.5}, 0.4), ({"a": 0.5, "b": 0.5}, 0.0),
        ({"a": 0.5, "b": 0.5}, 0.0), ({"a": 1.0}, 0.0),
    ]  # fmt: skip
    assert [p.arm for p in found.points] == ["raco"] * 3 + ["weighted DPO"] * 3
    assert found.volume("raco") == found.volume("weighted DPO") == pytest.approx(0.5)
    assert kept_beside(tmp_path / "m").is_dir()
    for frontier, names in ((99, ["a", "b"]), (2, ["a"])):
        with pytest.raises(ConfigError, match="two objectives or more"):
            explored(config.model_copy(update={"frontier": frontier}), names, data, tmp_path, train)


def test_a_frontier_is_shown_as_lines_and_as_a_chart():
    points = [
        Point(arm, {"a<b": w, "c": 1 - w}, {"a<b": w, "c": 0.9 - w / 2})
        for arm in ARMS for w in (0.0, 1.0)
    ]  # fmt: skip
    found = Frontier.of(["a<b", "c"], points)
    assert found.lines()[0] == "hypervolume over 0: raco 0.4000, weighted DPO 0.4000"
    assert found.lines()[2] == "raco, weights a<b 1, c 0: accuracy a<b 1, c 0.4 (best)"
    chart = str(found.chart())
    assert "a&lt;b" in chart
    assert "a<b" not in chart
    assert chart.count("<circle") == 4


@pytest.mark.slow
def test_two_objectives_that_disagree_have_a_frontier_in_the_report(
    tmp_path, make, tiny_model, monkeypatch
):
    import torch

    from trainers import train_transformer

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    signs = {"sign_a": pl.lit(1), "sign_b": pl.int_range(pl.len()) % 3 - 1}
    tables = [t.with_columns(**signs) for t in (make.polite_pairs(12), make.polite_pairs(9, 1))]
    data = DatasetRef.from_path(make.publish(tmp_path / "v", *tables))
    config = RACO(
        model=str(tiny_model), frontier=1, max_steps=6, learning_rate=1e-2, max_length=64,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, compare_answers=0,
        gradient_checkpointing=False,
    )  # fmt: skip
    report = train_transformer(config, data, tmp_path / "m")
    assert report.frontier is not None
    assert len(report.frontier.points) == 4
    assert "hypervolume over 0" in report.text()
    assert '<h2 id="frontier-title">Frontier</h2>' in report.page.read_text()
    assert report.facts["accuracy by a"] == report.test.accuracy
    assert not kept_beside(tmp_path / "m").exists()
