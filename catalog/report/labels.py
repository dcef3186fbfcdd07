"""What steps that learn from labels found: the preference stack, trust in labels, suspects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.report.stages import Stage
from prefactory.pages.wording import EN_DASH, MINUS, count, percent, plain, two, with_interval

HEAVIEST = 8
"""Weights of a stack that are shown."""


@dataclass(frozen=True, slots=True)
class Learned:
    """One step.

    Attributes:
        title: its step.
        warning: what a reader must know first, or "".
        facts: each with its words.
        weights: of a stack: (feature, weight).
    """

    title: str
    warning: str
    facts: tuple[tuple[str, str], ...]
    weights: tuple[tuple[str, str], ...] = ()


def read(stages: Sequence[Stage]) -> list[Learned]:
    """Report on every stage that learned from labels."""
    learned = []
    for stage in stages:
        if stack := stage.info.get("preference_stack"):
            learned.append(_stack(stage.label, stack))
        if trust := stage.info.get("label_trust"):
            learned.append(_trust(stage.label, trust))
        if suspects := stage.info.get("suspect_labels"):
            learned.append(_suspects(stage.label, suspects))
    return learned


def _stack(label: str, info: Mapping[str, Any]) -> Learned:
    warning = ""
    if info["teaches_nothing"]:
        warning = "The labels teach nothing that this scorer can see: it scores no row."
    ranked = sorted(info["weights"].items(), key=lambda item: -abs(item[1]))
    facts = (
        ("fitted", f"{count(info['fitted'])} of {count(info['pairs'])} pairs"),
        *((_damage(info),) if info.get("damage") else ()),
        ("accuracy on prompts it did not see", with_interval(info["accuracy"])),
        ("the length rule there", with_interval(info["length_rule"]["accuracy"])),
        ("ahead of it, points", points(info["length_rule"]["ahead"])),
        ("slope of its margins", two(info["slope"])),
        ("calibration error", EN_DASH if info["ece"] is None else percent(info["ece"])),
        ("form", ", ".join(info["forms"]) or EN_DASH),
    )
    weights = tuple(
        (plain(name, 40), f"{value:+.2f}".replace("-", MINUS)) for name, value in ranked[:HEAVIEST]
    )
    return Learned(label, warning, facts, weights)


def _trust(label: str, info: Mapping[str, Any]) -> Learned:
    return Learned(label, _doubt(info), tuple(_trust_facts(info)))


def _doubt(info: Mapping[str, Any]) -> str:
    inverted = [o["source"] for o in info["sources"] if o["verdict"] == "inverted"]
    if inverted:
        return f"The labels of {', '.join(plain(s, 60) for s in inverted)} look turned round."
    if info["rate_is"] == "assumed":
        return "The share of wrong labels is assumed: read trust as a rank, not as a probability."
    if info["rate_is"] == "em":
        return "The share of wrong labels comes from refitting, and may be too low."
    return ""


def _damage(info: Mapping[str, Any]) -> tuple[str, str]:
    """How many rows no fit saw, and why."""
    by = (f"{count(n)} {plain(rule, 40).replace('_', ' ')}" for rule, n in info["damage"].items())
    return "damaged, in no fit", ", ".join(by)


def _trust_facts(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if info.get("damage"):
        yield _damage(info)
    for opinion in info["sources"]:
        against = "" if opinion["expert"] is None else f" ({opinion['expert']})"
        verdict = f"{opinion['verdict']}, agreement {with_interval(opinion['agreement'])}"
        yield f"outside opinion of {plain(opinion['source'], 60)}{against}", verdict
    test = info["self_test"]
    if test is not None:
        error = f"{two(test['auc'])} ± {two(test['auc_se'])}"
        yield "self-test: planted swaps are ranked with AUC", error
        top = percent(test["precision"]["0.1"])
        yield "planted among the least trusted tenth", f"{top}, {percent(test['planted'])} in all"
    wrong = info["wrong_share"]
    if wrong["estimate"] is not None:
        yield "share of wrong labels", with_interval(wrong["estimate"])
    else:
        bound = "" if wrong["bound"] is None else f"at most {percent(wrong['bound'])}; "
        yield "share of wrong labels", f"{bound}the data can't tell: {wrong['refused']}"
    yield "signals", ", ".join(info["signals"]) or EN_DASH


def _suspects(label: str, info: Mapping[str, Any]) -> Learned:
    done = {"review": "marked for review", "drop": "dropped", "turn": "turned round"}[info["do"]]
    precision = EN_DASH if info["precision"] is None else percent(info["precision"])
    facts = (
        (done, f"{count(info['suspects'])} of {count(info['of'])} pairs"),
        ("planted swaps among as many in the self-test", precision),
        ("checked by people, and so never suspect", count(info["checked"])),
    )
    return Learned(label, "", facts)


def points(estimate: Mapping[str, Any]) -> str:
    """A difference of shares in points with its standard error."""
    if estimate["value"] is None:
        return EN_DASH
    around = "" if estimate["se"] is None else f" ± {100 * estimate['se']:.1f}"
    return f"{100 * estimate['value']:+.1f}{around}"
