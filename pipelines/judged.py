"""A judge of an audit's labels: its engine behind the journal, what it costs, and the budget."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
import pydantic

from audit.judged import Judge
from labelers.judges.pairs import JudgePairs
from labelers.rubric.step import Rubric
from pipelines.engines import engines
from pipelines.settings import Settings
from prefactory import yamllines
from prefactory.context import Context
from prefactory.engines.accounts import Accounts, most_tokens, read_prices
from prefactory.engines.base import Completion, Done, Engine, EngineConfig, Request
from prefactory.errors import ConfigError, DataError, StoppedError
from prefactory.images.marks import is_named
from prefactory.recipe import sentence
from prefactory.sharing.spending import money

if TYPE_CHECKING:
    from prefactory.engines.session import JournaledEngine

_LOG = logging.getLogger(__name__)

S = TypeVar("S", JudgePairs, Rubric)
Named = EngineConfig | Mapping[str, Any] | str | Path
"""An engine: its configuration, a mapping of its fields, YAML of that mapping, or a file of it."""


@dataclass(frozen=True)
class Cost:
    """What a judge will be asked, at most.

    Attributes:
        model: its name.
        pairs: how many it will see.
        calls: both orders of each; `reused` of them were answered before.
        prompt_tokens, completion_tokens: of the new calls at most: a byte is no more than a token,
            and no answer is longer than it may be. Corrections of answers without a verdict are
            not counted.
        usd: US dollars; None if no price is known and somebody may bill.
    """

    model: str
    pairs: int
    calls: int
    reused: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None

    def __str__(self) -> str:
        """One line for people."""
        money = "price unknown" if self.usd is None else f"{self.usd:.4f} US dollars"
        return (
            f"judge {self.model}: {self.pairs:,} pairs in both orders, {self.calls:,} calls, "
            f"{self.reused:,} of them answered before; at most {self.prompt_tokens:,} + "
            f"{self.completion_tokens:,} tokens, {money} (asking again after an answer without a "
            "verdict is not counted)"
        )


def judge(
    engine: Named, settings: Settings, sample: int, approve: Callable[[Cost], None] | None = None
) -> Judge:
    """A judge for `audit.Options`.

    Args:
        engine: who is asked.
        settings: home of the journal, budget, prices.
        sample: pairs that it is asked about at most.
        approve: told the cost before anything is asked; what it raises ends the audit.

    Raises:
        ConfigError: this is no engine.
    """
    step = judge_step(engine, early_stop=False, max_invalid=1.0)

    def ask(table: pl.DataFrame, seed: int) -> pl.DataFrame:
        return judged(step, table, seed, settings, approve).drop("pair_id", "prompt_id")

    return Judge(step.judge[0].model, ask, sample)


def judged(
    step: JudgePairs,
    table: pl.DataFrame,
    seed: int,
    settings: Settings,
    approve: Callable[[Cost], None] | None = None,
) -> pl.DataFrame:
    """What one judge says of PAIRS in both orders: what `JudgePairs.fit_shard` returns.

    Args:
        step: of `judge_step`.
        table: PAIRS.
        seed: of the order of questions.
        settings: home of the journal, budget, prices.
        approve: told the cost before anything is asked; what it raises ends it.

    Raises:
        DataError: prompts have pictures, which it would not see.
        StoppedError: it may cost more than the budget.
    """
    shown = table.select(pl.col("prompt").list.eval(is_named(pl.element())).list.any().any())
    if shown.item():
        raise DataError(
            "this judge reads texts only, and some prompts have pictures: judge them in a run, by "
            "labelers.JudgePairs with a model that has `sees_images: true`"
        )
    (config,) = step.judge
    with engines(settings) as session:
        cost = _cost(step, table, seed, session.engine(config), settings)
        (approve or _say)(cost)
        _within(cost, session.accounts)
        return step.fit_shard(table, Context(seed, "audit", engine=session.engine))


def _say(cost: Cost) -> None:
    _LOG.info("%s", cost)


def judge_step(engine: Named, **fields: Any) -> JudgePairs:  # noqa: ANN401 - of JudgePairs
    """The step that asks, from an engine as a user names it."""
    return _made(JudgePairs, "--judge", judge=(_named(engine, "--judge", _ENGINE),), **fields)


def rubric_step(engine: Named, rubric: Named) -> Rubric:
    """A rubric judge, from an engine and the other fields of `labelers.Rubric`."""
    fields = dict(_named(rubric, "--rubric", _RUBRIC))
    return _made(Rubric, "--rubric", **{**fields, "judge": _named(engine, "--judge", _ENGINE)})


_ENGINE = "engine; write '{engine: server, base_url: ..., model: ...}', or name a file of that"
_RUBRIC = (
    "rubric; write the fields of labelers.Rubric, '{attributes: [{name: helpfulness}]}', or name a "
    "file of them"
)


def _made(step: type[S], option: str, **fields: Any) -> S:  # noqa: ANN401 - of the step
    try:
        return step(**fields)
    except pydantic.ValidationError as error:
        problems = [sentence(step, dict(e)) for e in error.errors(include_url=False)]
        raise ConfigError([f"{option}: {problem}" for problem in problems]) from error


def _named(given: Named, option: str, what: str) -> Any:  # noqa: ANN401 - a mapping or an engine
    """What a user wrote: YAML of a mapping, or a file of it."""
    if not isinstance(given, str | Path):
        return given
    name, text = _text(given, option)
    named, _ = yamllines.load(text, name)
    if not isinstance(named, Mapping):
        raise ConfigError(f"{name}: {str(given)!r} is no file and no {what}")
    return named


def _text(given: str | Path, option: str) -> tuple[str, str]:
    try:
        if Path(given).is_file():
            return str(given), Path(given).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{option} {str(given)!r} is no UTF-8 text") from error
    return option, str(given)


class _Counter(Engine):
    """Notes every request, and answers something that can be read."""

    def __init__(self, config: EngineConfig) -> None:
        self.capabilities = config.capabilities
        self.requests: list[Request] = []

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Note all requests."""
        for position, request in enumerate(requests):
            self.requests.append(request)
            done(position, Completion("[[A]]"))


