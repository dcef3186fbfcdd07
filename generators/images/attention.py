"""Where a model looks while it answers: the share of one picture, or document, among several."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prefactory.engines.base import Message
from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.images.marks import NAMED, Pictures
from prefactory.images.media import decoded
from prefactory.safety.chat_templates import bound_templates
from prefactory.safety.model_files import check_model

MOST_SHARE = {2: 0.8, 3: 0.7, 4: 0.6, 5: 0.6}
"""Greatest share of the picture asked about in a rejected answer, by the number of pictures: the
numbers of MIA-DPO's code for sequences."""


class AttentionGate(BaseModel):
    """Keep a rejected answer only if the model hardly looked at what was asked about.

    That is a picture, or in `generators.WrongDocument` a document. The ratio is the mean attention
    of a layer, over heads and the answer's tokens, to the tokens of that picture, divided by the
    sum of such means over all pictures (a mean per token, ours: mass follows size; the paper's
    pictures have equally many). K equal pictures have 1/K.

    Attributes:
        model: folder or Hugging Face name of a model with safetensors weights; for pictures a
            vision-language model.
        revision: of a Hugging Face model.
        layer: from 0; null takes the middle one (the paper's code: 16 of 32).
        most: number of pictures -> greatest ratio of a rejected answer that stays.
        device: torch device; null takes CUDA if there is one. Not identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    revision: str | None = None
    layer: int | None = Field(default=None, ge=0)
    most: Mapping[int, float] = MOST_SHARE
    device: str | None = None

    def ratio(self, talk: Sequence[Message], pictures: Pictures, answer: str, target: int) -> float:
        """The ratio of one answer.

        Args:
            talk: the prompt; names of its pictures stand in their marks.
            pictures: has them.
            answer: what the assistant says.
            target: place of the picture that is asked about, from 0.

        Raises:
            ConfigError: the model can't be loaded, or gives no attentions.
        """
        looks = _loaded(self.model, self.revision, self.device)
        return looks.ratio(talk, pictures, answer, target, self.layer)

    def ratio_of_texts(self, asked: str, texts: Sequence[str], answer: str, target: int) -> float:
        """The ratio of one answer to a prompt that holds several texts.

        Args:
            asked: what the user says; each text stands in it, in order.
            texts: the documents.
            answer: what the assistant says.
            target: place of the document that is asked about, from 0.

        Raises:
            ConfigError: the model can't be loaded, has no fast tokenizer, or gives no attentions.
        """
        return _reads(self.model, self.revision, self.device).ratio(
            asked, texts, answer, target, self.layer
        )


def _open(model: str, revision: str | None, reader: str, weights: str) -> tuple[Any, Any]:
    """Load what reads a model's texts and the model, with attentions, by names of auto classes.

    Raises:
        ConfigError: it can't be loaded.
    """
    transformers = package("transformers")
    where = Path(model).expanduser()
    source = str(where) if where.is_dir() else model
    common = {"revision": revision, "trust_remote_code": False}
    check_model(where)
    bound_templates()
    try:
        return (
            getattr(transformers, reader).from_pretrained(source, **common),
            getattr(transformers, weights).from_pretrained(
                source, use_safetensors=True, attn_implementation="eager", **common
            ),
        )
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"attention: the model {model!r} can't be loaded: {reason}") from error


@lru_cache(maxsize=1)
def _reads(model: str, revision: str | None, device: str | None) -> _Reads:
    return _Reads(model, revision, device)


class _Reads:
    """A loaded language model that tells its attentions."""

    def __init__(self, model: str, revision: str | None, device: str | None) -> None:
        from prefactory.engines.device import default_device

        self.tokenizer, loaded = _open(model, revision, "AutoTokenizer", "AutoModelForCausalLM")
        if not self.tokenizer.is_fast or not self.tokenizer.chat_template:
            raise ConfigError(f"attention: {model!r} needs a fast tokenizer with a chat template")
        self.name = model
        self.device = device or default_device()
        self.model: Any = loaded.to(self.device).eval()

    def ratio(
        self, asked: str, texts: Sequence[str], answer: str, target: int, layer: int | None
    ) -> float:
        """See `AttentionGate.ratio_of_texts`."""
        torch = package("torch")
        before = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        encoded = self.tokenizer(
            before + answer, add_special_tokens=False, return_offsets_mapping=True
        )
        offsets = encoded["offset_mapping"]
        start = next((i for i, (_, end) in enumerate(offsets) if end > len(before)), len(offsets))
        ids = torch.tensor([encoded["input_ids"]], device=self.device)
        with torch.inference_mode():
            attentions = self.model(input_ids=ids, output_attentions=True).attentions
        weights = _layer(attentions, layer, self.name)[0].float().mean(0)[start - 1 : -1]
        return share(weights, _spans(before, texts, offsets), target)


def _spans(
    whole: str, texts: Sequence[str], offsets: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """First and last token (the latter not within) of each text in a prompt, in order.

    Raises:
        ConfigError: the chat template does not show the texts as they are.
    """
    runs, at = [], 0
    for text in texts:
        begin = whole.find(text, at)
        if begin < 0:
            raise ConfigError(
                "attention: the chat template does not show the documents as they are"
            )
        at = begin + len(text)
        inside = [i for i, (first, last) in enumerate(offsets) if first < at and last > begin]
        runs.append((inside[0], inside[-1] + 1))
    return runs


@lru_cache(maxsize=1)
def _loaded(model: str, revision: str | None, device: str | None) -> _Looks:
    return _Looks(model, revision, device)


class _Looks:
    """A loaded model that tells its attentions."""

    def __init__(self, model: str, revision: str | None, device: str | None) -> None:
        from prefactory.engines.device import default_device

        self.processor, loaded = _open(
            model, revision, "AutoProcessor", "AutoModelForImageTextToText"
        )
        self.name = model
        self.device = device or default_device()
        self.model: Any = loaded.to(self.device).eval()

    @cached_property
    def image_token(self) -> int:
        """The token that stands for a piece of a picture."""
        config = self.model.config
        for name in ("image_token_id", "image_token_index"):
            if isinstance(getattr(config, name, None), int):
                return int(getattr(config, name))
        raise ConfigError(f"attention: the model {self.name!r} has no token for pictures")

    def ratio(
        self,
        talk: Sequence[Message],
        pictures: Pictures,
        answer: str,
        target: int,
        layer: int | None,
    ) -> float:
        """See `AttentionGate.ratio`."""
        torch = package("torch")
        shown = [decoded(pictures.get(n)) for m in talk for n in NAMED.findall(m["content"])]
        before = self.processor.apply_chat_template(
            [_parts(m) for m in talk], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(
            text=[before + answer], images=shown, return_tensors="pt", add_special_tokens=False
        ).to(self.device)
        prompt = self.processor(
            text=[before], images=shown, return_tensors="pt", add_special_tokens=False
        )
        start = prompt["input_ids"].shape[1]
        with torch.inference_mode():
            attentions = self.model(**inputs, output_attentions=True).attentions
        weights = _layer(attentions, layer, self.name)[0].float().mean(0)[start - 1 : -1]
        runs = _runs((inputs["input_ids"][0] == self.image_token).tolist())
        if len(runs) != len(shown):
            raise ConfigError(
                f"attention: the model {self.name!r} shows {len(shown)} pictures as {len(runs)} "
                "runs of tokens; it can't be told which is which"
            )
        return share(weights, runs, target)


def share(weights: Any, runs: Sequence[tuple[int, int]], target: int) -> float:  # noqa: ANN401
    """The share of one of several runs of tokens in the attention that they get, per token.

    A mean, not a sum, over a run's tokens (ours): mass follows length. K runs that get the same
    attention have 1/K each, however long they are.

    Args:
        weights: attention of the answer's tokens (rows) to all tokens (columns).
        runs: first and last place (the latter not within) of each run.
        target: which run.
    """
    means = [float(weights[:, first:last].mean()) for first, last in runs]
    return means[target] / sum(means)


def _layer(attentions: Any, layer: int | None, model: str) -> Any:  # noqa: ANN401 - tensors
    """Attentions of a layer, [1, heads, tokens, tokens].

    Raises:
        ConfigError: there are none: `sdpa` gives an empty tuple, which must not pass for a look.
    """
    if not attentions or attentions[0] is None:
        raise ConfigError(
            f"attention: the model {model!r} gives no attentions; it has to run with eager "
            "attention"
        )
    place = len(attentions) // 2 if layer is None else layer
    if place >= len(attentions):
        raise ConfigError(f"attention: layer {place}: {model!r} has {len(attentions)} layers")
    return attentions[place]


def _runs(marks: list[bool]) -> list[tuple[int, int]]:
    """First and last place (the latter not within) of each run of true."""
    pairs = enumerate(itertools.pairwise([False, *marks, False]))
    edges = [place for place, (before, now) in pairs if before != now]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _parts(message: Message) -> dict[str, Any]:
    pieces = NAMED.split(message["content"])
    parts: list[dict[str, str]] = []
    for place, piece in enumerate(pieces):
        if place % 2:
            parts.append({"type": "image"})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return {"role": message["role"], "content": parts}
