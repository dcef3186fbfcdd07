"""Accounts of tokens and money, and budgets that stop runs before they are exceeded."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prefactory import yamllines
from prefactory.engines.base import NOBODY, NOTHING, Completion, Purpose, Request, Result, Wasted
from prefactory.errors import ConfigError, StoppedError
from prefactory.sharing.spending import Decide, Purse, Spent, money
from prefactory.tables import message_text

_LOG = logging.getLogger(__name__)
_SHIPPED = Path(__file__).with_name("prices.yaml")
_TURN_TOKENS = 8
_SEEN = 200
"""Calls of a step, the last ones, that a reservation is learned from."""
_UPPER = 0.95
_BUDGET_NAME = re.compile(r"([A-Za-z0-9]|\{date\})([A-Za-z0-9._-]|\{date\}){0,63}")
LOOK_S = 0.5
"""How often it is looked whether the calls of other processes have ended."""


class Budget(BaseModel):
    """What the new calls of one command may use; journalled answers cost nothing.

    Attributes:
        usd: money, US dollars, by the price files.
        tokens: prompt and completion tokens together.
        name: all commands in a home that name the same budget, at once or one after the other,
            spend it together; `{date}` stands for the day (UTC) on which each begins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    usd: float | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    name: str | None = None

    @property
    def limited(self) -> bool:
        """Whether it has a limit."""
        return self.usd is not None or self.tokens is not None


def budget_of(usd: float | None, tokens: int | None, name: str | None) -> Budget:
    """A budget as options give it.

    Raises:
        ConfigError: the name can't be one.
    """
    if name is not None and not _BUDGET_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't name a budget: it has letters, digits, '.', '_', '-' and {{date}}, 64 "
            "characters at most, and begins with a letter or digit"
        )
    return Budget(usd=usd, tokens=tokens, name=name)


