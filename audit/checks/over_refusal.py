"""Refusals of harmless prompts that sound harmful, and compliance with harmful ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import Side, Subject

COLUMNS = ("label", "type", "prompt_label", "prompt_type", "safety")
"""Columns in which a safety set says whether a prompt is safe."""
UNSAFE = r"^(?:unsafe|harmful|contrast_.*)$"
SAFE = (
    r"^(?:safe|harmless|benign|homonyms|figurative_language|safe_targets|safe_contexts|definitions|"
    r"real_group_nons_discr|nons_group_real_discr|historical_events|privacy_public|"
    r"privacy_fictional)$"
)
"""What they say; the types are XSTest's (arXiv 2308.01263)."""
KNOWN = 0.5
"""Least share of a column's values that must be such words for it to be taken."""
HARMLESS = "|".join(
    (
        r"\b(?:kill|killing|terminate|terminating) (?:a|an|the|my|off )?\s*(?:\w+ )?"
        r"(?:process|thread|job|task|program|app|server|session|tab|time|engine|lights?|contract)",
        r"\b(?:kill|killing|exterminat\w+|annihilat\w+|eradicat\w+|poison|get rid of) (?:\w+ ){0,4}"
        r"(?:weeds?|rats?|mice|bugs?|mosquito(?:e?s)?|ants?|cockroach(?:es)?|germs|bacteria|"
        r"mou?ld|fleas|lice|termites|wasps|viruses)",
        r"\bshoot(?:ing)? (?:\w+ ){0,3}(?:photos?|pictures?|films?|movies?|videos?|hoops|portraits?"
        r"|emails?|free throws?)",
        r"\bblow(?:ing)? up (?:\w+ ){0,3}(?:balloons?|photos?|pictures?|mattress|tyres?|tires?)",
        r"\b(?:execut\w+|attack\w*) (?:\w+ ){0,2}(?:command|query|script|program|file|problem)",
        r"\bsteal(?:ing)? (?:\w+ ){0,2}(?:base|the show|someone's heart)",
        r"\b(?:destroy\w*|crush\w*|beat\w*|slaughter\w*|murder\w*) (?:\w+ ){0,4}(?:chess|exam|"
        r"interview|competition|monopoly|tennis|opponent|karaoke)",
        r"\b(?:in|on) (?:minecraft|fortnite|call of duty|counter[- ]strike|gta|skyrim|"
        r"league of legends|dungeons and dragons|a video ?game)\b",
        r"^(?:what is|what's|what does|define|explain) (?:the )?(?:\w+ ){0,4}(?:money laundering|"
        r"identity theft|child abuse|assault|genocide|fraud|blackmail|bribery|murder|arson|torture|"
        r"terrorism|racism|homophobia|perjury|extortion)(?: mean)?\W*$",
    )
)
"""Prompts that sound harmful and are not: our list, after XSTest's types, English and short.

It knows 18 of XSTest's 161 safe prompts; of 1,079 prompts of hh harmless it takes one, rightly.
"""


@dataclass(frozen=True)
class Safety:
    """Which prompts are safe, which are unsafe (bool, shape (rows,)), and who says so."""

    safe: NDArray[np.bool_]
    unsafe: NDArray[np.bool_]
    column: str | None


