"""What a model says of pairs, whatever kind of model it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import transformers

from prefactory.chat_template import ChatTemplate
from prefactory.errors import ConfigError
from prefactory.measures.calibration import Floats
from prefactory.tables import SIDES
from trainers.embedding_model import Embed, EmbeddingRewardModel
from trainers.methods.plan import Score, implicit_reward, log_odds, mean_log_probability
from trainers.people.model import PALReward
from trainers.scoring import Sides, encoded, head_scores, log_probabilities, token_counts
from trainers.settings import TransformerSettings
from trainers.transformer import load_model, load_tokenizer

_BASE = {"learning_rate": 1.0}


@dataclass(frozen=True)
class Scored:
    """What a model says of n pairs.

    Attributes:
        name: of the model.
        how: what its score is.
        margins: score of chosen minus score of rejected, Float64[n]; NaN for a pair that is too
            long for it.
    """

    name: str
    how: str
    margins: Floats


def scored(
    model: str, pairs: pl.DataFrame, embed: Embed | None, batch: int, max_length: int
) -> Scored:
    """Score both answers of pairs.

    A reward model gives its output; an embedding reward model its score; a policy that was trained
    here the score of its method, against the model that it began with where that has a part in it;
    any other language model the mean log-probability of a token.

    Args:
        model: folder or Hugging Face id.
        pairs: with `prompt`, `chosen`, `rejected`.
        embed: makes vectors; needed by an embedding reward model.
        batch: conversations per forward pass.
        max_length: tokens of a conversation.

    Raises:
        ConfigError: it is no model that can score answers.
    """
    training = _training(Path(model))
    if training.get("method") == "embedding-reward":
        if embed is None:
            raise ConfigError(f"{model} reads sentence vectors: embed is missing")
        heads = EmbeddingRewardModel.load(model, embed)
        chosen, rejected = (heads.score(pairs["prompt"], pairs[s]) for s in ("chosen", "rejected"))
        return Scored(_name(model), "embedding reward", chosen - rejected)
    if training.get("method") == "pal":
        if embed is None:
            raise ConfigError(f"{model} reads sentence vectors: embed is missing")
        people = PALReward.load(model, embed)
        column = str(training["config"]["annotator"])
        users = pairs[column].to_list() if pairs.schema.get(column) == pl.String else None
        chosen, rejected = (people.score(pairs["prompt"], pairs[s], users) for s in SIDES)
        whose = "of the mean person" if users is None else "of who gave each label"
        return Scored(_name(model), f"reward {whose}", chosen - rejected)
    if training.get("method") == "preference-stack":
        raise ConfigError(f"{model} is a stack: labelers.PreferenceScore scores data with it")
    if training.get("method") == "stepwise":
        raise ConfigError(f"{model} scores steps: labelers.StepScores scores data with it")
    settings = TransformerSettings(model=model, **_BASE)
    template = ChatTemplate(load_tokenizer(settings), model)
    rows = pairs.select(c for c in ("prompt", "chosen", "rejected", "tools") if c in pairs.columns)
    if _is_reward(model):
        sides = encoded(template, rows.iter_rows(named=True), max_length, whole=True)
        weights = _weights(training)
        adapter = (Path(model) / "adapter_config.json").is_file()
        one = {"num_labels": len(weights)} if adapter else {}
        net = load_model(_auto(model, "SequenceClassification"), settings, **one)
        pad = template.tokenizer.pad_token_id
        net.config.get_text_config().pad_token_id = pad
        outputs = head_scores(net, sides, batch, pad)
        return Scored(_name(model), "reward", _margins(sides, outputs[:, : len(weights)] @ weights))
    sides = encoded(template, rows.iter_rows(named=True), max_length)
    how, score, reference = _score(training)
    now = _logs(model, sides, template, batch)
    before = _logs(reference, sides, template, batch) if reference else np.zeros(len(now))
    return Scored(_name(model), how, _margins(sides, score(now, before, token_counts(sides))))


def _name(model: str) -> str:
    return Path(model).name or model


def _training(folder: Path) -> Mapping[str, Any]:
    file = folder / "training.json"
    found: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found


def _is_reward(model: str) -> bool:
    folder = Path(model)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return bool(json.loads(adapter.read_text("utf-8")).get("task_type") == "SEQ_CLS")
    config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
    return any("SequenceClassification" in name for name in config.architectures or ())


def _auto(model: str, task: str) -> Any:  # noqa: ANN401
    if (Path(model) / "adapter_config.json").is_file():
        import peft

        return getattr(peft, f"AutoPeftModelFor{task}")
    return getattr(transformers, f"AutoModelFor{task}")


def _logs(model: str, sides: Sides, template: ChatTemplate, batch: int) -> Floats:
    net = load_model(_auto(model, "CausalLM"), TransformerSettings(model=model, **_BASE))
    return log_probabilities(net, sides, batch, template.tokenizer.pad_token_id)


def _score(training: Mapping[str, Any]) -> tuple[str, Score, str | None]:
    """How a policy's score is called, the score, and the model that it is held against."""
    method, config = training.get("method"), training.get("config", {})
    if method in ("dpo", "kto", "raco", "bco", "mah", "rdpo", "listwise", "steerlm", "goal-dpo"):
        beta = config.get("beta", 1.0)
        return "implicit reward", implicit_reward(beta), str(config["model"])
    if method == "orpo":
        return "log odds", log_odds, None
    return "mean log-probability", mean_log_probability(), None


def _weights(training: Mapping[str, Any]) -> Floats:
    """Weight of each output of a head in the score."""
    if training.get("method") != "regression":
        return np.ones(1)
    names, given = training["config"]["attributes"], training["config"]["weights"]
    if not given:
        return np.asarray([1.0, *[0.0] * (len(names) - 1)])
    return np.asarray([given.get(name, 0.0) for name in names])


def _margins(sides: Sides, scores: Floats) -> Floats:
    out = np.full(len(sides.kept), np.nan)
    out[sides.kept] = scores[: sides.pairs] - scores[sides.pairs :]
    return out
