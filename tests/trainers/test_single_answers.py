"""Methods on single answers: the same as on pairs of them, weighed by their prompts, resumed."""

import json

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from catalog.versions import open_folder
from pipelines.settings import Settings
from pipelines.training import METHODS, table_of, train
from prefactory.errors import ConfigError, DataError
from prefactory.tables import SIDES, Shape, canonical_order, with_ids
from trainers import BCO, DPO, KTO, DatasetRef, checkpoints, train_transformer
from trainers.columns import unread
from trainers.metrics import told_apart

WHOLE = 24
SMALL = {
    "max_steps": 3, "per_device_train_batch_size": WHOLE, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1.0, "optim": "sgd", "save_strategy": "no",
    "max_length": 64, "compare_answers": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("pairs")
    return make.publish(folder, make.polite_pairs(WHOLE // 2), make.polite_pairs(4, seed=1))


def thumbs(pairs, **more):
    """The answers of pairs, each with a thumb."""
    keys = ["prompt_id", "prompt", "source", "source_id"]
    sides = [
        pairs.select(*keys, response=side, score_label=pl.lit(float(side == "chosen")))
        for side in SIDES
    ]
    rows = pl.concat(sides).with_columns(model=pl.lit("m"), origin=pl.lit("self"), **more)
    return canonical_order(with_ids(rows, Shape.RESPONSES), Shape.RESPONSES)


@pytest.fixture
def answers(tmp_path, make):
    def published(name="answers", **more):
        tables = [
            thumbs(t, **more) for t in (make.polite_pairs(WHOLE // 2), make.polite_pairs(4, seed=1))
        ]
        folder = make.publish(tmp_path / f"v-{name}", *tables, shape=Shape.RESPONSES)
        return DatasetRef(open_folder(folder), "responses")

    return published


def trained(method, ref, tiny_model, out, **options):
    config = method(model=str(tiny_model), **{**SMALL, **options})
    report = train_transformer(config, ref, out)
    return report, load_file(out / "model.safetensors")


def apart(one, other):
    return max((one[k] - other[k]).abs().max().item() for k in one)


def test_scores_tell_good_answers_from_bad_ones():
    facts = told_apart(torch.tensor([3.0, 1.0, 1.0, 0.0]).numpy(), [True, True, False, False])
    assert facts == {"answers": 4.0, "good": 0.5, "auc": 0.875}
    assert "auc" not in told_apart(torch.ones(2).numpy(), [True, True])


@pytest.mark.slow
@pytest.mark.parametrize("method", [BCO, KTO])
def test_single_answers_are_the_sides_of_pairs(method, pairs, answers, tiny_model, tmp_path):
    more = {"loss_type": "apo_zero_unpaired"} if method is KTO else {}
    one, first = trained(method, DatasetRef.from_path(pairs), tiny_model, tmp_path / "a", **more)
    ref = answers()
    two, second = trained(method, ref, tiny_model, tmp_path / "b", **more)
    assert one.facts["last_loss"] < one.facts["first_loss"]
    assert two.facts["last_loss"] == pytest.approx(one.facts["last_loss"], abs=1e-5)
    assert apart(first, second) < 1e-5
    assert any("auc" in note for note in two.notes)
    assert "an answer is good from score_label 0.5 on" in two.notes
    with pytest.raises(DataError, match="reads the column score_other"):
        trained(method, ref, tiny_model, tmp_path / "c", label="score_other", **more)


@pytest.mark.slow
@pytest.mark.parametrize("method", [BCO, KTO])
def test_bad_answers_count_by_their_density_ratio(method, answers, tiny_model, tmp_path):
    _, plain = trained(method, answers(), tiny_model, tmp_path / "plain")
    for name, ratio, same in (("ones", 1.0, True), ("twos", 2.0, False)):
        ref = answers(name, density_ratio=pl.lit(ratio))
        report, weights = trained(method, ref, tiny_model, tmp_path / name)
        assert (apart(plain, weights) < 1e-5) == same
        assert any("density_ratio" in note for note in report.notes)
    if method is KTO:  # twice the weight of all bad ones, in TRL's own words
        double = {"undesirable_weight": 2.0}
        _, twice = trained(KTO, answers("again"), tiny_model, tmp_path / "w", **double)
        assert apart(weights, twice) < 1e-5


def test_a_column_for_other_methods_is_said(make, tiny_model, tmp_path):
    pairs = make.polite_pairs(4).with_columns(density_ratio=pl.lit(1.0))
    ref = DatasetRef.from_path(make.publish(tmp_path / "v", pairs))
    said = "column density_ratio is there and dpo does not read it (prefactory train bco does)"
    assert said in unread(ref, ["beta"], "dpo")


@pytest.mark.slow
def test_a_killed_bco_goes_on_with_its_shift(pairs, tiny_model, tmp_path, monkeypatch):
    ref = DatasetRef.from_path(pairs)
    options = {
        "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch",
        "learning_rate": 1e-2, "per_device_train_batch_size": 4,
    }  # fmt: skip
    whole, weights = trained(BCO, ref, tiny_model, tmp_path / "whole", **options)
    was = checkpoints.Marks.on_step_end

    def cut(self, args, state, control, **more):
        if state.global_step == 3:
            raise KeyboardInterrupt
        was(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Marks, "on_step_end", cut)
        with pytest.raises(KeyboardInterrupt):
            trained(BCO, ref, tiny_model, tmp_path / "cut", **options)
    newest = tmp_path / "cut.unfinished" / "checkpoint-2" / "shift.json"
    means = json.loads(newest.read_text())
    assert means["good"] > means["bad"]
    again, same = trained(BCO, ref, tiny_model, tmp_path / "cut", **options)
    assert all(torch.equal(weights[k], same[k]) for k in weights)
    assert again.facts == whole.facts


def test_a_version_without_pairs_is_read_by_its_answers(answers, tmp_path):
    version = answers().version
    assert table_of(BCO, version) == "responses"
    assert table_of(DPO, version) == "pairs"
    assert set(METHODS) >= {"stepwise", "bco", "goal-dpo"}
    with pytest.raises(ConfigError, match="holds no pairs, only responses"):
        train("dpo", DPO(model="x"), version, Settings(tmp_path))
