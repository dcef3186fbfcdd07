"""Exports with pictures train: TRL's vision DPO and KTO take a step on them."""

import pytest
import torch
from datasets import load_dataset, load_from_disk

from catalog.layouts import export
from catalog.publish import publish
from catalog.versions import Catalog
from tests.catalog.pictures.test_image_versions import ROWS, written
from tests.helpers import recipe, run
from tests.prefactory.images.tiny_llava import tiny_llava

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    source = written(folder, ROWS)
    result = run(recipe(publish={"test_fraction": 0}), source, folder / "store")
    return publish(result, Catalog(root=folder / "catalog")).version


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("llava"))


def trainer(kind, model, folder, data):
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    config, cls = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer)}[kind]
    args = config(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=4, report_to=[],
        use_cpu=True, bf16=False, max_length=None, remove_unused_columns=False,
        learning_rate=1e-2, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    load = AutoModelForImageTextToText.from_pretrained
    return cls(
        model=load(model),
        ref_model=load(model),
        args=args,
        train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(model, use_fast=False),
    )


@pytest.mark.parametrize("file_format", ["arrow", "parquet", "jsonl"])
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_vision_training_takes_a_step(version, llava, tmp_path, kind, file_format):
    export(version, "trl" if kind == "dpo" else "kto", tmp_path / "out", file_format)
    out = str(tmp_path / "out")
    cache = str(tmp_path / "cache")
    data = load_from_disk(out) if file_format == "arrow" else load_dataset(out, cache_dir=cache)
    training = trainer(kind, llava, tmp_path / "run", data["train"])
    before = {n: p.detach().clone() for n, p in training.model.named_parameters()}
    batch = next(iter(training.get_train_dataloader()))
    assert batch["pixel_values"].shape[1:] == (3, 28, 28)
    result = training.train()
    assert torch.isfinite(torch.tensor(result.training_loss))
    moved = [n for n, p in training.model.named_parameters() if not torch.equal(p, before[n])]
    assert any("vision" in n for n in moved)
    assert any("language" in n for n in moved)
