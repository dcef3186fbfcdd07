"""Selections by other libraries, or in plain NumPy where there is none; started by `selection.py`.

    PEERS_PYTHON benchmarks/peers/selection.py NAME DATA.npz OUT.npy

Runs in an environment that holds the peers, and imports nothing of prefactory.
"""

import json
import resource
import sys
import time

import numpy as np


def apricot_sparse(data, k):
    """Apricot's lazy facility location on scikit-learn's 128 nearest neighbours."""
    import scipy.sparse as sp
    from apricot import FacilityLocationSelection
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(
        data["vectors"], 128, metric="cosine", mode="distance", include_self=True
    )
    graph.data = np.maximum(1.0 - graph.data, 0.0)
    parts = (graph.data, graph.indices.astype(np.int32), graph.indptr.astype(np.int32))
    graph = sp.csr_matrix(parts, shape=graph.shape)
    selector = FacilityLocationSelection(k, metric="precomputed", optimizer="lazy")
    return selector.fit(graph).ranking


def apricot_dense(data, k):
    """Apricot's lazy facility location on all cosines."""
    from apricot import FacilityLocationSelection

    selector = FacilityLocationSelection(k, metric="cosine", optimizer="lazy")
    return selector.fit(data["vectors"].astype(np.float64)).ranking