def run(subject: Subject) -> Report:
    """Count refusals of safe prompts, and compliance with unsafe ones, on each side."""
    known = safety(subject)
    if not known.safe.any() and not known.unsafe.any():
        columns = ", ".join(COLUMNS)
        return Report(
            skipped=f"no column ({columns}; of a file, --map label=THEIRS brings one along) says "
            "which prompts are safe or unsafe, and none is on the list of those that sound harmful"
        )
    metrics: dict[str, Metric] = {}
    named, counts, bars = [flagged([], "")], [], []
    prefix = "safe" if known.column else "looks_safe"
    for side, features in zip(subject.sides, subject.features, strict=True):
        refusal = features["refusal"].to_numpy()
        for kind, of, hits in (
            (prefix, known.safe, refusal),
            ("unsafe", known.unsafe, ~refusal),
        ):
            asked = of[side.rows]
            if not asked.any():
                continue
            metric = metrics[f"{kind}_{side.name}"] = share(hits[asked], side.prompts[asked])
            does = "complies with an unsafe prompt" if kind == "unsafe" else "refuses a safe prompt"
            bars.append((f"{side.name} {does}", (metric.value, metric.low, metric.high)))
            counts.append(
                f"{int(hits[asked].sum()):,} of {int(asked.sum()):,} "
                f"{_whose(side)}answers {_do(kind)}"
            )
            if side.name != "rejected":
                named.append(flagged(side.rows[asked & hits], f"the {side.name} answer {does}"))
    if subject.paired and known.unsafe.any():
        chosen, rejected = (f["refusal"].to_numpy() for f in subject.features)
        turned = ~chosen & rejected
        metrics["unsafe_turned"] = share(turned[known.unsafe], subject.prompts[known.unsafe])
    return Report(
        headline=", ".join(counts),
        metrics=metrics,
        rows=pl.concat(named).unique("row", keep="first", maintain_order=True),
        charts=(Chart("shares", "Answers to safe and unsafe prompts", tuple(bars)),),
        notes=(_note(known), "Refusals by lists of phrases, as filters.Refusals has them: an "
               "answer that evades without a refusal's words counts as one that complies."),
    )  # fmt: skip


def safety(subject: Subject) -> Safety:
    """Which prompts are safe or unsafe, by a column or else by the list `HARMLESS`."""
    for name in COLUMNS:
        if name not in subject.table.columns or subject.table[name].dtype != pl.String:
            continue
        said = subject.table[name].str.to_lowercase().str.strip_chars()
        safe, unsafe = said.str.contains(SAFE), said.str.contains(UNSAFE)
        if (safe | unsafe).sum() >= max(1, KNOWN * (said.len() - said.null_count())):
            masks = [mask.fill_null(value=False).to_numpy() for mask in (safe, unsafe)]
            return Safety(masks[0], masks[1], name)
    asked = subject.question.str.head(300).str.to_lowercase().str.strip_chars()
    looks = asked.str.contains(HARMLESS).fill_null(value=False).to_numpy()
    return Safety(looks, np.zeros(subject.height, dtype=np.bool_), None)


def _whose(side: Side) -> str:
    return "" if side.name == "response" else f"{side.name} "


def _do(kind: str) -> str:
    return {
        "safe": "refuse a safe prompt",
        "looks_safe": "refuse a prompt that only sounds harmful",
        "unsafe": "comply with an unsafe one",
    }[kind]


def _note(known: Safety) -> str:
    if known.column:
        return (
            f"Column {known.column} says it of {int(known.safe.sum()):,} safe and "
            f"{int(known.unsafe.sum()):,} unsafe prompts."
        )
    return (
        f"No column says which prompts are safe; {int(known.safe.sum()):,} are on our list of "
        "harmless prompts that sound harmful (kill a process, shoot a photo, ...). It is English "
        "and short; a column of safe and unsafe, or XSTest's types, says it of all (of a file, "
        "--map label=THEIRS brings it along)."
    )


CHECK = Check(
    name="over_refusal",
    title="Over-refusal",
    why="A chosen answer that refuses a harmless prompt teaches to refuse by the sound of words; "
    "one that complies with a harmful prompt where the rejected one refuses teaches harm.",
    metrics={
        "safe_chosen": "share of chosen answers to safe prompts that refuse",
        "safe_rejected": "share of rejected answers to safe prompts that refuse",
        "safe_response": "share of answers to safe prompts that refuse",
        "looks_safe_chosen": "the same of prompts on the list, where no column says it",
        "looks_safe_rejected": "the same of prompts on the list, where no column says it",
        "looks_safe_response": "the same of prompts on the list, where no column says it",
        "unsafe_chosen": "share of chosen answers to unsafe prompts that do not refuse",
        "unsafe_rejected": "share of rejected answers to unsafe prompts that do not refuse",
        "unsafe_response": "share of answers to unsafe prompts that do not refuse",
        "unsafe_turned": "share of pairs of unsafe prompts whose rejected answer alone refuses",
    },
    run=run,
    need=Need.ANSWERS,
    mends=(
        "# read the rows of findings.parquet; where the label is wrong, turn it, else:",
        "# - filters.Refusals: {harmful: COLUMN}   # Boolean, true where the prompt is unsafe",
    ),
)
