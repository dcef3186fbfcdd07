"""Real runs of TRL, two steps each, on a Llama of 0.1 M weights."""

import importlib
import json
import shutil
import sys

import polars as pl
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from prefactory.errors import ConfigError, DataError, MissingPackageError
from trainers import DPO, DatasetRef, Lora, Reward, train_transformer

SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    """The same numbers on a machine with GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def files_of(folder):
    return sorted(p.name for p in folder.rglob("*"))


@pytest.fixture(scope="module")
def dpo(tmp_path_factory, tiny_model, version):
    before = files_of(version)
    config = DPO(model=str(tiny_model), learning_rate=1e-2, **SMALL)
    report = train_transformer(
        config, DatasetRef.from_path(version), tmp_path_factory.mktemp("dpo") / "m"
    )
    assert files_of(version) == before, "training wrote into the immutable version"
    return report


def test_dpo_starts_at_log_two_and_learns(dpo):
    assert dpo.facts["first_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert dpo.facts["steps"] == 2
    assert dpo.test.pairs == 9
    assert dpo.test.margin > 0
    assert dpo.test.accuracy > 0.5
    assert dpo.test.loss < 0.6931


def test_dpo_saves_safetensors_its_own_card_and_no_pickle(dpo, version, tiny_model):
    names = files_of(dpo.folder)
    assert {"model.safetensors", "config.json", "training.json", "README.md"} <= set(names)
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl"))]
    digest = DatasetRef.from_path(version).digest
    assert digest in (dpo.folder / "README.md").read_text()
    record = json.loads((dpo.folder / "training.json").read_text())
    assert record["dataset"]["content_digest"] == digest
    assert record["config"]["learning_rate"] == 1e-2
    assert record["metrics"]["test"]["pairs"] == 9
    assert record["packages"]["trl"]


def test_the_reference_is_asked_only_about_pairs_that_a_step_sees(dpo, version):
    pairs = len(DatasetRef.from_path(version).pairs("train"))
    assert pairs > 8
    assert f"2 steps see 8 of {pairs} training pairs, drawn by the seed" in dpo.notes


def test_dpo_metrics_are_those_of_the_saved_model(dpo, version, tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(dpo.folder)
    models = [AutoModelForCausalLM.from_pretrained(f) for f in (dpo.folder, tiny_model)]

    def log_prob(model, row, side):
        prompt = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        ids = tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=True)[
            "input_ids"
        ]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(log_probs[i - 1, ids[i]] for i in range(len(prompt), len(ids)))

    margins = [
        0.1
        * sum(
            sign * (log_prob(models[0], row, side) - log_prob(models[1], row, side))
            for side, sign in (("chosen", 1), ("rejected", -1))
        )
        for row in DatasetRef.from_path(version).pairs("test")
    ]
    assert torch.stack(margins).mean().item() == pytest.approx(dpo.test.margin, abs=1e-3)
    assert (torch.stack(margins) > 0).float().mean().item() == pytest.approx(dpo.test.accuracy)


@pytest.fixture(scope="module")
def reward(tmp_path_factory, tiny_model, version):
    config = Reward(model=str(tiny_model), learning_rate=1e-2, **SMALL)
    folder = tmp_path_factory.mktemp("reward") / "m"
    return train_transformer(config, DatasetRef.from_path(version), folder)


def test_reward_model_saves_and_reloads_with_the_same_scores(reward, version):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert reward.test.pairs == 9
    model = AutoModelForSequenceClassification.from_pretrained(reward.folder, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(reward.folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id

    def score(row, side):
        inputs = tokenizer.apply_chat_template(
            row["prompt"] + row[side], return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            return model(**inputs).logits[0, 0].item()

    rows = DatasetRef.from_path(version).pairs("test")
    gaps = [score(row, "chosen") - score(row, "rejected") for row in rows]
    assert sum(gaps) / 9 == pytest.approx(reward.test.margin, abs=1e-4)
    assert not (reward.folder / "training_args.bin").exists()


def test_the_seed_decides_the_reward_model(reward, tiny_model, version, tmp_path):
    config = Reward(model=str(tiny_model), learning_rate=1e-2, **SMALL)
    again = train_transformer(config, DatasetRef.from_path(version), tmp_path / "again")
    one, two = (load_file(r.folder / "model.safetensors") for r in (reward, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.test == reward.test


def test_reward_uses_the_margin_only_when_asked(tmp_path, tiny_model, make):
    pairs = make.polite_pairs(8).with_columns(margin=pl.lit(3.0))
    ref = DatasetRef.from_path(make.publish(tmp_path, pairs, pairs))
    settings = {"model": str(tiny_model), "learning_rate": 1e-9, **SMALL, "max_steps": 1}
    plain = train_transformer(Reward(**settings), ref, tmp_path / "plain")
    margin = train_transformer(Reward(**settings, use_margin=True), ref, tmp_path / "margin")
    assert margin.facts["first_loss"] > plain.facts["first_loss"] + 2
    assert margin.test.loss == pytest.approx(plain.test.loss + 2.37, abs=0.2)


def test_partial_margins_are_refused(tmp_path, tiny_model, make):
    pairs = make.polite_pairs(4).with_columns(margin=pl.Series([1.0, None, 1.0, 1.0]))
    ref = DatasetRef.from_path(make.publish(tmp_path, pairs, pairs))
    with pytest.raises(DataError, match="use_margin needs a margin on every pair"):
        train_transformer(Reward(model=str(tiny_model), use_margin=True), ref, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_what_trl_drops_in_silence_is_counted(tmp_path, tiny_model, make, capsys):
    long = make.pairs_of([("why " * 200, "certainly please", "go away"), ("q", "a", "a")])
    pairs = pl.concat([make.polite_pairs(6), long])
    ref = DatasetRef.from_path(make.publish(tmp_path, pairs, long))
    settings = {"model": str(tiny_model), "max_length": 200, **SMALL, "max_steps": 1}
    for report, why in [
        (
            train_transformer(DPO(**settings, compare_answers=0), ref, tmp_path / "dpo"),
            "prompt longer than max_length",
        ),
        (train_transformer(Reward(**settings), ref, tmp_path / "rm"), "longer than max_length"),
    ]:
        assert report.dropped == {"both answers are the same": 2, why: 2}
        assert report.test is None
        assert "no held-out pairs" in report.text()
    assert capsys.readouterr().out == ""
    tight = DPO(**{**settings, "max_length": 3})
    with pytest.raises(DataError, match="fills max_length"):
        train_transformer(tight, ref, tmp_path / "tight")


def test_dpo_counts_answers_that_are_cut(tmp_path, tiny_model, make):
    pairs = make.pairs_of([(f"q{i}", "certainly " * 20, "please " * 20) for i in range(4)])
    ref = DatasetRef.from_path(make.publish(tmp_path, pairs, pairs))
    settings = {"model": str(tiny_model), "max_length": 30, **SMALL, "max_steps": 1}
    report = train_transformer(DPO(**settings, compare_answers=0), ref, tmp_path / "m")
    assert report.facts["truncated"] == 4
    assert "4 training pairs were cut" in report.text()


def test_a_tokenizer_without_chat_template(tmp_path, tiny_model, version):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    template = (bare / "chat_template.jinja").rename(tmp_path / "chat.jinja")
    ref = DatasetRef.from_path(version)
    with pytest.raises(ConfigError, match="no chat template"):
        train_transformer(DPO(model=str(bare)), ref, tmp_path / "m")
    with pytest.raises(ConfigError, match="can't read chat_template"):
        train_transformer(
            DPO(model=str(bare), chat_template=tmp_path / "none"), ref, tmp_path / "m"
        )
    settings = {**SMALL, "max_steps": 1, "compare_answers": 0}
    report = train_transformer(
        DPO(model=str(bare), chat_template=template, **settings), ref, tmp_path / "m"
    )
    assert (report.folder / "chat_template.jinja").read_text() == template.read_text()


def test_impossible_settings_are_refused_before_anything_loads(tmp_path, version):
    ref = DatasetRef.from_path(version)
    with pytest.raises(ConfigError, match="can't load /nowhere"):
        train_transformer(Reward(model="/nowhere"), ref, tmp_path / "m")
    with pytest.raises(ValidationError, match="robust"):
        DPO(model="x", label_smoothing=0.1)
    with pytest.raises(ValidationError):
        DPO(model="x", lr=1e-6)


def test_lora_without_peft_names_the_command(tmp_path, version, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackageError, match="pip install peft"):
        train_transformer(
            DPO(model="x", lora=Lora()), DatasetRef.from_path(version), tmp_path / "m"
        )


@pytest.mark.parametrize("module", ["methods.trl", "columns"])
def test_without_trl_the_error_is_the_command(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, f"trainers.{module}", raising=False)
    with pytest.raises(MissingPackageError, match=r"pip install -e '.\[train\]'"):
        importlib.import_module(f"trainers.{module}")


def test_training_sends_no_telemetry_and_leaves_the_cache_setting(monkeypatch):
    import datasets
    from huggingface_hub import constants

    from trainers.running import considerate

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    before = datasets.is_caching_enabled()
    with considerate():
        assert constants.HF_HUB_DISABLE_TELEMETRY
        assert not datasets.is_caching_enabled()
    assert datasets.is_caching_enabled() == before


def test_answers_before_and_after_are_those_of_the_two_models(dpo, version, tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(dpo.folder)
    prompts = [row["prompt"] for row in DatasetRef.from_path(version).pairs("test")]
    assert [a.prompt for a in dpo.answers] == prompts[:4]
    for side, folder in (("before", tiny_model), ("after", dpo.folder)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        for compared in dpo.answers:
            ids = tokenizer.apply_chat_template(
                compared.prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            out = model.generate(
                **ids, do_sample=False, max_new_tokens=128, eos_token_id=tokenizer.eos_token_id
            )
            new = out[0, ids["input_ids"].shape[1] :]
            said = getattr(compared, side)
            assert said.text == tokenizer.decode(new, skip_special_tokens=True).strip()
            assert said.cut == (tokenizer.eos_token_id not in new.tolist())
    record = json.loads((dpo.folder / "training.json").read_text())
    assert record["answers"][0]["after"]["text"] == dpo.answers[0].after.text
    changed = sum(a.before != a.after for a in dpo.answers)
    assert f"{changed} of 4 are others than before training" in dpo.text()


def test_a_lora_changes_the_answers_of_its_model_and_no_held_out_pairs_take_training_ones(
    tmp_path, tiny_model, make
):
    pytest.importorskip("peft")
    ref = DatasetRef.from_path(make.publish(tmp_path, make.polite_pairs(8)))
    lora = Lora(r=4)
    settings = {**SMALL, "model": str(tiny_model), "lora": lora, "learning_rate": 0.5}
    config = DPO(**settings, compare_answers=2, answer_tokens=5)
    one, two = (train_transformer(config, ref, tmp_path / name) for name in ("one", "two"))
    assert len(one.answers) == 2
    assert any(a.before != a.after for a in one.answers)
    assert one.answers == two.answers
    assert all(a.before.cut for a in one.answers)
    same = [(f / "adapter_model.safetensors").read_bytes() for f in (one.folder, two.folder)]
    assert same[0] == same[1]
    assert (
        train_transformer(DPO(**{**settings, "compare_answers": 0}), ref, tmp_path / "3").answers
        == ()
    )


def test_the_page_of_a_training_shows_texts_and_runs_none(tmp_path, dpo):
    from dataclasses import replace

    from trainers.report import Compared, Said, page

    nasty = "<script>alert(1)</script>"
    asked = [{"role": "user", "content": f"{nasty} why?"}]
    answers = (Compared(asked, Said(nasty, cut=True), Said("fine", cut=False)),)
    html = page(replace(dpo, answers=answers, notes=(nasty,)))
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") == 3
    assert "cut at the limit of tokens" in html
    assert "fine" in html
    assert (dpo.folder / "report.html").read_text() == page(dpo)
    assert "Before and after" not in page(replace(dpo, answers=()))
