"""Reward-guided choice of tokens: the rule, the loop, and the transformers model behind them.

The rule and the loop are pure functions on numbers and callables; `GuidedModel` is an engine, so
that answers are journalled like all others.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from prefactory.engines.base import Completion, Done, Failure, Request, settings_of
from prefactory.engines.chat_model import ChatModel, ChatSettings, Tokens
from prefactory.engines.device import default_device
from prefactory.engines.encoder import Encoder
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError, DataError
from prefactory.safety.model_files import open_tokenizer

Floats = NDArray[np.float64]
MOST_EXPONENT = 500.0
"""Of the weights of `indirect`: beyond it nothing changes but the risk of infinity."""
RewardFunction = Callable[[list[dict[str, str]], list[str]], Sequence[float]]
"""(conversation, K answers so far) -> K rewards."""


@dataclass(frozen=True)
class Rule:
    """How a token is chosen: see `generators.ValueGuided` for the fields."""

    weight: float = 1.0
    standardise: bool = True
    temperature: float = 0.0


@dataclass(frozen=True)
class Guidance:
    """How rewards guide: see `generators.ValueGuided` for the fields."""

    weight: float
    standardise: bool
    candidates: int
    rollout: int
    tilt: float = 0.5


def relative(rewards: Floats) -> Floats:
    """Rewards by their mean and sd, Float64[K]; equal ones are 0."""
    spread = rewards.std()
    noise = 1e-12 * max(1.0, float(np.abs(rewards).max()))
    measured: Floats = (rewards - rewards.mean()) / (spread if spread > noise else np.inf)
    return measured


def indirect(rewards: Floats, baseline: Floats, tilt: float, standardise: bool = False) -> Floats:
    """What rollouts of a model that was aligned to another reward say about this one.

    Its own reward `baseline` is weighed out: exp(tilt * (rewards - baseline)) * rewards, the ratio
    of both aligned models' probabilities (up to a constant) times the reward.

    Args:
        rewards: Float64[K], of the reward that guides.
        baseline: Float64[K], of the reward that the model was aligned to.
        tilt: of the exponent; 0 is the direct form, as are equal rewards.
        standardise: measure both by their mean and sd over the K candidates first.

    Returns:
        Float64[K], all finite; exponents end at 500.
    """
    if standardise:
        rewards, baseline = relative(rewards), relative(baseline)
    weighed: Floats = np.exp(np.minimum(tilt * (rewards - baseline), MOST_EXPONENT)) * rewards
    return weighed


def values(logits: Floats, rewards: Floats, weight: float, standardise: bool = False) -> Floats:
    """What each candidate is worth: logit + weight * reward.

    Args:
        logits: Float64[K].
        rewards: Float64[K], finite; equal rewards count nothing.
        weight: of the rewards.
        standardise: measure rewards by their mean and sd over the K candidates first.

    Returns:
        Float64[K].
    """
    if standardise:
        rewards = relative(rewards)
    return logits + weight * rewards


def choose(
    logits: Floats,
    rewards: Floats,
    weight: float,
    standardise: bool = False,
    temperature: float = 0.0,
    point: float = 0.0,
) -> int:
    """The candidate that is taken: the greatest value, or a draw by softmax(value / temperature).

    Args:
        logits: Float64[K], greatest first.
        rewards: Float64[K].
        weight: of the rewards; 0 with temperature 0 is greedy decoding.
        standardise: see `values`.
        temperature: 0 takes the greatest value, the first of equal ones.
        point: uniform draw in [0, 1), for a temperature above 0.

    Returns:
        Its place, 0 to K - 1.
    """
    worth = values(logits, rewards, weight, standardise)
    if temperature == 0:
        return int(worth.argmax())
    shares = np.exp((worth - worth.max()) / temperature)
    sums = shares.cumsum()
    return min(int(np.searchsorted(sums, point * sums[-1], side="right")), len(shares) - 1)


class Baseline(Protocol):
    """A language model at a prefix."""

    def propose(self) -> tuple[list[int], Floats]:
        """Candidates for the next token and their logits, greatest first."""

    def roll(self, tokens: list[int]) -> list[list[int]]:
        """What the model says by itself after each candidate, without the end of the turn."""

    def advance(self, token: int) -> None:
        """Take a token."""


def decode(
    baseline: Baseline,
    reward: Callable[[list[list[int]]], Floats],
    rule: Rule,
    end_ids: Collection[int],
    max_tokens: int,
    rng: np.random.Generator,
) -> tuple[list[int], str]:
    """Write an answer token by token.

    Args:
        baseline: the model at the prompt.
        reward: K answers, as tokens -> Float64[K].
        rule: how a token is chosen.
        end_ids: tokens that end a turn.
        max_tokens: of the answer.
        rng: one draw per token, for a temperature above 0.

    Returns:
        The tokens, and `stop` or `length`.
    """
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        candidates, logits = baseline.propose()
        rewards = np.zeros(len(candidates))
        if rule.weight != 0:
            heads = [[c] if c not in end_ids else [] for c in candidates]
            tails = baseline.roll(candidates)
            rewards = reward([tokens + h + t for h, t in zip(heads, tails, strict=True)])
        point = float(rng.random()) if rule.temperature > 0 else 0.0
        choice = choose(logits, rewards, rule.weight, rule.standardise, rule.temperature, point)
        if candidates[choice] in end_ids:
            return tokens, "stop"
        tokens.append(candidates[choice])
        baseline.advance(candidates[choice])
    return tokens, "length"


class CachedBaseline:
    """A transformers model at a prefix whose keys and values are kept."""

    def __init__(
        self,
        net: Any,  # noqa: ANN401 - transformers has no types
        prompt: list[int],
        width: int,
        rollout: int,
        end_ids: Collection[int],
    ) -> None:
        """Read the prompt.

        Args:
            net: a causal language model.
            prompt: token ids.
            width: candidates of a step.
            rollout: tokens that are rolled out after a candidate.
            end_ids: tokens that end a turn.
        """
        self._net = net
        self._width = width
        self._rollout = rollout
        self._ends = end_ids
        self._device = next(net.parameters()).device
        self._cache: Any = None
        self._read([prompt])

    def _read(self, rows: list[list[int]]) -> None:
        ids = torch.tensor(rows, dtype=torch.int64, device=self._device)
        out = self._net(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self._cache = out.past_key_values
        self._logits = out.logits[0, -1].double()

    def propose(self) -> tuple[list[int], Floats]:
        """The likeliest tokens and their logits; of equal ones the lowest id first."""
        logits, order = torch.sort(self._logits, descending=True, stable=True)
        width = min(self._width, len(order))
        return order[:width].tolist(), logits[:width].cpu().numpy()

    def roll(self, tokens: list[int]) -> list[list[int]]:
        """Greedy continuations of all candidates, as one batch."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(tokens))
        newest = torch.tensor(tokens, dtype=torch.int64, device=self._device)
        over = [token in self._ends for token in tokens]
        tails: list[list[int]] = [[] for _ in tokens]
        for _ in range(self._rollout):
            if all(over):
                break
            out = self._net(input_ids=newest[:, None], past_key_values=cache, use_cache=True)
            newest = out.logits[:, -1].argmax(dim=-1)
            for i, token in enumerate(newest.tolist()):
                over[i] = over[i] or token in self._ends
                if not over[i]:
                    tails[i].append(token)
        return tails

    def advance(self, token: int) -> None:
        """Read a token."""
        self._read([[token]])


