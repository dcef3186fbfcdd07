import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from filters.selection.mixture import auto_dims, fit_mixture, project
from tests.helpers import ROOT


def two_clouds(n=200, dims=3, seed=0):
    rng = np.random.default_rng(seed)
    near, far = rng.normal(size=(n // 2, dims)), 2 + 0.5 * rng.normal(size=(n // 2, dims))
    return np.concatenate([near, far])


def fitted(points, k=2, **options):
    return fit_mixture(points, k, seed=1, **options)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_loglik_is_the_formula(covariance):
    points = two_clouds()
    mixture = fitted(points, covariance=covariance)
    parts = zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
    joint = [np.log(w) + multivariate_normal(m, c).logpdf(points) for w, m, c in parts]
    np.testing.assert_allclose(mixture.score_samples(points), logsumexp(joint, axis=0), atol=1e-10)
    assert mixture.converged_


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_labels_start_the_components_in_their_order(covariance):
    points = two_clouds()
    desirable = np.repeat([0.0, 1.0], 100)
    labels = np.stack([1 - desirable, desirable], axis=1)
    mixture = fitted(points, responsibilities=labels, covariance=covariance)
    assert mixture.means_[1].mean() == pytest.approx(2, abs=0.2)
    assert mixture.means_[0].mean() == pytest.approx(0, abs=0.2)
    other = fitted(points, responsibilities=labels[:, ::-1], covariance=covariance)
    np.testing.assert_allclose(other.means_[::-1], mixture.means_, atol=1e-6)


def test_a_start_is_the_moments_of_its_parts():
    from filters.selection.mixture import REG, _start

    points = two_clouds(60)
    share = np.random.default_rng(3).uniform(size=60)
    resp = np.stack([share, 1 - share], axis=1)
    start = _start(points, resp, "full")
    for k in range(2):
        mean = np.average(points, axis=0, weights=resp[:, k])
        spread = np.cov(points.T, aweights=resp[:, k], ddof=0) + REG * np.eye(3)
        np.testing.assert_allclose(start["means_init"][k], mean)
        np.testing.assert_allclose(np.linalg.inv(start["precisions_init"][k]), spread)
        diagonal = _start(points, resp, "diag")["precisions_init"][k]
        np.testing.assert_allclose(1 / diagonal, np.diag(spread))
    np.testing.assert_allclose(start["weights_init"], resp.mean(axis=0))


def test_labels_that_are_all_the_same_leave_one_component_empty():
    points = two_clouds()
    mixture = fitted(points, responsibilities=np.tile([0.0, 1.0], (200, 1)))
    assert mixture.weights_[1] == pytest.approx(1)
    assert np.isfinite(mixture.score_samples(points)).all()


def test_shift_and_rotation_do_not_change_the_loglik():
    points = two_clouds()
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    moved = points @ rotation + 5
    np.testing.assert_allclose(
        fitted(points).score_samples(points), fitted(moved).score_samples(moved), atol=1e-6
    )


def test_degenerate_points():
    same = np.ones((6, 2))
    assert np.ptp(fitted(same).score_samples(same)) < 1e-9
    assert fitted(np.zeros((1, 2)), 1).weights_.tolist() == [1.0]
    with pytest.raises(ValueError, match="1 points can't carry 2 components"):
        fitted(np.zeros((1, 2)))


def bits():
    """A digest of fits and of their scores, of sizes at which k-means and BLAS use threads."""
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(4000, 24)) + rng.integers(0, 3, (4000, 1))
    digest = hashlib.blake2b(digest_size=8)
    for points in (clouds, np.repeat(clouds[:150], 10, axis=0)):
        for covariance in ("full", "diag"):
            mixture = fitted(points, 3, covariance=covariance, restarts=2)
            digest.update(mixture.means_.tobytes() + mixture.covariances_.tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    code = "from tests.filters.selection.test_mixture import bits; print(bits())"
    found = set()
    for threads in ("1", "2", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | dict.fromkeys(names, threads),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert found == {bits() + "\n"}


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
