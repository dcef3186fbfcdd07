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
from prefactory.engines.steering.vector import attach, fitted_to, load
from prefactory.errors import ConfigError
from prefactory.measures.calibration import Floats
from prefactory.safety.model_files import check_model
from prefactory.tables import SIDES
from trainers.embedding_model import Embed, EmbeddingRewardModel
from trainers.methods.plan import Score, implicit_reward, log_odds, mean_log_probability
from trainers.people.model import PALReward
from trainers.scoring import Sides, encoded, head_scores, log_probabilities, token_counts
from trainers.settings import TransformerSettings
from trainers.transformer import load_model, load_tokenizer, why_not

_BASE = {"learning_rate": 1.0}
_AGAINST_REFERENCE = (
    "dpo", "kto", "raco", "bco", "mah", "rdpo", "listwise", "steerlm", "goal-dpo", "yapo",
)  # fmt: skip


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
    training = training_of(Path(model))
    if training.get("method") == "embedding-reward":
        if embed is None:
            raise ConfigError(f"{model} reads sentence vectors: embed is missing")
        heads = EmbeddingRewardModel.load(model, embed)
        names = heads.categories
        chosen, rejected = (
            heads.score(
                pairs["prompt"], pairs[s], None if names is None else names.of_side(pairs, s)
            )
            for s in SIDES
        )
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
    if training.get("method") == "router":
        raise ConfigError(f"{model} is a router: labelers.Route chooses models with it")
    if training.get("method") == "stepwise":
        raise ConfigError(f"{model} scores steps: labelers.StepScores scores data with it")
    reader = Reader.of(model, pairs, batch, max_length)
    return Scored(_name(model), reader.how, reader.margins(reader.net()))


@dataclass(frozen=True)
class Reader:
    """How the scores of a transformer are read, of pairs whose tokens are made once.

    Attributes:
        model: folder or hub id.
        how: what its score is.
        sides: the pairs.
        batch: conversations per forward pass.
        template: of the model.
        weights: of the outputs of a reward model; None for a policy.
        score: of a policy, from its log-probabilities and those of the reference.
        before: log-probabilities of the reference.
    """

    model: str
    how: str
    sides: Sides
    batch: int
    template: ChatTemplate
    weights: Floats | None
    score: Score
    before: Floats

    @classmethod
    def of(
        cls,
        model: str,
        pairs: pl.DataFrame,
        batch: int,
        max_length: int,
        training: Mapping[str, Any] | None = None,
    ) -> Reader:
        """Find out how a model scores, and tokenise; the reference of a policy is asked here.

        Args:
            model: folder or hub id.
            pairs: with `prompt`, `chosen`, `rejected`.
            batch: conversations per forward pass.
            max_length: tokens of a conversation.
            training: `method` and `config` that decide how it scores; None: the model's own.

        Raises:
            ConfigError: it can't be loaded.
        """
        training = training_of(Path(model)) if training is None else training
        plain = fitted_to(model) or model
        template = ChatTemplate(load_tokenizer(TransformerSettings(model=plain, **_BASE)), model)
        texts = ("prompt", "chosen", "rejected", "tools")
        rows = pairs.select(c for c in texts if c in pairs.columns).iter_rows(named=True)
        if is_reward(plain):
            sides = encoded(template, rows, max_length, whole=True)
            none = mean_log_probability()
            weights = _weights(training)
            return cls(model, "reward", sides, batch, template, weights, none, np.zeros(0))
        sides = encoded(template, rows, max_length)
        how, score, reference = _score(training)
        before = np.zeros(len(sides.ids))
        if reference and sides.ids:
            settings = TransformerSettings(model=reference, **_BASE)
            net = load_model(loader(reference, "CausalLM"), settings)
            before = log_probabilities(net, sides, batch, template.tokenizer.pad_token_id)
        return cls(model, how, sides, batch, template, None, score, before)

    def net(self) -> Any:  # noqa: ANN401 - a transformers or peft model
        """Load the model; of a folder with a vector, the model that it steers, with it."""
        if (plain := fitted_to(self.model)) is not None:
            settings = TransformerSettings(model=plain, **_BASE)
            net = load_model(loader(plain, "CausalLM"), settings)
            attach(net, load(self.model))
            return net
        settings = TransformerSettings(model=self.model, **_BASE)
        if self.weights is None:
            return load_model(loader(self.model, "CausalLM"), settings)
        adapter = (Path(self.model) / "adapter_config.json").is_file()
        one = {"num_labels": len(self.weights)} if adapter else {}
        return load_model(loader(self.model, "SequenceClassification"), settings, **one)

    def margins(self, net: Any) -> Floats:  # noqa: ANN401
        """Margins of the pairs by a network like that of `net`, Float64[n]; NaN: too long."""
        pad = self.template.tokenizer.pad_token_id
        if self.weights is None:
            now = log_probabilities(net, self.sides, self.batch, pad)
            scores = self.score(now, self.before, token_counts(self.sides))
        else:
            net.config.get_text_config().pad_token_id = pad
            outputs = head_scores(net, self.sides, self.batch, pad)
            scores = outputs[:, : len(self.weights)] @ self.weights
        return _margins(self.sides, scores)


def _name(model: str) -> str:
    return Path(model).name or model


def training_of(folder: Path) -> Mapping[str, Any]:
    """`method` and `config` that decide how a model scores; empty if it was not trained here."""
    file = folder / "training.json"
    found: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if found.get("method") == "merge":  # what it was merged of scores so
        return dict(found["config"]["scored_as"])
    return found


def is_reward(model: str) -> bool:
    """Whether a folder or hub id holds a sequence classifier, or an adapter of one.

    Raises:
        ConfigError: it holds no model.
    """
    folder = Path(model)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return bool(json.loads(adapter.read_text("utf-8")).get("task_type") == "SEQ_CLS")
    try:
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't load {model}: {why_not(model) or error}") from error
    return any("SequenceClassification" in name for name in config.architectures or ())


def loader(model: str, task: str) -> Any:  # noqa: ANN401
    """The class that loads a model for a task, an adapter with its base.

    Raises:
        ConfigError: the weights are in a file that may hold pickles.
    """
    check_model(model)
    if (Path(model) / "adapter_config.json").is_file():
        import peft

        return getattr(peft, f"AutoPeftModelFor{task}")
    return getattr(transformers, f"AutoModelFor{task}")


def _score(training: Mapping[str, Any]) -> tuple[str, Score, str | None]:
    """How a policy's score is called, the score, and the model that it is held against."""
    method, config = training.get("method"), training.get("config", {})
    if method in _AGAINST_REFERENCE:
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
