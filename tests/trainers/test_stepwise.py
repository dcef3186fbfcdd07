"""Process rewards: what labels mean, stock token classification, and steps that are scored."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, set_seed

from catalog.layouts import export
from labelers import StepScores
from labelers.models.language_models import Model
from pipelines.api import Recipe, audit, run
from prefactory.chat_template import ChatTemplate
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.process.labels import chances, first_error, found_errors, signed_sources
from prefactory.process.tokens import step_tokens
from trainers import DatasetRef, Stepwise, losses, train_transformer
from trainers.evaluate import models as evaluation

SMALL = {
    "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False, "learning_rate": 1e-2, "save_strategy": "no",
    "max_length": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def solutions(n=30, labels=(True, False)):
    return [
        {
            "prompt": f"count {i}",
            "completions": [f"certainly {i}", word],
            "labels": [labels[0], good],
        }
        for i in range(n)
        for word, good in (("please", labels[0]), ("go away", labels[1]))
    ]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    return run(Recipe("steps", source=pl.DataFrame(solutions())), folder)


def test_labels_below_zero_make_a_source_one_of_signs():
    rows = pl.DataFrame(
        {"source": ["a", "b", None], "step_labels": [[1.0, 0.0, -1.0], [1.0, 0.0, 0.3], [1.0]]}
    )
    assert signed_sources([rows[1:], rows[:1]]) == ["a"]
    for neutral, first in (("right", [1, 1, 0]), ("wrong", [1, 0, 0]), ("leave", [1, None, 0])):
        found = rows.select(chances(["a"], neutral)).to_series().to_list()
        assert found == [first, [1.0, 0.0, 0.3], [1.0]]
    nameless = rows.with_columns(source=pl.lit(None, pl.String))
    assert nameless.select(chances([None], "wrong")).to_series().to_list()[1] == [1.0, 0.0, 0.65]


def test_first_errors_are_found_or_not():
    assert first_error([0.9, None, 0.2, 0.1]) == 2
    assert first_error([0.9, None]) == -1
    found = found_errors([2, -1, 0, -1], [2, -1, 1, -1])
    assert found == {"first_error": 0.5, "no_error": 1.0, "first_error_f1": pytest.approx(2 / 3)}
    assert found_errors([1], [0])["first_error"] == 0
    assert math.isnan(found_errors([1], [1])["no_error"])


def test_hard_labels_have_the_loss_of_token_classification(tiny_model):
    set_seed(0)
    net = AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=2).eval()
    ids = torch.randint(5, 200, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.full((3, 9), -100)
    labels[0, 3], labels[0, 8], labels[2, 5] = 1, 0, 1
    stock = net(input_ids=ids, labels=labels)
    targets = torch.where(labels >= 0, labels.float(), float("nan"))
    assert losses.step_entropy(stock.logits, targets).item() == pytest.approx(
        stock.loss.item(), abs=1e-6
    )
    none = losses.step_entropy(stock.logits, torch.full((3, 9), float("nan")))
    assert none.item() == 0
    half = losses.step_entropy(torch.zeros(1, 2, 2), torch.tensor([[0.3, 0.9]]))
    assert half.item() == pytest.approx(math.log(2)), "soft labels"


def test_a_step_is_read_at_its_last_token(tiny_model):
    template = ChatTemplate(AutoTokenizer.from_pretrained(tiny_model), "tiny")
    prompt = [{"role": "user", "content": "why"}]
    ids, ends = step_tokens(template, prompt, ["one", "two"], "\n")
    text = template.tokenizer.decode
    start = len(step_tokens(template, prompt, [])[0])
    assert text(ids[start : ends[0] + 1]) == "one\n"
    assert text(ids[ends[0] + 1 : ends[1] + 1]) == "two\n"
    assert ends[1] == len(ids) - 1
    assert step_tokens(template, prompt, ["one"], "\n")[0] == ids[: ends[0] + 1]


@pytest.mark.slow
def test_a_trained_model_scores_the_steps_of_a_recipe(steps, tiny_model, tmp_path):
    config = Stepwise(model=str(tiny_model), **{**SMALL, "max_steps": 40})
    report = train_transformer(config, DatasetRef(steps, "responses"), tmp_path / "prm")
    assert report.facts["last_loss"] < 0.5 * report.facts["first_loss"]
    assert any(note.startswith("held out: answers") for note in report.notes)
    model = {"model": str(tmp_path / "prm"), "precision": "fp32", "device": "cpu"}
    rows = steps.frame("responses").collect()
    line = {"model": model, "name": "prm", "splitter": "line"}  # as the source joined the steps
    scored = StepScores(**line).label(rows, Context())
    last = pl.DataFrame({"p": scored["steps_prm"], "good": rows["score_steps"]})
    last = last.with_columns(pl.col("p").list.last())
    assert last.filter(good=1.0)["p"].min() > last.filter(good=0.0)["p"].max()
    # the same numbers as the model's own, without our batches
    net = AutoModelForTokenClassification.from_pretrained(tmp_path / "prm").eval()
    assert net.config.step_separator == "\n\n"
    template = ChatTemplate(AutoTokenizer.from_pretrained(tmp_path / "prm"), "prm")
    ids, ends = step_tokens(template, rows["prompt"][0].to_list(), rows["steps"][0].to_list())
    with torch.no_grad():
        expected = net(torch.tensor([ids])).logits[0, ends].softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(scored["steps_prm"][0].to_numpy(), expected, atol=1e-5)
    alone = StepScores(**line).label(rows[:1], Context())
    assert alone.equals(scored[:1]), "whatever is scored beside it"
    with pytest.raises(ConfigError, match=r"labelers\.StepScores scores data with it"):
        evaluation.scored(str(tmp_path / "prm"), rows, None, 4, 64)
    with pytest.raises(ConfigError, match="reads its own chat"):
        StepScores(model=model, template="plain").label(rows, Context())
    with pytest.raises(ConfigError, match="has 2 heads and 3 are named"):
        StepScores(model=model, heads=3).label(rows, Context())


@pytest.mark.slow
def test_a_model_that_was_trained_by_an_adapter_scores_steps(steps, tiny_model, tmp_path):
    """Through peft, merged here, and by the whole model of the same weights: one answer."""
    import peft

    config = Stepwise(
        model=str(tiny_model), lora={"r": 4, "alpha": 8}, separator="\n",
        **{**SMALL, "max_steps": 60},
    )  # fmt: skip
    report = train_transformer(config, DatasetRef(steps, "responses"), tmp_path / "prm")
    assert report.facts["last_loss"] < 0.5 * report.facts["first_loss"]
    assert not (tmp_path / "prm" / "config.json").exists(), "an adapter"
    model = {"model": str(tmp_path / "prm"), "precision": "fp32", "device": "cpu"}
    rows = steps.frame("responses").collect()
    scored = StepScores(model=model, splitter="line").label(rows, Context())
    last = pl.DataFrame({"p": scored["steps_steps"], "good": rows["score_steps"]})
    last = last.with_columns(pl.col("p").list.last())
    assert last.filter(good=1.0)["p"].min() > last.filter(good=0.0)["p"].max()
    net = peft.AutoPeftModelForTokenClassification.from_pretrained(tmp_path / "prm", num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "prm")
    ids, ends = step_tokens(
        ChatTemplate(tokenizer, "prm"), rows["prompt"][0].to_list(), rows["steps"][0].to_list(),
        "\n",
    )  # fmt: skip
    with torch.no_grad():
        expected = net.eval()(torch.tensor([ids])).logits[0, ends].softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(scored["steps_steps"][0].to_numpy(), expected, atol=1e-5)
    whole = net.merge_and_unload()
    whole.config.step_separator = "\n"
    whole.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    merged = {**model, "model": str(tmp_path / "whole")}
    same = StepScores(model=merged, splitter="line").label(rows, Context())
    for name in ("score_steps", "reason_steps"):
        assert same[name].to_list() == pytest.approx(scored[name].to_list(), abs=1e-6)
    first = Model(**model).identity()
    assert first["base"] == Model(**{**model, "model": str(tiny_model)}).identity()
    assert "base" not in Model(**merged).identity()


def test_what_a_process_reward_model_can_not_learn_from_is_refused(
    steps, version, tiny_model, tmp_path
):
    config = Stepwise(model=str(tiny_model), **SMALL)
    with pytest.raises(DataError, match=r"stepwise reads the column steps, .*HumanAnswers"):
        train_transformer(config, DatasetRef.from_path(version), tmp_path / "m")
    many = pl.DataFrame(solutions(4)).with_columns(labels=pl.lit([True, False]))
    other = many.with_columns(more=pl.lit([2.0, 0.5]))
    source = {"path": other, "carry": ["more"]}
    wrong = run(Recipe("wrong", source=source), tmp_path / "home")
    named = Stepwise(model=str(tiny_model), labels="more", **SMALL)
    with pytest.raises(DataError, match=r"from 0 to 1 or 1, 0 and -1; not so in .*\[2.0, 0.5\]"):
        train_transformer(named, DatasetRef(wrong, "responses"), tmp_path / "m")


def test_exported_steps_are_read_again(steps, tmp_path):
    export(steps, "stepwise", tmp_path / "out", "jsonl")
    again = run(Recipe("again", source=str(tmp_path / "out/data/*.jsonl")), tmp_path / "home")
    columns = ["steps", "step_labels", "score_steps"]
    ids = ["response_id", "prompt_id"]
    one, two = (v.frame("responses").collect().select(*ids, *columns) for v in (steps, again))
    assert one.equals(two)


def test_an_audit_reads_answers_with_steps(tmp_path):
    found = audit(pl.DataFrame(solutions(8)), embeddings=False, home=tmp_path)
    assert (found.shape, found.rows) == ("responses", 16)
    assert found.counts()["fault"] == 0
