import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from filters.selection.mixture import auto_dims, fit_mixture, project


def two_clouds(n=200, dims=3, seed=0):
    rng = np.random.default_rng(seed)
    near, far = rng.normal(size=(n // 2, dims)), 2 + 0.5 * rng.normal(size=(n // 2, dims))
    return np.concatenate([near, far])


def fitted(points, k=2, **options):
    return fit_mixture(points, k, rng=np.random.default_rng(1), **options)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_loglik_is_the_formula(covariance):
    points = two_clouds()
    mixture = fitted(points, covariance=covariance)
    parts = zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    joint = [np.log(w) + multivariate_normal(m, c).logpdf(points) for w, m, c in parts]
    np.testing.assert_allclose(mixture.joint(points), np.transpose(joint), rtol=0, atol=1e-12)
    np.testing.assert_allclose(mixture.loglik(points), logsumexp(joint, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(mixture.responsibilities(points).sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_fit_is_as_likely_as_scikit_learn(covariance):
    points = two_clouds()
    ours = fitted(points, covariance=covariance, tol=1e-9)
    theirs = GaussianMixture(
        2, covariance_type=covariance, n_init=5, tol=1e-9, max_iter=500, random_state=0
    ).fit(points)
    assert ours.loglik(points).mean() == pytest.approx(theirs.score(points), abs=1e-6)
    assert sorted(ours.weights) == pytest.approx(sorted(theirs.weights_), abs=1e-4)
    assert ours.converged


def test_labels_start_the_components_in_their_order():
    points = two_clouds()
    desirable = np.repeat([0.0, 1.0], 100)
    mixture = fitted(points, responsibilities=np.stack([1 - desirable, desirable], axis=1))
    assert mixture.means[1].mean() == pytest.approx(2, abs=0.2)
    assert mixture.means[0].mean() == pytest.approx(0, abs=0.2)


def test_shift_and_rotation_do_not_change_the_loglik():
    points = two_clouds()
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    moved = points @ rotation + 5
    np.testing.assert_allclose(
        fitted(points).loglik(points), fitted(moved).loglik(moved), atol=1e-6
    )


def test_degenerate_points():
    same = np.ones((6, 2))
    assert np.ptp(fitted(same).loglik(same)) < 1e-9
    assert fitted(np.zeros((1, 2)), 1).weights.tolist() == [1.0]
    with pytest.raises(ValueError, match="1 points can't carry 2 components"):
        fitted(np.zeros((1, 2)))


def test_a_seed_gives_the_same_bits():
    points = two_clouds()
    first, second = fitted(points).loglik(points), fitted(points).loglik(points)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("n", "d", "dims"),
    [(50_000, 384, 64), (7679, 16, 16), (640, 384, 32), (30, 384, 2), (2, 384, 1), (1, 8, 1)],
)
def test_auto_dims(n, d, dims):
    assert auto_dims(n, d) == dims


def test_project_keeps_distances_in_the_leading_directions():
    rng = np.random.default_rng(0)
    flat = np.zeros((50, 6))
    flat[:, :3] = rng.normal(size=(50, 3))
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    points, kept = project(flat.astype(np.float32), 3)
    assert points.shape == (50, 3)
    assert kept == pytest.approx(1)
    gaps = np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(gaps, np.linalg.norm(unit[:, None] - unit, axis=2), atol=1e-6)
    points, kept = project(flat.astype(np.float32), 6)
    np.testing.assert_allclose(points, unit, atol=1e-6)


def test_project_keeps_zero_vectors_finite():
    points, kept = project(np.zeros((4, 3), dtype=np.float32), 2)
    assert points.tolist() == [[0.0, 0.0]] * 4
    assert kept == 1
