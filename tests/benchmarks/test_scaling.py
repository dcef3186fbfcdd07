"""The simulation of many machines, where its answer is known."""

import json

import pytest

from benchmarks import scaling
from benchmarks.scaling import CALM, Weather, measured, page, simulated


def test_in_calm_weather_a_step_takes_whole_rounds():
    steps = {"a": 2.0, "b": 3.0}
    assert simulated(steps, 10, 10, CALM) == 5.0
    assert simulated(steps, 11, 10, CALM) == 10.0
    assert simulated(steps, 100, 1, CALM) == pytest.approx(500)
    assert simulated(steps, 3, 1000, CALM) == 5.0


def test_bad_weather_costs_what_it_must():
    steps, n = {"a": 2.0}, 20_000
    mean = 2.0 * (1 + 0.01 * 4)  # stragglers
    assert simulated(steps, n, 1, Weather(deaths=0)) == pytest.approx(n * mean, rel=0.02)
    often = Weather(0.0, 0.0, 1.0, deaths=1800.0, noticed=10.0)  # one in 2 s
    lost = (1 - 2.718281828**-1) * (1.0 + 10.0)
    assert simulated(steps, n, 1, often) == pytest.approx(n * (2.0 + lost), rel=0.02)


def test_the_page_tells_what_was_measured(monkeypatch):
    monkeypatch.setattr(scaling, "WORKERS", (1024,))  # few rounds to count
    result = json.loads(scaling.newest().read_text("utf-8"))
    steps, alone = measured(result)
    assert 1e-6 < alone < 1e-3
    assert scaling.DRIVER not in steps
    assert {"source", "filters.Quality", "labelers.R3"} <= set(steps)
    made = scaling.newest("exchange", "filters.ExactDuplicates, 1000000 rows in 1, fit, MB")
    exchanged = json.loads(made.read_text("utf-8"))
    figures = {
        "filters.NearDuplicates, 300 rows in 1, fit, MB": 7.0,
        "filters.NearDuplicates, 300 rows in 1, fit, CPU s": 2.0,
        "filters.NearDuplicates, 300 rows in 4, links between, MB": 3.0,
        "filters.NearDuplicates, 300 rows in 4, links between, CPU s": 4.5,
    }
    (near, ridge) = scaling.APART
    text = page(result, exchanged, {near: {**exchanged, "figures": figures}})
    assert "## Heads" not in text
    assert "## Heads" in page(result, exchanged, {ridge: {**exchanged, "figures": {}}})
    assert "| `filters.NearDuplicates`: all rows in one | 7 | 2.00 |" in text
    assert "| `filters.NearDuplicates`: links between, of 4 runs | 3 | 4.50 |" in text
    assert "## Near-duplicates" not in page(result, exchanged)
    assert result["commit"] in text
    assert exchanged["commit"] in text
    assert "1,000,000,000" in text
    assert "| 1,000,000,000 | 954 |" in text


def test_what_a_fit_takes_of_a_row():
    figures = {
        "a, 1000 rows in 1, fit, MB": 50.0, "a, 1000 rows in 1, fit, CPU s": 4.0,
        "b, 1000 rows in 1, fit, MB": 20.0, "b, 1000 rows in 1, fit, CPU s": 1.0,
        "c, 1000 rows in 1, fit, MB": 70.0, "c, 1000 rows in 1, fit, CPU s": 8.0,
        "a, 1000 rows in 4, cut, MB": 9.0, "a, 1000 rows in 4, cut, CPU s": 2.0,
        "b, 1000 rows in 4, range, MB": 9.0, "b, 1000 rows in 4, range, CPU s": 3.0,
    }  # fmt: skip
    found = scaling.of_fits({"figures": figures})
    assert found == scaling.Fitted(3, 2, 0.05, 0.005, 0.005, 0.07, 0.008)
