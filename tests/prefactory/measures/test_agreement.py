import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.measures.agreement import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    plain,
    ratio,
    share,
)


def long(*raters):
    """Units and values of raters' rows, "." for missing."""
    cells = [(u, v) for row in raters for u, v in enumerate(row.split())]
    units = pl.Series([u for u, _ in cells])
    return units, pl.Series([None if v == "." else int(v) for _, v in cells], dtype=pl.Int64)


def brute_alpha(units, values, distance):
    """Observed over expected disagreement, from the definition: all ordered pairs one by one."""
    by_unit = {}
    for unit, value in zip(units, values, strict=True):
        if value is not None:
            by_unit.setdefault(unit, []).append(value)
    found = [v for v in by_unit.values() if len(v) > 1]
    every = [x for v in found for x in v]
    n = len(every)
    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(v, 2)) / (len(v) - 1) for v in found
    )
    expected = sum(distance(a, b) for a, b in itertools.permutations(every, 2)) / (n - 1)
    return math.nan if expected == 0 else 1 - observed / expected


# -- known answers -----


def test_krippendorffs_own_example_of_four_observers():
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: .743 and .849."""
    units, values = long(
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    nominal = krippendorff_alpha(units, values)
    assert nominal.value == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units, values, "interval").value == pytest.approx(0.849, abs=5e-4)
    assert nominal.n == 11  # the twelfth unit has one rating
    assert nominal.low < nominal.value < nominal.high <= 1
    as_text = values.cast(pl.String)
    assert krippendorff_alpha(units, as_text) == nominal


def test_alpha_of_three_coders_and_fifteen_units():
    """The worked example of the encyclopaedias: .691 nominal, .811 interval."""
    units, values = long(
        ". . . . . 3 4 1 2 1 1 3 3 . 3",
        "1 . 2 1 3 3 4 3 . . . . . . .",
        ". . 2 1 3 4 4 . 2 1 1 3 3 . 4",
    )
    assert krippendorff_alpha(units, values).value == pytest.approx(0.691, abs=5e-4)
    assert krippendorff_alpha(units, values, "interval").value == pytest.approx(0.811, abs=5e-4)


def test_cohens_kappa_of_fifty_grants():
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o .7, p_e .5, kappa .4."""
    one = pl.Series(["y"] * 25 + ["n"] * 25)
    two = pl.Series(["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15)
    found = cohen_kappa(one, two)
    assert found.value == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt (1969), by hand from the four cells, times 50 / 49 (our g - 1).
    p = np.array([[20, 5], [10, 15]]) / 50
    row, col = p.sum(1), p.sum(0)
    a = sum(p[i, i] * (1 - (row[i] + col[i]) * 0.6) ** 2 for i in range(2))
    b = sum(p[i, j] * (col[i] + row[j]) ** 2 * 0.6**2 for i in range(2) for j in range(2) if i != j)
    c = (0.4 - 0.5 * 0.6) ** 2
    assert found.se == pytest.approx(math.sqrt((a + b - c) / (50 * 0.5**2) * 50 / 49))
    assert (found.low, found.high) == pytest.approx(
        (0.4 - 1.959964 * found.se, 0.4 + 1.959964 * found.se)
    )


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_cohens_kappa_as_sklearn_has_it(weights):
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    one = rng.integers(0, 5, 300)
    two = np.clip(one + rng.integers(-1, 2, 300), 0, 4)
    found = cohen_kappa(pl.Series(one), pl.Series(two), weights)
    wanted = cohen_kappa_score(one, two, weights=None if weights == "none" else weights)
    assert found.value == pytest.approx(wanted)


def test_fleiss_kappa_of_fourteen_psychiatrists():
    """The worked example with 10 subjects, 14 raters and 5 categories: .210."""
    counts = np.array(
        [
            [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
        ]
    )  # fmt: skip
    found = fleiss_kappa(counts)
    assert found.value == pytest.approx(0.20993, abs=5e-6)
    units = np.repeat(np.arange(10), 14)
    values = np.concatenate([np.repeat(np.arange(5), row) for row in counts])
    alpha = krippendorff_alpha(pl.Series(units), pl.Series(values)).value
    assert alpha == pytest.approx(1 - (1 - found.value) * (1 - 1 / 140))  # Gwet's relation
    with pytest.raises(ValueError, match="same number of raters"):
        fleiss_kappa(counts + np.eye(10, 5, dtype=int))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 3)), max_size=25),
    st.sampled_from(["nominal", "interval"]),
)
@settings(max_examples=50)
def test_alpha_is_what_its_definition_says(cells, level):
    units, values = [u for u, _ in cells], [v for _, v in cells]
    distance = {"nominal": lambda a, b: a != b, "interval": lambda a, b: (a - b) ** 2}[level]
    wanted = brute_alpha(units, values, distance)
    series = pl.Series(units, dtype=pl.Int64), pl.Series(values, dtype=pl.Int64)
    found = krippendorff_alpha(*series, level).value
    assert found == pytest.approx(wanted, nan_ok=True)
    order = np.random.default_rng(0).permutation(len(cells))
    shuffled = krippendorff_alpha(series[0].gather(order), series[1].gather(order), level).value
    assert shuffled == pytest.approx(wanted, nan_ok=True)


# -- intervals -----


def covered(draw, truth, times=300):
    hits = 0
    for seed in range(times):
        found = draw(np.random.default_rng(seed))
        hits += found.low <= truth <= found.high
    return hits / times


