"""Accounts of tokens and money, and budgets that stop a run before they are exceeded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prefactory import yamllines
from prefactory.engines.base import Completion, Request, Result
from prefactory.errors import ConfigError, StoppedError
from prefactory.tables import message_text

_LOG = logging.getLogger(__name__)
_SHIPPED = Path(__file__).with_name("prices.yaml")
_TURN_TOKENS = 8


class Budget(BaseModel):
    """What the new calls of one command may use; journalled answers cost nothing.

    Attributes:
        usd: money, US dollars, by the price files.
        tokens: prompt and completion tokens together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    usd: float | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)


_NO_LIMIT = Budget()
_SUMS = (
    "calls", "reused", "failures", "prompt_tokens", "completion_tokens", "estimated", "wasted",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float = 0.0
    output: float = 0.0

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of a call, US dollars."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


@dataclass
class Usage:
    """What one model was used for.

    Attributes:
        calls: answered now; `reused` came from the journal.
        failures: rows that got no answer.
        prompt_tokens, completion_tokens: of the calls answered now.
        usd: their cost, US dollars.
        estimated: calls whose answer told no usage and were charged as much as they may have used.
        wasted: answers, billed, that could not be used: their tokens are in the sums.
        priced: whether a price file has the model; 0 dollars mean nothing without.
    """

    calls: int = 0
    reused: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    priced: bool = True
    estimated: int = 0
    wasted: int = 0


@dataclass(slots=True)
class Hold:
    """Money and tokens that a call in flight may use at most, and of which kinds."""

    model: str
    tokens: int
    usd: float
    prompt: int = 0
    completion: int = 0


def read_prices(path: Path | None = None) -> dict[str, Price]:
    """Read the prices that come with prefactory, and a file of the user's over them.

    Args:
        path: YAML of `model: [input, output]`, US dollars per million tokens.

    Raises:
        ConfigError: the file has another form.
    """
    prices: dict[str, Price] = {}
    for file in (_SHIPPED, path):
        if file is None:
            continue
        try:
            entries = yamllines.load(file.read_text(encoding="utf-8"), file.name)[0] or {}
            prices |= {str(k): _price(v) for k, v in dict(entries).items()}
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"prices {file}: {error}; each line is `model: [input, output]`, US dollars per "
                "million tokens"
            ) from error
    return prices


def _price(value: object) -> Price:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r} is no pair [input, output]")
    pair = [float(v) for v in value]
    if not all(0 <= v < float("inf") for v in pair):
        raise ValueError(f"{value!r} is no pair of prices")
    return Price(*pair)


def most_tokens(request: Request) -> tuple[int, int]:
    """Tokens of a call's prompt and answer, at most: one for each UTF-8 byte, and 8 per turn."""
    prompt = sum(
        len(message_text(m).encode("utf-8", "surrogatepass")) + _TURN_TOKENS
        for m in request.conversation
    )
    return prompt, request.sampling.max_tokens


