"""Merged models: their files, what they say, and what lies between them."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from prefactory.errors import ConfigError
from trainers import DPO, DatasetRef, Lora, Reward, train_transformer
from trainers.evaluate.models import scored
from trainers.merging.merge import Merge, merge_models, scored_as
from trainers.merging.path import Path, Place, barrier

SMALL = {
    "max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "max_length": 64, "gradient_checkpointing": False, "save_strategy": "no",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, version):
    """Two adapters of one base and two plain policies, for other seeds."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("trained")
    data = DatasetRef.from_path(version)
    for seed in range(2):
        own = {**SMALL, "model": str(tiny_model), "seed": seed, "compare_answers": 0}
        lora = {"lora": Lora(r=2 + seed, alpha=8), "learning_rate": 0.05}
        train_transformer(DPO(**own, **lora), data, folder / f"lora{seed}")
        train_transformer(DPO(**own, learning_rate=1e-3), data, folder / f"whole{seed}")
    return folder


@pytest.fixture
def run(trained, version, tmp_path):
    data = DatasetRef.from_path(version)

    def merged(*names, weights=None, out="new", **options):
        folders = [str(trained / n) for n in names]
        config = Merge(**{"max_length": 64, **options})
        weights = weights or [1.0] * len(names)
        return merge_models(config, names, folders, weights, data, tmp_path / out)

    return merged


def margins(folder, version):
    pairs = pl.DataFrame(DatasetRef.from_path(version).pairs("test").to_list())
    return scored(str(folder), pairs, None, 8, 64).margins


def test_one_hot_weights_are_that_adapter(run, trained):
    report = run("lora0", "lora1", weights=[0.0, 2.0])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (report.folder / name).read_bytes() == (trained / "lora1" / name).read_bytes()
    assert report.facts["rank"] == 3


def test_a_merged_adapter_is_the_plain_model_of_the_same_weights(run, trained, version):
    adapter = run("lora0", "lora1", weights=[0.3, 0.7])
    plain = run("lora0", "lora1", weights=[3, 7], out="plain", plain=True)
    assert (adapter.folder / "adapter_model.safetensors").is_file()
    assert (plain.folder / "model.safetensors").is_file()
    assert adapter.facts["rank"] == 5
    own, same = margins(adapter.folder, version), margins(plain.folder, version)
    assert own == pytest.approx(same, abs=1e-4)
    assert np.abs(own - margins(trained / "lora0", version)).max() > 1e-3
    held = pl.read_parquet(adapter.folder / "held_out.parquet")
    assert held["margin"].to_numpy() == pytest.approx(own, abs=1e-6)
    ensemble = json.loads((adapter.folder / "path.json").read_text())["places"][0]
    assert ensemble["name"] == "ensemble of their scores"
    assert adapter.text().index("ensemble") < adapter.text().index("lora0 ")
    assert adapter.config["scored_as"]["method"] == "dpo"
    small = run("lora0", "lora1", out="small", rank=2)
    assert small.facts["rank"] == 2
    assert 0 < small.facts["lost by the rank"] < 1


@pytest.mark.parametrize("how", ["average", "slerp", "ties"])
def test_a_model_and_itself_merge_to_itself_without_a_barrier(how, run, trained, version):
    import shutil

    if not (trained / "again").exists():
        shutil.copytree(trained / "whole0", trained / "again")
    report = run("whole0", "again", how=how, points=5, align=True, density=1.0)
    assert report.facts["barrier"] == pytest.approx(0, abs=1e-6)
    assert margins(report.folder, version) == pytest.approx(
        margins(trained / "whole0", version), abs=1e-5
    )
    names = [p["name"] for p in json.loads((report.folder / "path.json").read_text())["places"]]
    assert names[0] == "ensemble of their scores"
    assert names[3:] == ["0.25 of the way", "0.5 of the way", "0.75 of the way", "merged"]
    assert "barrier of the path" in report.text()


def test_a_model_and_its_permuted_copy_merge_to_it_only_if_aligned(run, trained, version):
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(trained / "whole0", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for layer in net.model.layers:
        order = torch.randperm(net.config.intermediate_size, generator=generator)
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
            part.weight.data = part.weight.data[order]
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data[:, order]
    import shutil

    if not (trained / "turned").exists():
        shutil.copytree(trained / "whole0", trained / "turned")
        net.save_pretrained(trained / "turned")
    before = margins(trained / "whole0", version)
    assert margins(trained / "turned", version) == pytest.approx(before, abs=1e-4)
    kept = run("whole0", "turned", points=3, align=True)
    lost = run("whole0", "turned", points=3, out="lost")
    assert margins(kept.folder, version) == pytest.approx(before, abs=1e-5)
    assert kept.facts["barrier"] == pytest.approx(0, abs=1e-6)
    assert np.abs(margins(lost.folder, version) - before).max() > 1e-3


def test_reward_adapters_have_a_head_and_merge_as_plain_models(
    trained, version, tmp_path, tiny_model
):
    data = DatasetRef.from_path(version)
    for seed in range(2):
        lora = {"lora": Lora(r=2), "learning_rate": 0.05, "model": str(tiny_model), "seed": seed}
        train_transformer(Reward(**SMALL, **lora), data, tmp_path / f"r{seed}")
    folders = [str(tmp_path / f"r{seed}") for seed in range(2)]
    config = Merge(max_length=64)
    with pytest.raises(ConfigError, match="--plain merges it into its base first"):
        merge_models(config, ["r0", "r1"], folders, [1, 1], data, tmp_path / "new")
    plain = config.model_copy(update={"plain": True})
    report = merge_models(plain, ["r0", "r1"], folders, [1, 1], data, tmp_path / "new")
    assert scored_as(folders)["method"] == "reward"
    assert report.test.pairs == 9
    kinds = [folders[0], str(trained / "lora0")]
    with pytest.raises(ConfigError, match="reward models and policies"):
        merge_models(plain, ["r0", "lora0"], kinds, [1, 1], data, tmp_path / "other")


def test_what_does_not_go_together_is_said(run):
    with pytest.raises(ConfigError, match="--rank is of a merged adapter"):
        run("whole0", "whole1", rank=2)
    with pytest.raises(ConfigError, match="two models or more"):
        run("whole0")
    with pytest.raises(ConfigError, match="one above 0"):
        run("whole0", "whole1", weights=[0.0, 0.0])


def test_a_barrier_is_the_rise_over_the_line():
    assert barrier([0, 0.5, 1], [1.0, 3.0, 2.0]) == 1.5
    assert barrier([0, 0.5, 1], [1.0, 1.0, 2.0]) == 0
    prompts = pl.Series(["a", "b"])
    place = Place.of("x", 0.0, np.array([2.0, -1.0]), prompts)
    assert place.accuracy == 0.5
    assert place.loss == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2)
    assert Path((place,)).barrier is None
