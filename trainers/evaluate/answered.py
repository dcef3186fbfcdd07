"""What models' own answers came to: win rates, harm, relevance to a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prefactory.measures.win_rate import WinRate


@dataclass(frozen=True)
class Wins:
    """One model against another before a judge that saw both orders of every two answers.

    Attributes:
        one, other: their names; `chosen` are the data's own chosen answers.
        rate: share of prompts that `one` won (a tie, or a judge who went by the place, counts one
            half), as it is and with equal lengths, with intervals.
        ties: prompts that counted one half.
        unread: prompts without two answers, or without a valid verdict; they count for nothing.
        first: share of the judge's votes for the answer in the first place; 0.5 without bias.
    """

    one: str
    other: str
    rate: WinRate | None
    ties: int
    unread: int
    first: float | None


@dataclass(frozen=True)
class Harm:
    """Flames' metrics of a model's answers.

    Attributes:
        model: its name.
        dimensions: dimension -> `n`, `harmless_rate` (0 to 1), `harmless_score` (never below 33.3).
        harmless_rate: unweighted mean of the dimensions' rates; None without any.
        unread: answers that were not labelled.
    """

    model: str
    dimensions: Mapping[str, Mapping[str, float]]
    harmless_rate: float | None
    unread: int


@dataclass(frozen=True)
class Relevance:
    """R3 of a model's answers against a reference (arXiv 2402.03469).

    Attributes:
        model: its name.
        answers: how many had a reference.
        mean, se: of the reward, its standard error clustered by prompt; None without answers.
    """

    model: str
    answers: int
    mean: float | None
    se: float | None


@dataclass(frozen=True)
class Answered:
    """Models that answered the same prompts.

    Attributes:
        models: their names.
        prompts: how many were asked.
        unanswered: model -> reason -> prompts without an answer.
        judge: who compared and labelled; empty without one.
        wins: every two models, or the one against the data's chosen answers.
        harm: by model; empty where no risk of prompts is named.
        relevance: by model; empty without a reference.
        reference: what the reference is.
    """

    models: tuple[str, ...]
    prompts: int
    unanswered: Mapping[str, Mapping[str, int]]
    judge: str = ""
    wins: tuple[Wins, ...] = ()
    harm: tuple[Harm, ...] = ()
    relevance: tuple[Relevance, ...] = ()
    reference: str = ""

    def lines(self) -> Iterator[str]:
        """Lines for a terminal."""
        yield f"  answers to {self.prompts} prompts"
        for model, reasons in self.unanswered.items():
            for reason, n in reasons.items():
                yield f"    {model}: {n} without an answer ({reason})"
        for win in self.wins:
            yield f"    {win.one} against {win.other}, judged by {self.judge}: {_rate(win)}"
        for harm in self.harm:
            rate = "-" if harm.harmless_rate is None else f"{harm.harmless_rate:.3f}"
            yield f"    {harm.model}: harmless rate {rate} (mean of the dimensions)"
            for name, row in harm.dimensions.items():
                yield (
                    f"      {name}: rate {row['harmless_rate']:.3f}, score "
                    f"{row['harmless_score']:.1f} of {row['n']:.0f}"
                )
            if harm.unread:
                yield f"      {harm.unread} answers were not labelled"
        for one in self.relevance:
            if one.mean is not None:
                yield (
                    f"    {one.model}: R3 against {self.reference} {one.mean:.3f} +- {one.se:.3f} "
                    f"on {one.answers} answers"
                )


def _rate(win: Wins) -> str:
    left = f"; {win.unread} not counted" if win.unread else ""
    if win.rate is None:
        return f"no verdict{left}"
    r = win.rate
    first = "" if win.first is None else f", first place {win.first:.2f} of the votes"
    return (
        f"wins {r.raw:.3f} +- {r.raw_se:.3f}, with equal lengths {r.controlled:.3f} [{r.low:.3f}, "
        f"{r.high:.3f}] on {r.n} prompts ({win.ties} ties){first}{left}"
    )
