"""Real runs: killed and gone on, on two processes, tokenised once, ended early."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from prefactory.engines.steering.vector import FILE as STEERING
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.folders import checksums_of
from tests.helpers import ROOT
from trainers import (
    BCO,
    DPO,
    MORE,
    ORPO,
    SFT,
    DatasetRef,
    EarlyStopping,
    SimPO,
    YaPO,
    running,
    train_transformer,
)
from trainers.checkpoints import WHOLE, Marks, checkpoints_of, logs, opened

SMALL = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-2,
    "gradient_checkpointing": False, "compare_answers": 0, "max_length": 64,
}  # fmt: skip
CHILD = """
import os, signal, sys
from pathlib import Path
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
import trainers.checkpoints, trainers.training
from trainers import DPO, DatasetRef, train_transformer

model, version, out, point, batch = sys.argv[1:]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if point == "checkpoint":  # written, and not yet whole
    was = trainers.checkpoints.Marks.on_save
    def cut(self, args, state, control, **more):
        die() if state.global_step == 4 else was(self, args, state, control, **more)
    trainers.checkpoints.Marks.on_save = cut
if point == "step":  # between two checkpoints
    was_end = trainers.checkpoints.Marks.on_step_end
    def cut_step(self, args, state, control, **more):
        if state.global_step == 5:
            die()
        was_end(self, args, state, control, **more)
    trainers.checkpoints.Marks.on_step_end = cut_step
if point == "save":  # all steps are done, the model is half written
    was_save = trainers.training.save
    trainers.training.save = lambda trainer, folder: (was_save(trainer, folder), die())
if point == "fsdp":  # accelerate offers FSDP where there are accelerators only
    import accelerate.state as states
    from accelerate.utils import FullyShardedDataParallelPlugin
    began = states.AcceleratorState.__init__
    def sharded(self, *words, **more):
        began(self, *words, **more)
        plugin = more.get("fsdp_plugin") or FullyShardedDataParallelPlugin()
        shared = states.AcceleratorState._shared_state
        shared |= {"distributed_type": states.DistributedType.FSDP, "fsdp_plugin": plugin}
    states.AcceleratorState.__init__ = sharded
    fit = trainers.training.fit
    def fitted(trainer, *words):
        facts = fit(trainer, *words)
        print("WEIGHTS", {type(p).__name__ for p in trainer.model.parameters()})
        return facts
    trainers.training.fit = fitted
config = DPO(model=model, max_steps=6, per_device_train_batch_size=int(batch), save_steps=2,
             gradient_accumulation_steps=1, learning_rate=1e-2, gradient_checkpointing=False,
             compare_answers=0, max_length=64, bf16=False)
report = train_transformer(config, DatasetRef.from_path(version), out)
print("DONE", report.facts["first_loss"], report.facts["last_loss"])
"""


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def child(folder, *words, before=(), **more):
    script = folder / "child.py"
    script.write_text(CHILD)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }
    command = [sys.executable, *before, str(script), *map(str, words)]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.slow
def test_a_training_that_is_killed_three_times_ends_with_the_same_weights(
    tmp_path, tiny_model, version
):
    whole = child(tmp_path, tiny_model, version, tmp_path / "whole", "none", 4)
    assert whole.returncode == 0, whole.stderr
    for point, newest in [("checkpoint", 2), ("step", 4), ("save", 4)]:
        cut = child(tmp_path, tiny_model, version, tmp_path / "cut", point, 4)
        assert cut.returncode == -signal.SIGKILL, cut.stderr
        marks = (tmp_path / "cut.unfinished").glob(f"checkpoint-*/{WHOLE}")
        steps = [int(m.parent.name.rpartition("-")[2]) for m in marks]
        assert max(steps) == newest
        assert not (tmp_path / "cut").exists()
    last = child(tmp_path, tiny_model, version, tmp_path / "cut", "none", 4)
    assert last.returncode == 0, last.stderr
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    facts = [json.loads((tmp_path / n / "training.json").read_text()) for n in ("whole", "cut")]
    assert facts[0] == facts[1]
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["child.py", "cut", "whole"], "no checkpoints and nothing half written is left"


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one_with_twice_the_batch(tmp_path, tiny_model, version):
    one = child(tmp_path, tiny_model, version, tmp_path / "one", "none", 4)
    assert one.returncode == 0, one.stderr
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    two = child(tmp_path, tiny_model, version, tmp_path / "two", "none", 2, before=run)
    assert two.returncode == 0, two.stderr[-3000:]
    facts = [
        json.loads((tmp_path / n / "training.json").read_text())["facts"] for n in ("one", "two")
    ]
    assert facts[1] == pytest.approx(facts[0], abs=1e-5)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-4


SHARDED = {
    "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true", "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip


@pytest.mark.slow
def test_a_sharded_training_has_the_weights_of_a_whole_one(tmp_path, tiny_model, version):
    one = child(tmp_path, tiny_model, version, tmp_path / "one", "none", 4)
    assert one.returncode == 0, one.stderr
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = (tiny_model, version, tmp_path / "two", "fsdp", 2)
    two = child(tmp_path, *words, before=run, **SHARDED)
    assert two.returncode == 0, two.stderr[-3000:]
    assert "WEIGHTS {'DTensor'}" in two.stdout
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert a.keys() == b.keys()
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-4
    scores = [
        json.loads((tmp_path / n / "training.json").read_text())["metrics"]["test"]["margin"]
        for n in ("one", "two")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SFT, ORPO, SimPO])
def test_rows_are_tokenised_once(tmp_path, tiny_model, version, caplog, method):
    config = method(model=str(tiny_model), max_steps=1, save_strategy="no", **SMALL)
    ref, cache = DatasetRef.from_path(version), tmp_path / "tokens"
    caplog.set_level("INFO")
    first = train_transformer(config, ref, tmp_path / "a", cache)
    assert "tokenised rows" not in caplog.text
    second = train_transformer(config, ref, tmp_path / "b", cache)
    assert "tokenised rows" in caplog.text
    assert first.facts == second.facts
    assert len(list(cache.iterdir())) == 1
    shorter = config.model_copy(update={"max_length": 48})
    train_transformer(shorter, ref, tmp_path / "c", cache)
    assert len(list(cache.iterdir())) == 2, "another length is other rows"


@pytest.mark.slow
def test_a_training_that_no_longer_gets_better_ends_early_with_its_best(
    tmp_path, tiny_model, version
):
    config = DPO(
        model=str(tiny_model), max_steps=12, save_steps=1, **{**SMALL, "learning_rate": 1e-7},
        early_stopping=EarlyStopping(patience=2, threshold=0.1), keep_checkpoints=True,
    )  # fmt: skip
    report = train_transformer(config, DatasetRef.from_path(version), tmp_path / "m")
    assert report.facts["steps"] == 3
    kept = sorted(p.name for p in (tmp_path / "m" / "checkpoints").iterdir())
    assert kept == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    names = {p.name for p in (tmp_path / "m").rglob("*") if p.is_file()}
    assert not {n for n in names if n.endswith((".bin", ".pt", ".pth"))}


def test_a_reporter_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    for given in ("trackio", ("none", "wandb")):
        config = SFT(model="m", report_to=given)
        with pytest.raises(MissingPackageError, match=r"pip install (trackio|wandb)"):
            running.check_machine(config)
    running.check_machine(SFT(model="m", report_to="none"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb (pip install wandb)")
def test_wandb_keeps_the_log_of_a_training_offline(tmp_path, tiny_model, version, monkeypatch):
    """W&B's own process writes a run's file, and nothing is sent."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "log").mkdir()
    config = SFT(model=str(tiny_model), max_steps=3, save_strategy="no", report_to="wandb", **SMALL)
    report = train_transformer(config, DatasetRef.from_path(version), tmp_path / "m")
    import wandb

    wandb.teardown()  # ends its process, which writes
    assert report.facts["steps"] == 3
    (run,) = (tmp_path / "log" / "wandb").glob("offline-run-*")
    (log,) = run.glob("run-*.wandb")
    written = log.read_bytes()
    assert written.count(b"train/loss") >= 3
    assert b"max_steps" in written, "the options are in the run's configuration"


