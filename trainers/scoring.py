"""How a transformer scores both answers of pairs: log-probabilities, or the output of a head.

Held-out metrics of every method and `prefactory evaluate` go through here. Answers are tokenised as
TRL does it: the answer begins where the conversation leaves the prompt, and is cut at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefactory.chat_template import ChatTemplate
from prefactory.measures.calibration import Floats
from prefactory.tables import SIDES

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sides:
    """Both answers of n pairs as tokens, or n single answers.

    Attributes:
        ids: 2n conversations, those with the chosen answers first; n of single answers.
        starts: where each answer begins.
        kept: which of the rows that were given are among them, Bool[N].
        cut: how many rows lost the end of an answer.
        each: conversations of a row, 2 or 1.
    """

    ids: tuple[list[int], ...]
    starts: tuple[int, ...]
    kept: NDArray[np.bool_]
    cut: int
    each: int = 2

    @property
    def pairs(self) -> int:
        """Number of pairs, or of single answers."""
        return len(self.ids) // self.each


def encoded(
    template: ChatTemplate,
    rows: Iterable[dict[str, Any]],
    max_length: int,
    whole: bool = False,
    names: Sequence[str] = SIDES,
) -> Sides:
    """Tokenise pairs, or single answers.

    Args:
        template: of the model.
        rows: with `prompt`, the answers and maybe `tools`.
        max_length: of a conversation; a row whose prompt fills it is left out.
        whole: leave out rows with a longer conversation, instead of cutting it.
        names: columns of the answers.
    """
    sides: list[list[list[int]]] = [[] for _ in names]
    starts: list[int] = []
    kept, cut = [], 0
    for row in rows:
        prompt = ids_of(template, row["prompt"], row.get("tools"), True)
        both = [ids_of(template, row["prompt"] + row[s], row.get("tools"), False) for s in names]
        start = min(common(prompt, full) for full in both)
        longest = max(map(len, both))
        fits = longest <= max_length if whole else start < max_length
        kept.append(fits)
        if not fits:
            continue
        cut += longest > max_length
        starts.append(start)
        for side, full in zip(sides, both, strict=True):
            side.append(full[:max_length])
    ids = tuple(row for side in sides for row in side)
    return Sides(ids, tuple(starts * len(names)), np.asarray(kept, dtype=bool), cut, len(names))


def ids_of(template: ChatTemplate, messages: list[Any], tools: Any, follows: bool) -> list[int]:  # noqa: ANN401
    """Tokens of a conversation as the chat template writes it."""
    text = template.text(messages, tools, answer_follows=follows)
    found: list[int] = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two conversations begin with alike."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def log_probabilities(model: Any, sides: Sides, batch: int, pad: int) -> Floats:  # noqa: ANN401
    """Log-probability of each answer after its prompt, in nats.

    Args:
        model: a causal language model, on its device.
        sides: 2n answers.
        batch: conversations per forward pass.
        pad: token to pad with.

    Returns:
        Float64[2n], sums over the answer's tokens.
    """
    out = np.zeros(len(sides.ids))
    for places, ids, mask in _batches(model, sides, batch, pad):
        first = min(sides.starts[i] for i in places)
        keep = ids.shape[1] - max(first, 1) + 1
        logits = model(
            input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep
        ).logits[:, -keep:-1]
        targets = ids[:, -(keep - 1) :, None]
        logs = logits.float().log_softmax(-1).gather(2, targets)[..., 0]
        places_in = torch.arange(ids.shape[1] - keep + 1, ids.shape[1], device=ids.device)
        starts = torch.tensor([sides.starts[i] for i in places], device=ids.device)
        answer = (places_in[None] >= starts[:, None]) & mask[:, -(keep - 1) :].bool()
        out[places] = (logs.double() * answer).sum(1).cpu().numpy()
    return out


def token_counts(sides: Sides) -> Ints:
    """Tokens of each answer, Int64[2n], at least 1."""
    sizes = [len(ids) - start for ids, start in zip(sides.ids, sides.starts, strict=True)]
    return np.maximum(np.asarray(sizes, dtype=np.int64), 1)


def head_scores(model: Any, sides: Sides, batch: int, pad: int) -> Floats:  # noqa: ANN401
    """Outputs of a sequence classifier for each conversation, Float64[2n, number of outputs]."""
    parts: list[tuple[list[int], Floats]] = []
    for places, ids, mask in _batches(model, sides, batch, pad):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        parts.append((places, logits.double().cpu().numpy()))
    if not parts:
        return np.zeros((0, 1))
    out = np.zeros((len(sides.ids), parts[0][1].shape[1]))
    for places, scores in parts:
        out[places] = scores
    return out


def _batches(
    model: Any,  # noqa: ANN401
    sides: Sides,
    size: int,
    pad: int,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Conversations of like length together: places, ids and mask, both Int64[b, t]."""
    order = sorted(range(len(sides.ids)), key=lambda i: (len(sides.ids[i]), i))
    training = model.training
    model.eval()
    with torch.no_grad():
        for at in range(0, len(order), size):
            places = order[at : at + size]
            width = max(len(sides.ids[i]) for i in places)
            ids = torch.full((len(places), width), pad, dtype=torch.long)
            mask = torch.zeros((len(places), width), dtype=torch.long)
            for row, i in enumerate(places):
                n = len(sides.ids[i])
                ids[row, :n] = torch.tensor(sides.ids[i])
                mask[row, :n] = 1
            yield places, ids.to(model.device), mask.to(model.device)
    model.train(training)
