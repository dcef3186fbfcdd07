"""What the audit finds of faults planted in clean real pairs, and what it says where none is.

    python -m benchmarks.planted_faults [--seeds 5] [--rows 0] [--only WORD] [--write FILE]

Every fault of `planted_list` at 1, 5 and 20 % of the rows (those of a side at 50 % too), without
embeddings, each with several draws of the rows. `--write` renews the tables of a Markdown file
between its marks.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from audit import CHECKS, Audit, Metric, Options, Severity, audit
from benchmarks.planted_base import CLEAN_INTAKE, SOURCES, Texts, against, clean, raw, texts
from benchmarks.planted_list import FAULTS, Fault
from benchmarks.planters import plant, swap
from prefactory.tables import Shape, with_ids

DOSES = (0.01, 0.05, 0.20)
SIDE_DOSES = (*DOSES, 0.50)
SIDE_CHECKS = ("baselines", "length", "separability", "refusals", "style", "value_gap")
START, END = "<!-- planted: begin -->", "<!-- planted: end -->"


@dataclass(frozen=True)
class Base:
    """A clean set, what left it, the texts to plant in it, and its audit."""

    table: pl.DataFrame
    left: dict[str, int]
    texts: Texts
    found: Audit


@dataclass(frozen=True)
class Cell:
    """What the check said of one dose, in every draw."""

    severities: tuple[Severity, ...]
    metrics: tuple[Metric, ...]

    def told(self, before: Severity) -> str:
        """Severity (and in how many draws), mean of the metric, mean ends of its interval."""
        counts = Counter(self.severities)
        words = [
            s.word if n == len(self.severities) else f"{s.word} {n}/{len(self.severities)}"
            for s, n in sorted(counts.items(), reverse=True)
        ]
        if min(self.severities) > before:
            words = [f"**{w}**" for w in words]
        return f"{', '.join(words)}: {_number(self.metrics)}"


def _number(metrics: Sequence[Metric]) -> str:
    values = [m.value for m in metrics if m.value is not None]
    if not values:
        return "not measured"
    told = f"{100 * np.mean(values):.1f}"
    ends = [(m.low, m.high) for m in metrics if m.low is not None and m.high is not None]
    if ends:
        low, high = 100 * np.mean(np.array(ends), axis=0)
        told += f" ({low:.1f} to {high:.1f})"
    return told


def inspect(table: pl.DataFrame, names: Sequence[str] | None = None) -> Audit:
    """Audit a table without embeddings, by all checks or some."""
    checks = [c for c in CHECKS if names is None or c.name in names]
    options = Options(embeddings=False, against=against())
    return audit(table, options, CLEAN_INTAKE, checks=checks)


def base(name: str, rows: int = 0) -> Base:
    """A clean set, cut to some rows (0 for all)."""
    table, left = clean(name)
    if rows:
        table = table.head(rows)
    return Base(table, left, texts(table), inspect(table))


def measure(fault: Fault, on: Base, dose: float, seeds: int) -> Cell:
    """Plant a fault with several draws, and ask the check that should find it."""
    severities, metrics = [], []
    for seed in range(seeds):
        spoiled, _ = plant(on.table, fault.plant, dose, on.texts, seed, fault.may, fault.of)
        found = inspect(spoiled, [fault.check])
        severities.append(found.findings[0].severity)
        metrics.append(found.metric(fault.metric) or Metric(None))
    return Cell(tuple(severities), tuple(metrics))


def others(fault: Fault, on: Base, dose: float) -> list[str]:
    """Other checks that say more than on the clean set."""
    spoiled, _ = plant(on.table, fault.plant, dose, on.texts, 0, fault.may, fault.of)
    found = inspect(spoiled).findings
    pairs = zip(found, on.found.findings, strict=True)
    return [f.check for f, old in pairs if f.severity > old.severity and f.check != fault.check]


def rows_of(
    faults: Sequence[Fault], bases: dict[str, Base], doses: Sequence[float], seeds: int
) -> list[str]:
    """A Markdown row for each fault."""
    shown = " | ".join(f"{100 * d:g} %" for d in doses)
    lines = [f"| planted | metric | clean | {shown} | also at 20 % |"]
    lines.append("|---|---|---" + "|---" * (len(doses) + 1) + "|")
    for fault in faults:
        on = bases[fault.base]
        before = on.found.finding(fault.check).severity
        zero = _number([on.found.metric(fault.metric) or Metric(0.0)])
        cells = [f"{before.word}: {zero}"]
        for dose in doses:
            try:
                cells.append(measure(fault, on, dose, seeds).told(before))
            except ValueError:
                cells.append("fits too few rows")
        try:
            also = ", ".join(others(fault, on, 0.20)) or "-"
        except ValueError:
            also = ""
        lines.append(f"| {fault.name} | `{fault.metric}` | {' | '.join(cells)} | {also} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def findings(name: str, found: Audit) -> str:
    """What an audit says, the worst first, as a row."""
    said = sorted(
        (f for f in found.findings if f.severity > Severity.OK), key=lambda f: -int(f.severity)
    )
    told = "; ".join(f"{f.severity.word} `{f.check}`: {f.because}" for f in said) or "nothing"
    ok = sum(f.severity is Severity.OK for f in found.findings)
    return f"| {name} | {found.rows:,} | {ok} of {len(found.findings)} ok | {told} |"


def coined(table: pl.DataFrame, seed: int, n: int) -> pl.DataFrame:
    """Pairs drawn from a table, the label of each given by a coin."""
    rng = np.random.default_rng([seed, n])
    rows = table.sample(min(n, table.height), shuffle=True, seed=seed).to_dicts()
    for row, turn in zip(rows, rng.random(len(rows)) < 0.5, strict=True):
        if turn:
            swap(row)
    return with_ids(pl.DataFrame(rows, schema=table.schema), Shape.PAIRS)


def nulls(draws: int) -> list[str]:
    """False alarms where no fault of a side can be: raw pairs whose labels are coins."""
    lines = ["| pairs of | rows | sets | false alarms by check |", "|---|--:|--:|---|"]
    for name in SOURCES:
        table = raw(name).table
        for n in (50, 200, table.height):
            counts: Counter[str] = Counter()
            for seed in range(draws):
                found = inspect(coined(table, seed, n), SIDE_CHECKS).findings
                counts.update(f"{f.check} ({f.severity.word})" for f in found if f.severity > 0)
            told = ", ".join(f"{check} {k}" for check, k in sorted(counts.items())) or "none"
            lines.append(f"| `{name}` | {n:,} | {draws} | {told} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def report(seeds: int, rows: int, only: str, draws: int) -> str:
    """All tables."""
    bases = {name: base(name, rows) for name in SOURCES}
    faults = [f for f in FAULTS if only in f.name or only in f.metric]
    parts = ["### Clean sets", ""]
    for name, on in bases.items():
        left = ", ".join(f"{reason} {n:,}" for reason, n in on.left.items() if n)
        parts += [f"`{name}`: `{SOURCES[name]}`, {on.table.height:,} pairs. Left out: {left}.", ""]
    parts += ["| set | rows | checks | what the audit says |", "|---|--:|---|---|"]
    for name, on in bases.items():
        as_is = raw(name)
        options = Options(embeddings=False, against=against())
        parts.append(findings(f"`{name}` as it is", audit(as_is.table, options, as_is.intake)))
        parts.append(findings(f"`{name}` cleaned", on.found))
    parts += ["", "### False alarms on labels by coin", "", *nulls(draws)]
    kinds = (("Faults of rows", "row", DOSES), ("Faults of a side", "side", SIDE_DOSES))
    for title, kind, doses in kinds:
        some = [f for f in faults if f.kind == kind]
        parts += ["", f"### {title}", "", *rows_of(some, bases, doses, seeds)]
    return "\n".join(parts)


def main() -> None:
    """Print the tables, or put them into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=20, help="sets of each size with coin labels")
    parser.add_argument("--rows", type=int, default=0, help="of each clean set; 0 for all")
    parser.add_argument("--only", default="", help="faults whose name or metric has this word")
    parser.add_argument("--write", type=Path, help="Markdown file with marks to write between")
    args = parser.parse_args()
    told = report(args.seeds, args.rows, args.only, args.draws)
    if args.write is None:
        print(told)
        return
    before, _, rest = args.write.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    args.write.write_text(f"{before}{START}\n\n{told}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