def _cost(
    step: JudgePairs,
    table: pl.DataFrame,
    seed: int,
    engine: JournaledEngine,
    settings: Settings,
) -> Cost:
    (config,) = step.judge
    counter = _Counter(config)
    counted = step.fit_shard(table, Context(seed, "audit", engine=lambda _: counter))
    calls = {request.content_key: request for request in counter.requests}
    new = engine.unanswered(list(calls.values()))
    tokens = [most_tokens(request) for request in new]
    prompt, completion = sum(t[0] for t in tokens), sum(t[1] for t in tokens)
    prices = read_prices(settings.prices)
    accounts = Accounts(prices, settings.budget)
    if new:
        accounts.need_price(config.model, config.metered)
    price = prices.get(config.model)
    usd = 0.0 if not new or not config.metered else None
    usd = usd if price is None else price.usd(prompt, completion)
    pairs = counted.filter(pl.col("judge_asked") > 0).height
    return Cost(config.model, pairs, len(calls), len(calls) - len(new), prompt, completion, usd)


def _within(cost: Cost, accounts: Accounts) -> None:
    """Refuse what may pass the budget, before anything is asked."""
    budget, others = accounts.budget, accounts.elsewhere()
    tokens, usd = cost.prompt_tokens + cost.completion_tokens, cost.usd or 0.0
    over = []
    if budget.tokens is not None and tokens + others.tokens > budget.tokens:
        over.append(f"{tokens:,} tokens at most, {budget.tokens - others.tokens:,} allowed")
    if budget.usd is not None and money(usd + others.usd) > budget.usd:
        over.append(f"{usd:.4f} US dollars at most, {budget.usd - others.usd:g} allowed")
    if over:
        raise StoppedError(
            f"the judge was asked nothing: {'; '.join(over)}. Raise the budget, or draw a smaller "
            "--sample"
        )
