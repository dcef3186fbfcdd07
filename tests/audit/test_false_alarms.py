"""Damage rules on six clean sets of the shared data: no more alarms than are written down."""

from __future__ import annotations

import numpy as np
import pytest

from audit import CHECKS, Intake, Options, audit
from benchmarks.evidence import SHARED
from benchmarks.label_rows import pairs_of
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.engines.encoder import Encoder
from prefactory.preferences.damage import damage

RULES = ("garbled", "loop", "role_leak", "unfinished", "judge", "mojibake")
MOST = {
    "hh helpful": (0.031, 0.010, 0.001, 0, 0.004, 0.020, 0, 0),
    "hh harmless": (0.146, 0.081, 0.001, 0, 0.007, 0.068, 0, 0),
    "tulu": (0.011, 0, 0.002, 0.009, 0, 0.014, 0, 0),
    "ultrafeedback": (0.018, 0.007, 0.018, 0, 0, 0.022, 0, 0),
    "webgpt": (0, 0, 0, 0, 0, 0.018, 0, 0),
    "pandalm": (0.013, 0.009, 0, 0.051, 0, 0.030, 0, 0),
}
"""Share of chosen answers that are off topic, strictly so, and hit by each of `RULES`."""
SLACK = 0.005

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not SHARED.exists(), reason=f"NOT RUN: no shared data at {SHARED}"),
]


@pytest.mark.parametrize("name", MOST)
def test_rules_raise_no_more_alarms_than_are_written_down(name, tmp_path):
    table, encoder = pairs_of(name), Encoder()
    embed = embedder(Settings(tmp_path))
    options = Options(embed=lambda texts: embed(encoder, texts), encoder=encoder.model)
    checks = [c for c in CHECKS if c.name in ("off_topic", "garbled")]
    made = audit(table, options, Intake(license="mit"), checks=checks)
    found = made.finding("off_topic").metrics
    hits = damage(table, RULES[1:]).filter(side="chosen")
    shares = [
        found["off_topic" if "off_topic" in found else "evasive"].value,
        found["strict"].value,
        made.finding("garbled").metrics["chosen"].value,
        *(hits.filter(rule=rule)["row"].n_unique() / table.height for rule in RULES[1:]),
    ]
    over = np.array(shares) - np.array(MOST[name]) - SLACK
    named = dict(zip(("off_topic", "strict", *RULES), np.round(shares, 4), strict=True))
    assert (over <= 0).all(), named