_SUMS = (
    "calls", "reused", "failures", "prompt_tokens", "completion_tokens", "usd", "estimated",
    "wasted",
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
    """Money and tokens that are kept back for a call in flight.

    Attributes:
        model, purpose: whose call it is.
        request: the call.
        tokens, usd: what is kept back.
        share: of the price that is billed.
        paid: what was charged already of the answers that could not be used.
    """

    model: str
    purpose: Purpose
    request: Request
    tokens: int = 0
    usd: float = 0.0
    share: float = 1.0
    paid: Wasted = NOTHING

    @property
    def most(self) -> tuple[int, int]:
        """Tokens of its prompt and answer, at most."""
        return most_tokens(self.request)


class _Seen:
    """What the last calls of one step to one model used, as shares of what they might have used."""

    def __init__(self) -> None:
        self.calls: deque[tuple[float, float]] = deque(maxlen=_SEEN)

    def expected(self, prompt: int, completion: int) -> tuple[int, int]:
        """Tokens to keep back for a call that may use so many at most.

        The upper quantile of the calls seen, and a margin that shrinks with their number n: 1/n.
        All of it while nothing was seen.
        """
        n = len(self.calls)
        if n == 0:
            return prompt, completion
        place, margin = min(math.ceil(_UPPER * n), n) - 1, 1 + 1 / n
        shares = [sorted(column)[place] for column in zip(*self.calls, strict=True)]
        bounds = (prompt, completion)
        kept = [
            math.ceil(most * (share if share > 1 else min(1.0, share * margin)))
            for share, most in zip(shares, bounds, strict=True)
        ]
        return kept[0], kept[1]


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
    """Usage of all engines of a session, under one budget, which other processes may share.

    Safe for threads.

    A call is admitted if what is used, what is kept back for the calls in flight, and what the call
    itself is expected to use fit the budget. The first calls of a step are expected to use the most
    that they may; then what its calls really use tells. So a budget is passed by no more than the
    calls in flight can use beyond what is expected, and is spent but for less than a call.
    """

    prices: Mapping[str, Price] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    spending: Purse | None = None

    def __post_init__(self) -> None:
        """Begin with nothing used."""
        self._changed = threading.Condition()
        self._usage: dict[tuple[str, Purpose], Usage] = {}
        self._seen: dict[tuple[str, Purpose], _Seen] = {}
        self._held_tokens = 0
        self._held_usd = 0.0
        self._holds = 0
        self._metered: set[str] = set()
        self._unpriced: set[str] = set()

    @property
    def free(self) -> bool:
        """Whether there is no budget."""
        return self.spending is None and not self.budget.limited

    def admit(
        self, model: str, request: Request, purpose: Purpose = NOBODY, share: float = 1.0
    ) -> Hold | None:
        """Keep back what a call is expected to use; None if the budget has no room for it.

        Args:
            model: name in the price files.
            request: the call, see `most_tokens`.
            purpose: who asks.
            share: of the price that is billed.
        """
        hold = Hold(model, purpose, request, share=share)
        if self.free:
            with self._changed:
                self._holds += 1
            return hold
        most = hold.most
        with self._changed:
            kept = self._seen.setdefault((model, purpose), _Seen()).expected(*most)
            hold.tokens = sum(kept)
            hold.usd = money(self.prices.get(model, Price()).usd(*kept) * share)

            def decide(others: Spent) -> tuple[bool, Spent]:
                room, own = self._fits(hold.tokens, hold.usd, others), self._spent()
                return room, own + Spent(0, 0.0, hold.tokens, hold.usd) if room else own

            if not self._decided(decide):
                return None
            self._held_tokens += hold.tokens
            self._held_usd = money(self._held_usd + hold.usd)
            self._holds += 1
            return hold

    def _decided(self, decide: Decide) -> bool:
        spending = self.spending
        return decide(Spent())[0] if spending is None else spending.change(decide)

    def _spent(self) -> Spent:
        used = self.total()
        tokens = used.prompt_tokens + used.completion_tokens
        return Spent(tokens, used.usd, self._held_tokens, self._held_usd)

    def elsewhere(self) -> Spent:
        """What other processes have spent of the budget, what they keep back included."""
        spending = self.spending
        return Spent() if spending is None else spending.others().ended()

    def settle(self, hold: Hold, result: Result | None) -> None:
        """Replace a reservation by what the call used; None: it was never answered."""
        with self._changed:
            self._held_tokens -= hold.tokens
            self._holds -= 1
            self._held_usd = money(self._held_usd - hold.usd)
            usage = self._of(hold.model, hold.purpose, metered=False)
            prompt = completion = 0
            if isinstance(result, Completion):
                usage.calls += 1
                prompt, completion = self._told(usage, hold, result)
            elif result is not None:
                usage.failures += 1
            if result is not None and any(result.wasted):
                usage.wasted += 1
                more = self._lost(usage, hold, result.wasted.less(hold.paid))
                prompt, completion = prompt + more[0], completion + more[1]
            self._charge(usage, hold, prompt, completion)
            if self._holds == 0 and self.spending is not None:  # else the next call tells
                self.spending.change(lambda _: (True, self._spent()))
            self._changed.notify_all()

    def pay(self, hold: Hold, wasted: Wasted) -> bool:
        """Charge answers to a call in flight that can't be used.

        Args:
            hold: of the call; stays.
            wasted: what they used.

        Returns:
            Whether the budget has room for what is in flight all the same.
        """
        with self._changed:
            usage = self._of(hold.model, hold.purpose, metered=False)
            self._charge(usage, hold, *self._lost(usage, hold, wasted))
            hold.paid = hold.paid.more(wasted)
            return self._decided(lambda others: (self._fits(0, 0.0, others), self._spent()))

    def _told(self, usage: Usage, hold: Hold, result: Completion) -> tuple[int, int]:
        """Tokens of an answer; the most there may be where somebody bills and it does not tell."""
        told = (result.prompt_tokens, result.completion_tokens)
        if any(told) or hold.model not in self._metered:
            return told
        self._estimate(usage, hold)
        return hold.most

    def _lost(self, usage: Usage, hold: Hold, wasted: Wasted) -> tuple[int, int]:
        """Tokens of answers that can't be used; the most there may be of those that do not tell."""
        untold = wasted.untold if hold.model in self._metered else 0
        if not untold:
            return wasted.prompt, wasted.completion
        self._estimate(usage, hold)
        prompt, completion = hold.most
        return wasted.prompt + untold * prompt, wasted.completion + untold * completion

    def _estimate(self, usage: Usage, hold: Hold) -> None:
        if not usage.estimated:
            _LOG.warning(
                "%r tells no usage: its calls are charged as much as they may have used, a token "
                "for each byte of the prompt and all of max_tokens",
                hold.model,
            )
        usage.estimated += 1

    def _charge(self, usage: Usage, hold: Hold, prompt: int, completion: int) -> None:
        if not prompt and not completion:
            return
        usage.prompt_tokens += prompt
        usage.completion_tokens += completion
        cost = self.prices.get(hold.model, Price()).usd(prompt, completion) * hold.share
        usage.usd = money(usage.usd + money(cost))
        if not self.free:
            most = hold.most
            seen = self._seen.setdefault((hold.model, hold.purpose), _Seen())
            seen.calls.append((prompt / max(most[0], 1), completion / max(most[1], 1)))

    def begin(self, model: str, reused: int, metered: bool, purpose: Purpose = NOBODY) -> None:
        """Note what the journal answered of a batch, before the rest of it is asked.

        Args:
            model: name in the price files.
            reused: calls that the journal answered.
            metered: somebody bills for this model; it is said if there is no price.
            purpose: who asks.
        """
        with self._changed:
            if metered:
                self._metered.add(model)
            self._of(model, purpose, metered).reused += reused

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
        """Wait until the calls of other threads and processes end; with none in flight, stop.

        Args:
            left: calls that are still to be made, for the message.

        Raises:
            StoppedError: the budget has no room for one more call.
        """
        with self._changed:
            if self._holds:
                self._changed.wait(60.0)
                return
        if (spending := self.spending) is not None and spending.at_work():
            time.sleep(LOOK_S)
            return
        used, others, limit = self.total(), self.elsewhere(), self.budget
        parts = []
        if limit.usd is not None:
            parts.append(f"{used.usd + others.usd:.4f} of {limit.usd:g} US dollars")
        if limit.tokens is not None:
            tokens = used.prompt_tokens + used.completion_tokens + others.tokens
            parts.append(f"{tokens:,} of {limit.tokens:,} tokens")
        if others.tokens:
            parts.append("together with other runs")
        raise StoppedError(
            f"the budget is spent ({', '.join(parts) or 'nothing is allowed'}); {left:,} calls of "
            "this step are left, and the next one may cost more than what is left; all answers are "
            "kept: run the same command again with a budget for the rest"
        )

    def total(self) -> Usage:
        """All models together."""
        with self._changed:
            return _sum(self._usage.values())

    def report(self) -> dict[str, dict[str, Any]]:
        """Usage per model, by name, as plain JSON data."""
        with self._changed:
            models: dict[str, Usage] = {}
            for (model, _), usage in self._usage.items():
                models[model] = _sum([models[model], usage] if model in models else [usage])
            return {model: asdict(models[model]) for model in sorted(models)}

    def by_step(self) -> list[dict[str, Any]]:
        """Usage per step, role and model, in the order in which they first asked."""
        with self._changed:
            return [
                {"step": purpose.step, "role": purpose.role, "model": model, **asdict(usage)}
                for (model, purpose), usage in self._usage.items()
            ]

    def add(self, rows: Iterable[Mapping[str, Any]], recipe: str = "") -> None:
        """Count what was used elsewhere for this run.

        Args:
            rows: as `by_step` gives them.
            recipe: name of the run's recipe.
        """
        for row in rows:
            purpose = Purpose(recipe, row["step"], row["role"])
            with self._changed:
                usage = self._of(row["model"], purpose, metered=not row["priced"])
                for name in _SUMS:
                    setattr(usage, name, getattr(usage, name) + row[name])
                usage.usd = money(usage.usd)

    def of_step(self, step: str) -> Usage:
        """All that one step used."""
        with self._changed:
            return _sum([u for (_, purpose), u in self._usage.items() if purpose.step == step])

    def usd(self, model: str, prompt: int, completion: int, metered: bool) -> float | None:
        """What tokens cost, US dollars at the full price; None if somebody bills and none is known.

        Args:
            model: name in the price files.
            prompt: tokens of prompts.
            completion: tokens of answers.
            metered: somebody bills for this model.
        """
        if model not in self.prices and metered:
            return None
        return self.prices.get(model, Price()).usd(prompt, completion)

    def _of(self, model: str, purpose: Purpose, metered: bool) -> Usage:
        key = (model, purpose)
        if key not in self._usage:
            priced = model in self.prices or not metered
            self._usage[key] = Usage(priced=priced)
            if not priced and model not in self._unpriced:
                self._unpriced.add(model)
                _LOG.warning(
                    "no price is known for %r: its calls count as 0 US dollars; name a file in "
                    "`prices` to change that",
                    model,
                )
        return self._usage[key]

    def _fits(self, tokens: int, usd: float, others: Spent) -> bool:
        """Whether there is room for so much beside what is used and kept back, here and there."""
        spent = (self._spent() + others).ended()
        limit = self.budget
        return (limit.tokens is None or spent.tokens + tokens <= limit.tokens) and (
            limit.usd is None or money(spent.usd + usd) <= limit.usd
        )


def _sum(parts: Iterable[Usage]) -> Usage:
    whole = Usage()
    for usage in parts:
        whole.priced = whole.priced and usage.priced
        for name in _SUMS:
            setattr(whole, name, getattr(whole, name) + getattr(usage, name))
    whole.usd = money(whole.usd)
    return whole
