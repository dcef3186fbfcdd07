"""Fusion of encoders and its gate: the loss's numbers, and what is planted, is found or refused."""

import numpy as np
import pytest
import torch

from prefactory.errors import ConfigError, DataError
from prefactory.spaces.admission import admit, found_again, hits, ridge_map, split, triplets
from prefactory.spaces.change import change, divergence, overlaps
from prefactory.spaces.fusion import Fusion, all_pairs_loss, fit


def planted(shared=1.0, private=3.0, rows=900, groups=90, seed=0, dims=(48, 64, 40), latent=12):
    """K views of texts: what they share, of which texts of a group have most in common."""
    rng = np.random.default_rng(seed)
    group = np.arange(rows) % groups
    z = rng.normal(size=(groups, latent))[group] + 0.6 * rng.normal(size=(rows, latent))
    views = []
    for d in dims:
        own = rng.normal(size=(rows, latent))
        maps = rng.normal(size=(2, latent, d)) / np.sqrt(latent)
        noise = 0.1 * rng.normal(size=(rows, d))
        views.append(shared * z @ maps[0] + private * own @ maps[1] + noise)
    return views, group


def test_the_loss_of_known_points():
    eye = torch.eye(4, dtype=torch.float64)
    assert float(all_pairs_loss([eye, eye], 10.0, -10.0)) == pytest.approx(0.6933, abs=1e-4)
    one = eye[:1].expand(4, 4)
    assert float(all_pairs_loss([one, one], 10.0, -10.0)) == pytest.approx(4 * np.log(2))
    far = torch.eye(8, dtype=torch.float64)
    apart = float(all_pairs_loss([far[:4], far[4:]], 10.0, -10.0))
    assert apart == pytest.approx(10.0002, abs=1e-4)
    masked = ~torch.eye(4, dtype=torch.bool)
    only = float(all_pairs_loss([eye, eye, eye], 10.0, -10.0, masked))
    assert only == pytest.approx(np.log(2)), "of one cluster nothing is pushed apart"


def test_what_encoders_share_under_what_they_do_not_is_admitted():
    views, group = planted()
    found = admit(views, ["a", "b", "c"], group, group, dim=16, steps=100)
    by = {c.name: c for c in found.candidates}
    assert found.accepted
    assert by["fused by the mean"].accepted
    assert by["fused by the mean"].odd_one_out.value > by["side by side"].odd_one_out.value + 0.15
    assert by["fused by the mean"].recall.value > by["side by side"].recall.value + 0.3
    assert found.fusion.loss[1] < 0.3 * found.fusion.loss[0]
    one, two = (fit(views, group, dim=16, steps=3, seed=1) for _ in range(2))
    assert all((x == y).all() for x, y in zip(one.maps, two.maps, strict=True))


@pytest.mark.parametrize(("shared", "private"), [(0.0, 3.0), (1.0, 0.0)])
def test_nothing_shared_and_nothing_to_take_away_are_refused(shared, private):
    views, group = planted(shared, private, rows=600, groups=60)
    found = admit(views, ["a", "b", "c"], group, group, dim=16, steps=100)
    assert not found.accepted
    odd = {c.name: c.odd_one_out.value for c in found.candidates}
    if not shared:
        assert odd["fused by the mean"] == pytest.approx(1 / 3, abs=0.1)


def test_missing_vectors_and_encoders_are_flagged(tmp_path):
    views, group = planted(rows=200, groups=50, dims=(10, 12))
    fusion = fit(views, group, dim=8, steps=20)
    whole, lacking = fusion(views)
    assert not lacking.any()
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-6)
    views[0][3] = 0
    fused, lacking = fusion(views)
    assert lacking.tolist() == [i == 3 for i in range(200)]
    assert fused[3] == pytest.approx(fusion.mapped(1, views[1])[3], abs=1e-6)
    one, lacking = fusion([None, views[1]])
    assert lacking.all()
    assert one[5] == pytest.approx(fusion.mapped(1, views[1])[5], abs=1e-6)
    views[1][3] = 0
    assert fusion(views)[0][3].tolist() == [0.0] * 8, "zeros, not NaN"
    alone = fusion([v[[7, 9]] for v in views])[0]
    assert alone.tobytes() == fusion(views)[0][[7, 9]].tobytes(), "a row in any company"
    fusion.save(tmp_path, [{"model": "a"}, {"model": "b"}], {})
    again, encoders = Fusion.load(tmp_path)
    assert [e["model"] for e in encoders] == ["a", "b"]
    assert (again(views)[0] == fusion(views)[0]).all()


def test_too_few_texts_or_encoders_are_refused(tmp_path):
    views, group = planted(rows=100, groups=20)
    with pytest.raises(ConfigError, match="two encoders"):
        fit(views[:1], group)
    with pytest.raises(DataError, match="32 dimensions takes 128 texts, and there are 100"):
        fit(views, group)
    fusion = fit(views, group, dim=4, steps=2)
    with pytest.raises(ConfigError, match="3 encoders were fused, and 2 are given"):
        fusion(views[:2])
    with pytest.raises(ConfigError, match="encoder 1 gives 64 numbers; 48 were fused"):
        fusion([views[1], views[1], views[2]])
    with pytest.raises(ConfigError, match="holds no fusion"):
        Fusion.load(tmp_path)


def test_triplets_are_of_two_groups_and_clusters_stay_whole():
    group = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 1, 1, 2, 2, 9])
    drawn = triplets(group, 0)
    assert (group[drawn[:, 0]] == group[drawn[:, 1]]).all()
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert (group[drawn[:, 0]] != group[drawn[:, 2]]).all()
    held = split(group, 0)
    assert all(len(set(held[group == g])) == 1 for g in range(10))
    vectors = np.eye(10)[group]
    assert hits(vectors, drawn).all()
    noise = np.random.default_rng(0).normal(size=(len(group), 40))
    assert hits(noise, drawn).mean() == pytest.approx(1 / 3, abs=0.15)
    with pytest.raises(DataError, match="two texts or more"):
        triplets(np.arange(5), 0)


def test_a_ridge_map_finds_rows_again():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 10))
    y = x @ rng.normal(size=(10, 12))
    found = found_again(ridge_map(x[:200], y[:200], x[200:]), y[200:] - y[:200].mean(axis=0))
    assert found.mean() > 0.9
    assert found_again(np.eye(4), np.eye(4)[[0, 1, 3, 2]]).tolist() == [1, 1, 0, 0]


def test_a_rotation_changes_nothing_and_a_shuffle_all():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 16)) + 2 * rng.normal(size=(8, 16))[np.arange(80) % 8]
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    same = change(x, 3 * x @ turn, np.arange(80))
    assert same.overlap.value == 1
    assert same.structure == pytest.approx(0, abs=1e-9)
    assert same.kept(0.99)
    less = change(x, x[:, :6], np.arange(80))
    lost = change(x, x[rng.permutation(80)], np.arange(80))
    assert same.structure < less.structure < lost.structure <= np.log(2)
    assert lost.overlap.value == pytest.approx(lost.chance, abs=0.06)
    assert not less.kept(0.9)
    assert lost.structure > 0.1, "with the diagonal a shuffle would hardly be seen"
    assert divergence(x, x, levels=1) == 0
    assert overlaps(x, x).tolist() == [1.0] * 80
    with pytest.raises(DataError, match="12 texts or more, not of 5"):
        change(x[:5], x[:5], np.arange(5))