class GuidedModel(ChatModel):
    """A loaded model that decodes by reward.

    Each row is computed alone, its candidates being its batch: no answer depends on other rows.
    """

    def __init__(
        self,
        base: Transformers,
        guidance: Guidance,
        reward: RewardFunction,
        baseline: RewardFunction | None = None,
    ) -> None:
        """Load the model.

        Args:
            base: the model, resolved.
            guidance: how rewards guide.
            reward: of answers so far.
            baseline: the reward that the model was aligned to, for the indirect form.

        Raises:
            ConfigError: as `prefactory.engines.Transformers`.
        """
        super().__init__(settings_of(ChatSettings, base), base.folder())
        self.capabilities = frozenset({"generate"})
        self._guidance = guidance
        self._reward = reward
        self._baseline = baseline

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Decode each request, on the CPU several side by side."""
        batch = list(requests)
        rows = []
        for place, request in enumerate(batch):
            ids = self._prompt(request)
            if isinstance(ids, Failure) or not ids:
                empty = Failure("template", "the chat template makes no token of the messages")
                done(place, ids if isinstance(ids, Failure) else empty)
            else:
                rows.append([Tokens(place, ids)])

        def work(part: list[Tokens]) -> None:
            if self._pool is not None:
                torch.get_num_threads()  # sets a thread up at its first question; ours comes after
                torch.set_num_threads(1)
            for row in part:
                done(row.place, self._answer(batch[row.place], row.ids))

        self._each(work, rows)

    def _answer(self, request: Request, ids: list[int]) -> Completion:
        guidance, sampling = self._guidance, request.sampling
        conversation = list(request.conversation)

        def reward(answers: list[list[int]]) -> Floats:
            texts = [self._decode(a) for a in answers]
            rewards = _numbers(self._reward, conversation, texts, "reward")
            if self._baseline is None:
                return rewards
            own = _numbers(self._baseline, conversation, texts, "baseline reward")
            return indirect(rewards, own, guidance.tilt, guidance.standardise)

        room = self._limit - len(ids) - sampling.max_tokens
        baseline = CachedBaseline(
            self._model,
            ids,
            guidance.candidates,
            max(0, min(guidance.rollout, room)),
            self._end_ids,
        )
        rule = Rule(guidance.weight, guidance.standardise, sampling.temperature)
        rng = np.random.Generator(np.random.Philox(key=request.draw_seed))
        tokens, reason = decode(baseline, reward, rule, self._end_ids, sampling.max_tokens, rng)
        return Completion(self._decode(tokens), reason, len(ids), len(tokens))


def _numbers(
    reward: RewardFunction, conversation: list[dict[str, str]], texts: list[str], name: str
) -> Floats:
    """What a reward gives for K answers, Float64[K], checked."""
    rewards = np.asarray(reward(conversation, texts), dtype=np.float64)
    if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
        raise DataError(
            f"the {name} gave {rewards.tolist()} for {len(texts)} answers; it must give one finite "
            "number for each"
        )
    return rewards


class RewardNet:
    """A loaded reward model; several threads may ask it, one at a time."""

    def __init__(self, model: str, head: int, device: str | None) -> None:
        """Load the model.

        Args:
            model: folder of a sequence-classification model.
            head: which of its outputs counts.
            device: torch device; None takes CUDA if there is one.

        Raises:
            ConfigError: it can't be loaded, or has fewer heads.
        """
        from transformers import AutoModelForSequenceClassification

        folder = Encoder(model=model, precision="fp32").folder()
        try:
            self._tokenizer: Any = open_tokenizer(folder, local_files_only=True)
            net, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"reward model {model!r} can't be loaded: {reason}") from error
        if info["missing_keys"]:
            raise ConfigError(
                f"reward model {model!r} lacks weights {sorted(info['missing_keys'])[:3]}: "
                "it is no sequence-classification model"
            )
        if head >= net.config.num_labels:
            raise ConfigError(
                f"reward model {model!r} has {net.config.num_labels} heads, no {head}"
            )
        self._net: Any = net.float().to(device or default_device()).eval()
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._net.config.pad_token_id is None:
            self._net.config.pad_token_id = self._tokenizer.pad_token_id
        self._head = head
        self._lock = threading.Lock()

    def score(self, conversation: list[dict[str, str]], texts: list[str]) -> list[float]:
        """Rewards of K answers to a conversation, each a finite number."""
        rows = [self._ids(conversation, text) for text in texts]
        width = max(len(r) for r in rows)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
        device = next(self._net.parameters()).device
        with self._lock, torch.inference_mode():
            out = self._net(input_ids=ids.to(device), attention_mask=mask.to(device))
        rewards: list[float] = out.logits[:, self._head].double().tolist()
        return rewards

    def _ids(self, conversation: list[dict[str, str]], text: str) -> list[int]:
        messages = [*conversation, {"role": "assistant", "content": text}]
        if self._tokenizer.chat_template:
            whole = self._tokenizer.apply_chat_template(messages, tokenize=False)
            return list(self._tokenizer(whole, add_special_tokens=False)["input_ids"]) or [0]
        whole = "\n\n".join(m["content"] for m in messages)
        return list(self._tokenizer(whole, truncation=True)["input_ids"]) or [0]
