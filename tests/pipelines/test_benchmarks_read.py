"""Files of public benchmarks, as they are published, give their own sections."""

import json

import numpy as np
import polars as pl
import pytest

import trainers.evaluate.models as models
from pipelines.settings import Settings
from pipelines.training.evaluation import evaluate
from prefactory.tables import text_of


@pytest.fixture
def likes(monkeypatch):
    """A model that prefers the answer with the word GOOD, and else the longer one."""

    def scored(name, pairs, embed, batch, max_length):
        texts = pairs.select(c=text_of(pl.col("chosen")), r=text_of(pl.col("rejected")))
        scores = [
            np.asarray([len(t) + 1000 * ("GOOD" in t) for t in texts[c]], dtype=float) for c in "cr"
        ]
        return models.Scored(name, "made", scores[0] - scores[1])

    monkeypatch.setattr(models, "scored", scored)


def written(tmp_path, rows):
    file = tmp_path / "benchmark.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def found(tmp_path, rows):
    measured = evaluate(["m"], written(tmp_path, rows), Settings(tmp_path / "home"))
    (part,) = measured.models[0].sections
    assert part.benchmark in measured.page()
    return part


def test_rm_bench(tmp_path, likes):
    rows = [
        {"id": f"{domain}_{i}", "prompt": f"{domain} {i}", "domain": domain,
         "chosen": [f"{good}a", f"{good}bbbb", f"{good}**cccccccc**"],
         "rejected": ["x", "yyyy", "**zzzzzzzz**"]}
        for domain, good in (("chat", "GOOD"), ("safety-refuse", ""), ("safety-response", "GOOD"))
        for i in range(2)
    ]  # fmt: skip
    part = found(tmp_path, rows)
    assert part.scores["chat"] == 1.0
    assert part.scores["safety"] == pytest.approx((1 + 0.5) / 2)
    assert part.scores["hard"] == pytest.approx((1 + 0.5) / 2)
    assert part.scores["easy"] == 1.0
    assert np.asarray(part.matrix).shape == (3, 3)


def test_reward_bench(tmp_path, likes):
    rows = [
        {"id": i, "prompt": f"q {i}", "chosen": "GOOD" if i % 2 else "short",
         "chosen_model": "a", "rejected": "a longer one", "rejected_model": "b", "subset": subset}
        for i, subset in enumerate(["donotanswer", "math-prm", "math-prm", "hep-go"])
    ]  # fmt: skip
    part = found(tmp_path, rows)
    assert part.scores["Safety"] == 0.0
    assert part.scores["Reasoning"] == pytest.approx((984 * 0.5 + 164) / (984 + 164))


def test_reward_bench_2(tmp_path, likes):
    rows = [
        {"id": str(i), "prompt": f"q {i}", "chosen": ["GOOD" if i % 2 else "mid"],
         "rejected": ["x", "y", "a longer one"], "num_correct": 1, "num_incorrect": 3,
         "total_completions": 4, "models": ["a", "b", "c", "d"], "subset": "Focus",
         "additional_metadata": None}
        for i in range(4)
    ]  # fmt: skip
    assert found(tmp_path, rows).scores == {"Focus": 0.5, "overall": 0.5}


def test_ties_of_reward_bench_2(tmp_path, likes):
    def row(name, right, wrong, subset="Ties"):
        models = ["m"] * (len(right) + len(wrong))
        return {"id": name, "prompt": f"q {name}", "chosen": right, "rejected": wrong,
                "num_correct": len(right), "num_incorrect": len(wrong),
                "total_completions": len(models), "models": models, "subset": subset,
                "additional_metadata": None}  # fmt: skip

    rows = [
        row("tied:0", ["GOOD", "GOODa", "GOODab"], ["x", "yy"]), row("ref:0", ["GOOD"], ["x"]),
        row("tied:1", ["GOOD", "short"], ["a longer one"]), row("ref:1", ["GOOD"], ["x", "y"]),
        row("1", ["GOOD"], ["x", "y", "z"], "Focus"),
    ]  # fmt: skip
    scores = found(tmp_path, rows).scores
    finer = 0.01 * (np.tanh(1002 / 2 - 1) + np.tanh(-7 / 999 - 1)) / 2
    assert scores["Ties"] == pytest.approx(0.3 * 0.5 + 0.3 + 0.2 * 0.5 + 0.2 * 0.5 + finer)
    assert scores["Focus"] == 1.0
    assert scores["overall"] == pytest.approx((scores["Ties"] + 1) / 2)
