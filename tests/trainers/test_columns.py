"""Columns of pairs in TRL's trainers: equal to stock at the limit, different where they differ."""

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from prefactory.errors import ConfigError, DataError
from prefactory.tables import SIDES
from trainers import DPO, RACO, DatasetRef, Reward, train_transformer

SMALL = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
}
LOSSES = [
    "sigmoid",
    *(pytest.param(loss, marks=pytest.mark.slow)
      for loss in ("sigmoid_norm", "ipo", "hinge", "robust", "apo_zero")),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    """The same numbers on a machine with GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, make):
    """Train on 12 pairs with more columns; the report and the weights."""

    def trained(added=None, method=DPO, turned=False, **options):
        folder = tmp_path_factory.mktemp("run")
        pairs = make.polite_pairs(12).sort("pair_id").with_columns(**(added or {}))
        if turned:
            sides = {
                f"{a}{end}": f"{b}{end}" for a, b in (SIDES, SIDES[::-1]) for end in ("", "_id")
            }
            pairs = pairs.rename(sides).select(pairs.columns)
        one = {k: v[0] if isinstance(v, pl.Series) else v for k, v in (added or {}).items()}
        held = make.polite_pairs(5, seed=1).with_columns(**one)
        version = make.publish(folder / "v", pairs, held)
        silent = {} if method is Reward else {"compare_answers": 0}
        settings = {"learning_rate": 1e-2, **SMALL, **silent, **options}
        config = method(model=str(tiny_model), **settings)
        report = train_transformer(config, DatasetRef.from_path(version), folder / "m")
        name = "adapter_model" if "lora" in options else "model"
        return report, load_file(folder / "m" / f"{name}.safetensors")

    return trained


def apart(one, other):
    return max((one[k] - other[k]).abs().max().item() for k in one)


@pytest.fixture(scope="module")
def stock(run):
    """Stock TRL, by loss."""
    found = {}

    def of(loss):
        if loss not in found:
            smooth = {"label_smoothing": 0.1} if loss == "robust" else {}
            found[loss] = run(loss_type=loss, **smooth)
        return found[loss]

    return of


@pytest.mark.parametrize("loss", LOSSES)
def test_a_beta_and_weight_that_are_the_same_for_all_are_stock_trl(run, stock, loss):
    smooth = {"label_smoothing": 0.1} if loss == "robust" else {}
    report, weights = run({"beta": pl.lit(0.1), "weight": pl.lit(1.0)}, loss_type=loss, **smooth)
    plain, expected = stock(loss)
    assert apart(weights, expected) < 1e-5
    for fact in ("first_loss", "last_loss"):
        assert report.facts[fact] == pytest.approx(plain.facts[fact], abs=1e-5)
    assert "each pair's own beta is read (column beta)" in report.notes


def test_each_pair_has_its_own_beta_and_weight(run, stock):
    rising = pl.Series(np.linspace(0.1, 0.5, 12))
    _, plain = stock("sigmoid")
    _, own = run({"beta": rising})
    _, weighted = run({"weight": rising * 10})
    assert apart(own, plain) > 1e-3
    assert apart(weighted, plain) > 1e-3
    assert apart(run({"beta": rising}, columns=[])[1], plain) == 0, "columns: [] does without"


def test_a_beta_that_follows_the_batch_by_nothing_is_stock_trl(run, stock):
    assert apart(run(batch_beta=0.0)[1], stock("sigmoid")[1]) < 1e-5
    _, followed = run({"beta": pl.lit(0.4)}, batch_beta=5.0)
    assert apart(followed, stock("sigmoid")[1]) > 1e-5
    assert apart(followed, run(batch_beta=5.0)[1]) == 0, "the same draws, and no column beta"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": ["beta"]}, "leave beta out of columns"),
        ({"loss_type": "exo_pair"}, "has no form for loss exo_pair"),
        ({"sync_ref_model": True}, "leave sync_ref_model out"),
    ],
)
def test_a_beta_of_the_batch_is_refused_beside(run, options, says):
    with pytest.raises(ConfigError, match=says):
        run({"beta": pl.lit(0.4)}, batch_beta=0.1, **options)


def test_pairs_of_weight_zero_teach_nothing(run):
    report, weights = run({"weight": pl.lit(0.0)})
    _, start = run({"weight": pl.lit(0.0)}, learning_rate=1e-9)
    assert apart(weights, start) < 1e-6
    assert report.facts["last_loss"] == 0


def test_agreeing_signs_are_plain_dpo(run, stock):
    signs = {"sign_help": pl.lit(1, pl.Int8), "sign_brief": pl.lit(1, pl.Int8)}
    weights = {"help": 0.8, "brief": 0.2}
    _, plain = run(beta=0.2)
    report, none = run(signs, RACO, objectives=weights, radius=0.0)
    _, some = run(signs, RACO, objectives=weights, radius=0.4)
    assert apart(none, plain) < 2e-5
    assert apart(some, plain) < 1e-3, "AdamW does not see the scale of a gradient"
    assert report.method == "raco"
    assert "objectives and weights: help 0.8, brief 0.2" in report.notes


@pytest.mark.slow
def test_one_objective_is_dpo_with_a_larger_step(run):
    """The update is (1 + c) times the gradient, which a plain step shows; adapters alone, too."""
    one = {"sign_help": pl.lit(1, pl.Int8)}
    whole = {"per_device_train_batch_size": 12, "optim": "sgd", "max_grad_norm": 1e9}
    _, joined = run(one, RACO, radius=0.25, learning_rate=0.4, **whole)
    _, plain = run(beta=0.2, learning_rate=0.5, **whole)
    assert apart(joined, plain) < 1e-5
    assert apart(joined, run(beta=0.2, learning_rate=0.4, **whole)[1]) > 1e-4
    signs = {"sign_help": pl.lit(1, pl.Int8), "sign_brief": pl.lit(1, pl.Int8)}
    lora = {"lora": {"r": 4}, **whole}
    _, adapter = run(signs, RACO, radius=0.25, learning_rate=0.4, **lora)
    _, same = run(beta=0.2, learning_rate=0.5, **lora)
    assert all("lora_" in name for name in adapter)
    assert apart(adapter, same) < 1e-5
    assert max(v.abs().max() for k, v in adapter.items() if "lora_B" in k) > 1e-3


def test_turning_all_signs_is_turning_the_pairs(run, make):
    ones, minus = ({"sign_help": pl.lit(s, pl.Int8)} for s in (1, -1))
    report, _ = run(ones, RACO)
    against, _ = run(minus, RACO)
    assert report.test.accuracy > 0.5 > against.test.accuracy
    # Adam would divide rounding errors, which the other order has, by tiny gradients
    plain = {"optim": "sgd", "learning_rate": 1.0}
    (_, weights), (_, turned) = run(minus, RACO, **plain), run(ones, RACO, turned=True, **plain)
    assert apart(weights, turned) < 1e-5


def test_ties_of_every_objective_teach_nothing(run):
    signs = {"sign_help": pl.lit(0, pl.Int8), "sign_brief": pl.lit(0, pl.Int8)}
    report, weights = run(signs, RACO, learning_rate=1e-2)
    _, start = run(signs, RACO, learning_rate=1e-9)
    assert apart(weights, start) < 1e-6
    assert report.facts["first_loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_what_is_not_read_is_said_before_training(run, caplog):
    report, _ = run({"sign_help": pl.lit(1, pl.Int8), "beta": pl.lit(0.1)}, columns=[])
    note = "column sign_help is there and dpo does not read it (prefactory train raco does)"
    assert note in report.notes
    assert "column beta is there and dpo does not read it" in report.notes
    assert note in caplog.text
    reward, _ = run({"weight": pl.lit(1.0)}, Reward)
    assert (
        "column weight is there and reward does not read it (prefactory train dpo does)"
        in reward.notes
    )


@pytest.mark.parametrize(
    ("columns", "method", "options", "error", "says"),
    [
        ({}, RACO, {}, DataError, "labelers.Signs makes them"),
        ({}, RACO, {"objectives": {"help": 1}}, DataError, "reads the column sign_help"),
        ({}, DPO, {"columns": ["beta"]}, DataError, "labelers.DynamicBeta makes it"),
        ({"beta": pl.lit(0.1)}, DPO, {"beta": 0.3}, ConfigError, "each pair's own"),
        ({"beta": pl.lit(0.0)}, DPO, {}, DataError, "above 0 and finite; in train of"),
        ({"weight": pl.lit(None, pl.Float64)}, DPO, {}, DataError, "0 or more and finite"),
        ({"weight": pl.lit("a")}, DPO, {}, DataError, "it holds String"),
        ({"sign_help": pl.lit(2)}, RACO, {}, DataError, "-1, 0 or 1"),
    ],
)
def test_columns_that_are_missing_or_wrong_are_refused(run, columns, method, options, error, says):
    with pytest.raises(error, match=says):
        run(columns, method, **options)