@dataclass
class Accounts:
    """Usage of all engines of a session, under one budget. Safe for threads."""

    prices: Mapping[str, Price] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        """Begin with nothing used."""
        self._changed = threading.Condition()
        self._usage: dict[str, Usage] = {}
        self._held = Hold("", 0, 0.0)
        self._holds = 0
        self._metered: set[str] = set()

    def admit(self, model: str, request: Request) -> Hold | None:
        """Reserve what a call may use at most; None if the budget might be exceeded by it.

        Args:
            model: name in the price files.
            request: the call, see `most_tokens`.
        """
        hold = self._most(model, request)
        with self._changed:
            if not self._fits(hold):
                return None
            self._held.tokens += hold.tokens
            self._held.usd += hold.usd
            self._holds += 1
            return hold

    def settle(self, hold: Hold, result: Result | None) -> None:
        """Replace a reservation by what the call used; None: it was never answered."""
        with self._changed:
            self._held.tokens -= hold.tokens
            self._held.usd -= hold.usd
            self._holds -= 1
            usage = self._of(hold.model, metered=False)
            if isinstance(result, Completion):
                usage.calls += 1
                self._charge(usage, hold.model, *self._told(usage, hold, result))
            elif result is not None:
                usage.failures += 1
            if result is not None and any(result.wasted):
                usage.wasted += 1
                self._charge(usage, hold.model, *result.wasted)
            self._changed.notify_all()

    def _told(self, usage: Usage, hold: Hold, result: Completion) -> tuple[int, int]:
        """Tokens of an answer; as reserved where somebody may bill for it and it does not tell."""
        told = (result.prompt_tokens, result.completion_tokens)
        if any(told) or hold.model not in self._metered:
            return told
        if not usage.estimated:
            _LOG.warning(
                "%r tells no usage: its calls are charged as much as they may have used, a token "
                "for each byte of the prompt and all of max_tokens",
                hold.model,
            )
        usage.estimated += 1
        return hold.prompt, hold.completion

    def _charge(self, usage: Usage, model: str, prompt: int, completion: int) -> None:
        usage.prompt_tokens += prompt
        usage.completion_tokens += completion
        usage.usd += self.prices.get(model, Price()).usd(prompt, completion)

    def begin(self, model: str, reused: int, metered: bool) -> None:
        """Note what the journal answered of a batch, before the rest of it is asked.

        Args:
            model: name in the price files.
            reused: calls that the journal answered.
            metered: somebody bills for this model; it is said if there is no price.
        """
        with self._changed:
            if metered:
                self._metered.add(model)
            self._of(model, metered).reused += reused

    def need_price(self, model: str, metered: bool) -> None:
        """Refuse a budget of money that can't be kept: nobody knows what the model costs.

        Args:
            model: name in the price files.
            metered: somebody may bill for this model.

        Raises:
            ConfigError: the budget is in US dollars, and the model has no price.
        """
        if self.budget.usd is not None and metered and model not in self.prices:
            raise ConfigError(
                f"a budget in US dollars can't be kept: no price is known for {model!r}; write "
                f"`{model}: [input, output]`, US dollars per million tokens ([0, 0] if nobody "
                "bills), into a file and name it with --prices, or use --budget-tokens"
            )

    def wait_or_stop(self, left: int) -> None:
        """Wait until other threads' calls end; with none in flight, stop the run.

        Args:
            left: calls that are still to be made, for the message.

        Raises:
            StoppedError: the budget has no room for one more call.
        """
        with self._changed:
            if self._holds:
                self._changed.wait(60.0)
                return
            used = self.total()
        parts = (
            [f"{used.usd:.4f} of {self.budget.usd:g} US dollars"]
            if self.budget.usd is not None
            else []
        )
        if self.budget.tokens is not None:
            tokens = used.prompt_tokens + used.completion_tokens
            parts.append(f"{tokens:,} of {self.budget.tokens:,} tokens")
        raise StoppedError(
            f"the budget is spent ({', '.join(parts) or 'nothing is allowed'}); {left:,} calls of "
            "this step are left, and all answers are kept: run the same command again with a "
            "budget for the rest"
        )

    def total(self) -> Usage:
        """All models together."""
        with self._changed:
            whole = Usage(priced=all(u.priced for u in self._usage.values()))
            for usage in self._usage.values():
                for name in _SUMS:
                    setattr(whole, name, getattr(whole, name) + getattr(usage, name))
                whole.usd += usage.usd
            return whole

    def report(self) -> dict[str, dict[str, Any]]:
        """Usage per model, by name, as plain JSON data."""
        with self._changed:
            return {model: asdict(self._usage[model]) for model in sorted(self._usage)}

    def _most(self, model: str, request: Request) -> Hold:
        prompt, most = most_tokens(request)
        usd = self.prices.get(model, Price()).usd(prompt, most)
        return Hold(model, prompt + most, usd, prompt, most)

    def _of(self, model: str, metered: bool) -> Usage:
        if model not in self._usage:
            priced = model in self.prices or not metered
            self._usage[model] = Usage(priced=priced)
            if not priced:
                _LOG.warning(
                    "no price is known for %r: its calls count as 0 US dollars; name a file in "
                    "`prices` to change that",
                    model,
                )
        return self._usage[model]

    def _fits(self, hold: Hold) -> bool:
        if self.budget == _NO_LIMIT:
            return True
        used = self.total()
        tokens = used.prompt_tokens + used.completion_tokens + self._held.tokens + hold.tokens
        usd = used.usd + self._held.usd + hold.usd
        limit = self.budget
        return (limit.tokens is None or tokens <= limit.tokens) and (
            limit.usd is None or usd <= limit.usd + 1e-12
        )