def test_the_log_of_a_training_stays_with_its_model(tmp_path):
    unfinished, model = tmp_path / "m.unfinished", tmp_path / "m"
    model.mkdir()
    logs(unfinished, model)
    assert not list(model.iterdir()), "nothing was logged"
    (unfinished / "runs" / "one").mkdir(parents=True)
    (unfinished / "runs" / "one" / "events").write_bytes(b"log")
    logs(unfinished, model)
    assert (model / "runs" / "one" / "events").read_bytes() == b"log"


def test_checkpoints_of_another_training_are_not_used(tmp_path):
    folder = checkpoints_of(tmp_path / "m")
    assert opened(folder, "a") is None
    for step in (1, 2, 3):
        (folder / f"checkpoint-{step}").mkdir()
    for step in (1, 2):
        mark = folder / f"checkpoint-{step}" / WHOLE
        mark.write_text(checksums_of(mark))
    assert opened(folder, "a") == folder / "checkpoint-2"
    assert not (folder / "checkpoint-3").exists(), "one that is not whole is of no use"
    with pytest.raises(ConfigError, match="a training with other options"):
        opened(folder, "b")


@pytest.mark.slow
@pytest.mark.parametrize("method", [BCO, MORE, YaPO])
def test_what_a_method_remembers_is_part_of_a_checkpoint(
    method, tmp_path, make, tiny_model, monkeypatch
):
    """Running means of both classes, gradients of the sources, the vector and its drawn sides."""
    import polars as pl

    remembers = {
        BCO: {"momentum": 0.9},
        MORE: {"momentum": 0.9, "normalise": "none"},
        YaPO: {"gradient_accumulation_steps": 2},
    }[method]
    options = {k: v for k, v in SMALL.items() if k in {*method.model_fields}}
    config = method(model=str(tiny_model), max_steps=6, save_steps=2, **{**options, **remembers})
    pairs = make.polite_pairs(24).with_columns(source=pl.Series(["a", "b"] * 12))
    data = DatasetRef.from_path(make.publish(tmp_path / "v", pairs))
    whole = train_transformer(config, data, tmp_path / "whole")
    was = Marks.on_step_end

    def cut(self, args, state, control, **more):
        if state.global_step == 5:
            raise KeyboardInterrupt
        was(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Marks, "on_step_end", cut)
        with pytest.raises(KeyboardInterrupt):
            train_transformer(config, data, tmp_path / "cut")
    again = train_transformer(config, data, tmp_path / "cut")
    assert again.facts["last_loss"] == whole.facts["last_loss"]
    file = STEERING if method is YaPO else "model.safetensors"
    one, two = (load_file(tmp_path / n / file) for n in ("whole", "cut"))
    assert all(torch.equal(one[k], two[k]) for k in one)
