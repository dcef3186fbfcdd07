"""A teacher's likeliest tokens: which they are, how likely, and what they cost."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from labelers import TeacherTokens
from labelers.models.likelihood import Likelihood
from pipelines.cli.app import app
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.tables import Shape
from tests.helpers import responses, tiny_llama

ROWS = (("why", "certainly so"), ("why", ""), ("q", "long " * 300), ("q", "go"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_llama(tmp_path_factory.mktemp("teacher") / "m")
    return {"model": str(folder), "precision": "fp32", "device": "cpu", "max_tokens": 64}


def label(step, table):
    out = step.label(table, Context())
    assert dict(out.schema) == step.adds(Shape.RESPONSES)
    return out


def test_lists_are_the_models_own_words(model):
    table = responses(*ROWS)
    out = label(TeacherTokens(teacher=model, reference=model, k=3, precision="float32"), table)
    assert out["reason_teacher"].to_list() == [None, "empty", "too_long", None]
    assert out["teacher_ids"].is_null().to_list() == [False, True, True, False]
    row = out.row(0, named=True)
    ids, found = np.asarray(row["teacher_ids"]), np.asarray(row["teacher_logs"])
    assert ids.shape == found.shape == (len(row["teacher_tokens"]), 3)
    assert (np.diff(found, axis=1) <= 0).all(), "the likeliest first"
    mass = np.exp(found).sum(1) + np.exp(row["teacher_rest"])
    np.testing.assert_allclose(mass, 1, atol=1e-5)
    assert row["teacher_reference_logs"] == row["teacher_logs"], "the same model"
    size = AutoModelForCausalLM.from_pretrained(model["model"]).config.vocab_size
    whole = label(TeacherTokens(teacher=model, k=size, precision="float32"), table)
    assert set(whole["teacher_rest"].explode().drop_nulls()) == {-100.0}
    mean = Likelihood(models=[model]).label(table, Context())["score_log_probability"]
    for i in (0, 3):
        tokens, ids = whole["teacher_tokens"][i], whole["teacher_ids"][i]
        logs = [
            dict(zip(ids[t].to_list(), whole["teacher_logs"][i][t].to_list(), strict=True))[token]
            for t, token in enumerate(tokens)
        ]
        assert np.mean(logs) == pytest.approx(mean[i], abs=1e-5)
    with pytest.raises(ConfigError, match=rf"k=9999: the model has {size} tokens"):
        label(TeacherTokens(teacher=model, k=9999), table)


def test_lists_do_not_depend_on_the_company(model):
    table = responses(*ROWS)
    step = TeacherTokens(teacher=model, k=2)
    out = label(step, table)
    assert label(step, table.reverse()).reverse().equals(out)
    assert label(step, table[3:]).equals(out[3:])
    assert label(step, table.clear()).height == 0
    exact = label(TeacherTokens(teacher=model, k=2, precision="float32"), table)
    near = out["teacher_logs"].explode().explode().cast(pl.Float32)
    assert (near - exact["teacher_logs"].explode().explode()).abs().max() < 4e-3


def test_what_is_kept_is_planned(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path))
    rows = [{"prompt": f"q {i}", "chosen": "a", "rejected": "b"} for i in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = tmp_path / "taught.yaml"
    fields = {"teacher": model, "reference": model, "k": 16}
    steps = [{"labelers.TeacherTokens": fields}]
    told = {"name": "taught", "source": {"path": "rows.jsonl"}, "steps": steps}
    recipe.write_text(json.dumps(told))
    found = CliRunner().invoke(app, ["plan", str(recipe), "--json"])
    assert found.exit_code == 0, found.output
    passes = json.loads(found.stdout)["passes"]
    assert [p["passes"] for p in passes] == [100, 100], "two answers a pair"
    assert passes[0]["bytes"] == 100 * 512 * (4 + 16 * 6 + 2)
    assert passes[1]["bytes"] == 100 * 512 * 17 * 2
    text = CliRunner().invoke(app, ["plan", str(recipe)]).output
    assert "forward passes" in text
    assert "0.01 GB" in text


def test_torch_is_what_is_asked(model):
    """The first place is told by the prompt alone."""
    out = label(TeacherTokens(teacher=model, k=1), responses(("why", "go")))
    other = label(TeacherTokens(teacher=model, k=1), responses(("why", "stay")))
    assert out["teacher_ids"][0][0].to_list() == other["teacher_ids"][0][0].to_list()
    assert torch.is_grad_enabled()
