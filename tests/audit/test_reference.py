"""Reference mismatch: gaps in nats with intervals by prompt; who is not asked is said."""

import numpy as np
import polars as pl
import pytest

from audit import Options, Severity, audit
from audit.reference import Reference
from tests.audit.cases import one, rows, table


def told(gap, seed=0, missing=0):
    """A reference whose own tokens are so many nats likelier than those of chosen answers."""

    def ask(pairs, _):
        rng = np.random.default_rng(seed)
        chosen = -2.0 + rng.normal(0, 0.2, pairs.height)
        own = chosen + gap + rng.normal(0, 0.2, pairs.height)
        frame = pl.DataFrame({"own": own, "chosen": chosen, "rejected": chosen - 1})
        return frame.with_columns(
            pl.when(pl.int_range(pl.len()) >= missing).then("own").alias("own")
        )

    return Reference("m", ask, 60)


def found(reference, data=None):
    data = table(rows(80)) if data is None else data
    return audit(data, Options(embeddings=False, reference=reference)).finding("reference_mismatch")


@pytest.mark.parametrize(
    ("gap", "severity"), [(0.0, Severity.OK), (1.0, Severity.NOTE), (3.0, Severity.WARNING)]
)
def test_a_gap_is_measured_and_judged(gap, severity):
    finding = found(told(gap))
    metric = finding.metrics["gap"]
    assert metric.low < gap < metric.high
    assert metric.high - metric.low < 0.2
    assert metric.n == 60
    assert finding.severity is severity
    assert finding.metrics["rejected"].value == pytest.approx(finding.metrics["chosen"].value - 1)
    assert finding.metrics["apart"].value == pytest.approx(0.5 if gap == 0 else 1, abs=0.2)
    assert "nats less likely under m" in finding.headline or gap == 0


def test_pairs_without_an_own_answer_do_not_count():
    assert found(told(1.0, missing=20)).metrics["gap"].n == 40
    assert found(told(1.0, missing=99)).severity is Severity.SKIPPED
    assert one("reference_mismatch", table(rows(40))).severity is Severity.SKIPPED
