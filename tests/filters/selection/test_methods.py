import numpy as np
import pytest

from filters.selection.methods import select
from prefactory.errors import DataError

VECTORS = np.random.default_rng(0).normal(size=(30, 4))
METHODS = ["facility_location", "k_center", "d_optimal", "dpp", "deita"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [0, 1, 3, 30, 99])
def test_distinct_rows_at_most_k(method, k):
    picks = select(VECTORS, k, method, jitter=0.01, most_alike=1.0)
    assert len(set(picks.rows.tolist())) == picks.rows.size == min(k, 30)
    assert picks.gains.shape == picks.rows.shape
    assert select(VECTORS[:0], k, method).rows.size == 0


def test_quality_counts():
    quality = np.arange(30.0)
    assert select(VECTORS, 1, "dpp", quality=quality).rows.tolist() == [29]
    assert select(VECTORS, 3, "deita", quality=quality, most_alike=1.0).rows.tolist() == [
        29,
        28,
        27,
    ]
    assert select(VECTORS, 9, "dpp").rows.size == 4


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(DataError, match="must be finite"):
        select(np.full((3, 2), np.nan), 1)
    with pytest.raises(DataError, match="must be finite"):
        select(VECTORS, 1, quality=np.ones(3))
