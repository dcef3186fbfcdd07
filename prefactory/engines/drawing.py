"""Drawing tokens so that each row has a random stream of its own, within transformers' `generate`.

`generate` is left in greedy mode; the processor here draws a token per row and puts it beyond all
others, so that caches, positions and masks stay the library's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from prefactory.engines.base import Request


class Drawer:
    """A logits processor: draws, and adds up log-probabilities.

    Attributes:
        logprob: per row, sum of the natural log-probabilities of its tokens, before temperature
            and all else that `SamplingParams` has, without what comes after its end.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        prompts: Sequence[Sequence[int]],
        start: int,
        ended: Callable[[], list[bool]],
    ) -> None:
        """Prepare a stream per row.

        Args:
            requests: one per row.
            prompts: the tokens of each row's prompt, without padding.
            start: tokens of the padded prompt.
            ended: tells which rows had ended before this step.
        """
        seeds = [request.draw_seed for request in requests]
        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._sampling = [request.sampling for request in requests]
        self._prompts = prompts
        self._start = start
        self._ended = ended
        self.logprob = [0.0] * len(requests)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Force one token per row (ids int64 [B, L], scores float [B, V] -> float [B, V])."""
        logs = scores.double().log_softmax(-1)
        picks = [
            0 if over else self._pick(row, logs[row], scores[row], ids[row])
            for row, over in enumerate(self._ended())
        ]
        forced = torch.full_like(scores, -torch.inf)
        forced[torch.arange(len(picks)), torch.tensor(picks)] = 0.0
        return forced

    def _pick(self, row: int, logs: torch.Tensor, logits: torch.Tensor, ids: torch.Tensor) -> int:
        sampling = self._sampling[row]
        drawn_from = logs
        if sampling.repetition_penalty != 1:
            drawn_from = self._penalised(row, logits.double(), ids)
        heat = sampling.temperature
        pick = int(drawn_from.argmax()) if heat == 0 else self._draw(row, drawn_from / heat)
        self.logprob[row] += float(logs[pick])
        return pick

    def _penalised(self, row: int, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        prompt = torch.tensor(self._prompts[row], dtype=ids.dtype, device=ids.device)
        seen = torch.unique(torch.cat([prompt, ids[self._start :]]))
        penalty, there = self._sampling[row].repetition_penalty, logits[seen]
        logits[seen] = torch.where(there > 0, there / penalty, there * penalty)
        return logits

    def _draw(self, row: int, logs: torch.Tensor) -> int:
        """Inverse of the cumulated distribution at one uniform number, likeliest token first."""
        sampling = self._sampling[row]
        probs, order = torch.sort(logs.softmax(-1), descending=True, stable=True)
        if 0 < sampling.top_k < len(probs):
            probs = probs[: sampling.top_k] / probs[: sampling.top_k].sum()
        sums = probs.cumsum(-1)
        kept = int((sums - probs < sampling.top_p).sum()) or 1
        if sampling.min_p > 0:
            kept = min(kept, int((probs >= sampling.min_p * probs[0]).sum()))
        point = self._streams[row].random() * float(sums[kept - 1])
        place = int(
            torch.searchsorted(sums[:kept], torch.tensor([point], dtype=sums.dtype), right=True)
        )
        return int(order[min(place, kept - 1)])


class Ending:
    """A stopping criterion: end of turn, stop texts and each row's own number of tokens.

    Attributes:
        over: which rows have ended.
        tokens: per row, the tokens up to its end, the token that ends the turn not among them.
        reasons: `stop` or `length`.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        start: int,
        end_ids: frozenset[int],
        decode: Callable[[list[int]], str],
    ) -> None:
        """Begin with all rows open.

        Args:
            requests: one per row; rows of the batch beyond them are dummies.
            start: tokens of the padded prompt.
            end_ids: tokens that end a turn.
            decode: token ids to text.
        """
        self._requests = requests
        self._start = start
        self._end_ids = end_ids
        self._decode = decode
        self.over = [False] * len(requests)
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.reasons = ["length"] * len(requests)

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ANN401
        """Look at each open row's newest token (ids int64 [B, L]) -> bool [B]."""
        newest = ids[:, -1].tolist()
        for row, request in enumerate(self._requests):
            if not self.over[row]:
                self._look(row, request, newest[row])
        dummies = [True] * (len(ids) - len(self.over))
        return torch.tensor(self.over + dummies, device=ids.device)

    def _look(self, row: int, request: Request, token: int) -> None:
        if token in self._end_ids:
            self.over[row], self.reasons[row] = True, "stop"
            return
        tokens = self.tokens[row]
        tokens.append(token)
        stops = request.sampling.stop
        if stops and any(stop in self._decode(tokens) for stop in stops):
            self.over[row], self.reasons[row] = True, "stop"
        elif len(tokens) >= request.sampling.max_tokens:
            self.over[row] = True