def test_intervals_cover_the_truth():
    """95% intervals should hold the truth in about 95 of 100 experiments."""

    def alpha(rng):
        base = rng.integers(0, 3, 150)
        rated = np.where(rng.random((3, 150)) < 0.7, base, rng.integers(0, 3, (3, 150)))
        keep = rng.random(450) < 0.8
        units = np.tile(np.arange(150), 3)[keep]
        return krippendorff_alpha(pl.Series(units), pl.Series(rated.ravel()[keep]))

    def kappa(rng):
        base = rng.integers(0, 2, 200)
        one, two = np.where(rng.random((2, 200)) < 0.8, base, 1 - base)
        return cohen_kappa(pl.Series(one), pl.Series(two))

    assert 0.91 <= covered(alpha, 0.49) <= 0.985  # 0.7 ** 2
    assert 0.91 <= covered(kappa, 0.36) <= 0.985  # (1 - 2 * 0.2) ** 2


def test_rows_of_a_group_do_not_count_as_many():
    hits = pl.Series([1, 0, 1, 1, 0, 1, 0, 0] * 10, dtype=pl.Int8)
    alone = share(hits)
    copied = pl.concat([hits] * 4)
    same = share(copied, pl.Series(list(range(80)) * 4))
    assert same.value == alone.value == 0.5
    assert same.se == pytest.approx(alone.se)
    assert same.high == pytest.approx(alone.high)
    assert share(copied).se == pytest.approx(alone.se / 2, rel=0.02)
    twice = pl.concat([hits, hits]), pl.concat([1 - hits, hits])
    grouped = cohen_kappa(*twice, groups=pl.Series(list(range(80)) * 2))
    assert grouped.se != cohen_kappa(*twice).se


def test_wilson_intervals_where_all_say_the_same():
    """Ten of ten: (10 + z^2 / 2 -+ ...) / (10 + z^2) = .722 to 1 (Wilson 1927)."""
    found = share(pl.Series([True] * 10))
    assert (found.value, found.se) == (1, 0)
    assert found.low == pytest.approx(0.7225, abs=1e-4)
    assert found.high == pytest.approx(1)
    two = share(pl.Series([True] * 10), pl.Series([0] * 5 + [1] * 5))
    assert two.low == pytest.approx(0.3424, abs=1e-4)  # as two of two


def test_no_interval_is_narrow_because_nothing_varied():
    """Two questions that say the same: rounding of the standard error is no knowledge."""
    hits = pl.Series([True, False, False] * 5 + [True, False, False] * 5)
    found = share(hits, pl.Series([0] * 15 + [1] * 15))
    assert found.se < 1e-12
    assert found.low == pytest.approx(0.0453, abs=1e-4)  # Wilson (1927), two units, p = 1/3
    assert found.high == pytest.approx(0.8406, abs=1e-4)
    kappa = cohen_kappa(pl.Series([0, 1]), pl.Series([1, 0]))
    assert kappa.value == -1
    assert math.isnan(kappa.low)
    assert math.isnan(kappa.high)


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_the_error_of_alpha_is_that_of_the_jackknife(level):
    rng = np.random.default_rng(3)
    base = rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    rated = np.where(rng.random((3, 60)) < 0.7, base, rng.integers(0, 3, (3, 60)))
    keep = rng.random(180) < 0.9
    units, values = pl.Series(np.tile(np.arange(60), 3)[keep]), pl.Series(rated.ravel()[keep])
    without = np.array(
        [krippendorff_alpha(units.filter(units != u), values.filter(units != u), level).value
         for u in range(60)]
    )  # fmt: skip
    error = math.sqrt(59 / 60 * ((without - without.mean()) ** 2).sum())
    assert krippendorff_alpha(units, values, level).se == pytest.approx(error, rel=0.03)


def test_ratio_of_sums():
    found = ratio(np.array([1.0, 3.0, 0.0]), np.array([1.0, 6.0, 0.0]))
    assert found.value == pytest.approx(4 / 7)
    assert found.n == 7


# -- edges -----


def test_nothing_to_say():
    empty = pl.Series([], dtype=pl.Int64)
    for found in (
        cohen_kappa(empty, empty),
        cohen_kappa(pl.Series([1, None]), pl.Series([None, 1])),
        cohen_kappa(pl.Series([1, 1]), pl.Series([1, 1])),
        krippendorff_alpha(empty, empty),
        krippendorff_alpha(pl.Series([0, 1]), pl.Series([0, 1])),
        krippendorff_alpha(pl.Series([0, 0]), pl.Series([1, 1]), "interval"),
        fleiss_kappa(np.zeros((0, 3), np.int64)),
        fleiss_kappa(np.array([[2, 0], [2, 0]])),
        share(empty.cast(pl.Boolean)),
    ):
        assert math.isnan(found.value)
        assert found.plain()["value"] is None
    one = share(pl.Series([True, None]))
    assert (one.value, one.n) == (1, 1)
    assert math.isnan(one.se)
    assert plain(float("inf")) is None
    assert str(plain(-1e-9)) == "0.0"


def test_perfect_and_opposite():
    a, b = pl.Series([0, 1, 0, 1]), pl.Series([1, 0, 1, 0])
    assert cohen_kappa(a, a).value == 1
    assert cohen_kappa(a, b).value == -1
    units = pl.Series([0, 1, 2, 3] * 2)
    assert krippendorff_alpha(units, pl.concat([a, a])).value == 1
    assert krippendorff_alpha(units, pl.concat([a, b])).value < 0
    nan = pl.Series([1.0, float("nan"), 2.0, 2.0])
    assert krippendorff_alpha(pl.Series([0, 0, 1, 1]), nan, "interval").n == 1


def test_a_million_ratings_are_column_work():
    rng = np.random.default_rng(0)
    units = pl.Series(rng.integers(0, 250_000, 1_000_000))
    values = pl.Series(rng.integers(0, 5, 1_000_000))
    found = krippendorff_alpha(units, values)
    assert abs(found.value) < 4 * found.se
    assert found.se < 0.001