def submodlib_sparse(data, k):
    """Submodlib's lazy facility location with 128 neighbours."""
    from submodlib import FacilityLocationFunction

    vectors = data["vectors"]
    function = FacilityLocationFunction(
        n=len(vectors), mode="sparse", data=vectors, metric="cosine", num_neighbors=128
    )
    picks = function.maximize(
        budget=k,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    return np.asarray([row for row, _ in picks])


def numpy_k_center(data, k):
    """Farthest-first traversal, one matrix-vector product a pick."""
    x = data["vectors"]
    first = int(np.argmax(x @ x.mean(axis=0)))
    picks, far = [first], 1.0 - x @ x[first]
    for _ in range(k - 1):
        row = int(np.argmax(far))
        picks.append(row)
        np.minimum(far, 1.0 - x @ x[row], out=far)
    return np.asarray(picks)


def _greedy_map(x, k, jitter):
    """Greedy MAP with incremental Cholesky rows (n x k memory)."""
    n = len(x)
    rows = np.zeros((k, n))
    left = (x**2).sum(axis=1) + jitter
    picks = []
    for i in range(k):
        row = int(np.argmax(left))
        picks.append(row)
        column = x @ x[row]
        column[row] += jitter
        rows[i] = (column - rows[:i, row] @ rows[:i]) / np.sqrt(left[row])
        left -= rows[i] ** 2
        left[row] = -np.inf
    return np.asarray(picks)


def numpy_dpp(data, k):
    """The published greedy MAP, kernel columns on demand."""
    x = data["vectors"].astype(np.float64)
    return _greedy_map(x, min(k, x.shape[1] - 1), 0.0)


def numpy_dpp_jitter(data, k):
    """The same with a jitter, past the rank."""
    return _greedy_map(data["vectors"].astype(np.float64), k, 1e-3)


def dppy_sample(data, k):
    """Dppy has no MAP: an exact sample of k from the same kernel, by its dual."""
    from dppy.finite_dpps import FiniteDPP

    x = data["vectors"].astype(np.float64)
    dpp = FiniteDPP("likelihood", L_gram_factor=x.T)
    k = min(k, x.shape[1] - 1)
    return np.asarray(dpp.sample_exact_k_dpp(size=k, random_state=0))


def numpy_d_optimal(data, k):
    """Every leverage again after each pick, by a rank-one update."""
    x, ridge = data["vectors"].astype(np.float64), 0.01
    inverse = np.eye(x.shape[1]) / ridge
    gain, picks = (x**2).sum(axis=1) / ridge, []
    for _ in range(k):
        row = int(np.argmax(gain))
        picks.append(row)
        step = inverse @ x[row] / np.sqrt(1.0 + x[row] @ inverse @ x[row])
        inverse -= np.outer(step, step)
        gain -= (x @ step) ** 2
        gain[row] = -np.inf
    return np.asarray(picks)


def numpy_deita(data, k):
    """One row at a time against the kept ones."""
    x = data["vectors"]
    kept = np.empty((k, x.shape[1]), dtype=np.float32)
    picks = []
    for row in np.argsort(-data["score"], kind="stable"):
        if len(picks) == k:
            break
        if not picks or (kept[: len(picks)] @ x[row]).max() <= 0.9:
            kept[len(picks)] = x[row]
            picks.append(int(row))
    return np.asarray(picks)


def python_instag(data, k):
    """Sets of tags, pass after pass."""
    tags = [set() for _ in range(len(data["vectors"]))]
    for row, tag in zip(data["owner"].tolist(), data["tag"].tolist(), strict=True):
        tags[row].add(tag)
    pool, picks = sorted(range(len(tags)), key=lambda i: -len(tags[i])), []
    while pool and len(picks) < k:
        known, rest, before = set(), [], len(picks)
        for row in pool:
            if len(picks) < k and not tags[row] <= known:
                known |= tags[row]
                picks.append(row)
            else:
                rest.append(row)
        pool = rest
        if len(picks) == before:
            picks += pool[: k - len(picks)]
    return np.asarray(picks)


def numpy_match(data, k):
    """The whole kernel at once, in double precision."""
    x, z = data["vectors"].astype(np.float64), data["target"].astype(np.float64)
    kernel = np.exp((x @ z.T - 1.0) / 0.05)
    weights = (kernel / kernel.sum(axis=0)).mean(axis=1)
    return np.argsort(-weights, kind="stable")[:k]


def pot_sinkhorn(data, k):
    """POT's Sinkhorn on logarithms, 2,000 x 2,000."""
    import ot

    x = data["vectors"][:2000].astype(np.float64)
    z = data["target"][:2000].astype(np.float64)
    cost = 1.0 - x @ z.T
    a, b = np.full(len(x), 1.0 / len(x)), np.full(len(z), 1.0 / len(z))
    plan = ot.sinkhorn(a, b, cost, 0.05, method="sinkhorn_log", numItermax=200, stopThr=1e-9)
    return float((plan * cost).sum())


def sklearn_heads(data, k):
    """Eight logistic regressions without intercept, on pairs in both orders, Poisson weights."""
    from sklearn.linear_model import LogisticRegression

    x, p = data["vectors"].astype(np.float64), []
    both, label = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    for weights in data["draws"].T:
        model = LogisticRegression(C=1.0 / (1e-3 * 2 * weights.sum()), fit_intercept=False)
        model.fit(both, label, sample_weight=np.concatenate([weights, weights]))
        p.append(model.predict_proba(x)[:, 1])
    p = np.stack(p)

    def entropy(q):
        q = np.clip(q, 1e-12, 1 - 1e-12)
        return -q * np.log(q) - (1 - q) * np.log(1 - q)

    return np.argsort(-(entropy(p.mean(axis=0)) - entropy(p).mean(axis=0)), kind="stable")[:k]


def sklearn_isa(data, k):
    """scikit-learn's PCA and Gaussian mixture, five starts."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    points = PCA(64, random_state=0).fit_transform(data["vectors"].astype(np.float64))
    model = GaussianMixture(2, n_init=5, tol=1e-4, max_iter=200, random_state=0).fit(points)
    return np.argsort(model.score_samples(points), kind="stable")[:k]


def numpy_self_repellent(data, k):
    """The published method needs the n x n matrix: this is its greedy cover with random visits."""
    x = data["vectors"]
    rng = np.random.default_rng(0)
    reach = 0.3 * np.sqrt(2.0 * (1.0 - float(np.square(x.mean(axis=0)).sum())))
    limit, order = 1.0 - reach**2 / 2.0, rng.permutation(len(x))
    taken, near, picks = np.zeros(len(x), dtype=bool), np.zeros(len(x), dtype=bool), []
    while len(picks) < k:
        for row in order:
            if not near[row] and not taken[row]:
                picks.append(int(row))
                taken[row] = True
                near |= x @ x[row] > limit
                if len(picks) == k:
                    break
        near[:] = False
    return np.asarray(picks)


def numpy_margin(data, k):
    """Quantiles, clip, product."""
    p = []
    for name in ("score", "second"):
        low, high = np.quantile(data[name], [0.05, 0.95])
        p.append(0.01 + 0.98 * (np.clip(data[name], low, high) - low) / (high - low))
    joint = p[0] * p[1] / (p[0] * p[1] + (1 - p[0]) * (1 - p[1]))
    return np.argsort(-joint, kind="stable")[:k]


def main():
    """Run one contender and print its time and peak memory."""
    name, path, out = sys.argv[1:4]
    data = dict(np.load(path))
    few = {k: v[:200] for k, v in data.items()}
    few["owner"], few["tag"] = data["owner"][:0], data["tag"][:0]
    if not name.startswith("submodlib"):
        globals()[name](few, 4)  # imports and compilation are not what is measured
    before = time.perf_counter()
    found = globals()[name](data, len(data["vectors"]) // 10)
    seconds = time.perf_counter() - before
    value = found if isinstance(found, float) else None
    if value is None:
        np.save(out, found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "value": value}))


if __name__ == "__main__":
    main()
