"""One recipe of the cures that an audit prints, run on the data at hand: what each line takes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from audit import CHECKS, Audit, Severity
from pipelines.api import Recipe, audit
from prefactory.errors import ConfigError, DataError

SUSPECTS = (
    "- labelers.LabelTrust: {}",
    "- filters.SuspectLabels: {by: share, amount: 0.2, do: drop}   # the least trusted fifth",
)
"""Lines that `--suspects` adds, after the damage is out."""
MARKED = (
    SUSPECTS[0],
    "- filters.SuspectLabels: {by: share, amount: 0.2, do: review}   # marked: the self-test "
    "does not bear dropping out",
)
"""Lines in their place where the self-test lets no row go."""


@dataclass(frozen=True)
class Line:
    """What one line of the recipe did.

    Attributes:
        text: the line.
        findings: whose cure it is.
        taken: rows that it took.
        unnamed: how many of them no finding names.
    """

    text: str
    findings: tuple[str, ...]
    taken: int
    unnamed: int


@dataclass(frozen=True)
class Mended:
    """What became of the data.

    Attributes:
        recipe: the file.
        lines: of the recipe, in order.
        before, after: the audits.
        refused: why suspects are marked and not dropped; empty if they are, or weren't asked for.
    """

    recipe: Path
    lines: tuple[Line, ...]
    before: Audit
    after: Audit
    refused: str = ""

    def summary(self) -> str:
        """What each line took, and what the audit says afterwards."""
        if not self.lines:
            return f"{self.recipe}: no finding names rows that a step could take out"
        texts = ["", "  rows taken  no finding names  line"]
        for line in self.lines:
            text = line.text.removeprefix("- ").partition("   #")[0]
            texts.append(f"  {line.taken:>10,}  {line.unnamed:>16,}  {text}")
        if self.refused:
            texts.append(f"\nsuspects are marked for review and stay: {self.refused}")
        counts = ", ".join(f"{n} {word}" for word, n in self.after.counts().items() if n)
        texts.append(f"\n{self.before.rows:,} rows before, {self.after.rows:,} after: {counts}")
        texts += [
            f"  {f.severity.word:<8} {f.check}: {f.headline}"
            for f in sorted(self.after.findings, key=lambda f: -f.severity)
            if f.severity > Severity.NOTE
        ]
        return "\n".join([*texts, f"\nrecipe {self.recipe}"])


def lines_of(
    audited: Audit, *, suspects: bool | Sequence[str] = False
) -> dict[str, tuple[str, ...]]:
    """The recipe lines of warnings and faults that take out faulty rows, with their findings.

    `suspects` adds those of `--suspects`, or the ones given. What is only noted (a few copies) is
    left to whoever reads the recipe: a comment has its lines.
    """
    faulty = {check.name for check in CHECKS if check.faulty_rows}
    lines: dict[str, tuple[str, ...]] = {}
    for finding in audited.findings:
        if finding.check not in faulty or finding.severity < Severity.WARNING:
            continue
        for line in finding.recipe:
            if line.startswith("- ") and line not in finding.report.choices:
                lines[line] = (*lines.get(line, ()), finding.check)
    if suspects:
        added = SUSPECTS if isinstance(suspects, bool) else suspects
        lines |= dict.fromkeys(added, ("labels",))
    return lines


def text_of(audited: Audit, source: Mapping[str, Any], lines: Sequence[str]) -> str:
    """The recipe as YAML, with what is not applied as comments."""
    name = re.sub(r"[^a-z0-9]+", "-", audited.name.lower()).strip("-")[:40] or "data"
    head = {"name": f"mended-{name}", "source": dict(source)}
    text = [
        f"# Takes out the faulty rows that the audit of {json.dumps(audited.name)} found.",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "steps:" if lines else "steps: []",
        *(f"  {line}" for line in lines),
    ]
    left = [
        f for f in audited.findings if f.severity > Severity.OK and not set(f.recipe) & set(lines)
    ]
    if left:
        text += [
            "",
            "# Not applied: notes, and matters of balance or of the source, which no rule can "
            "decide.",
        ]
    for finding in left:
        headline = " ".join(finding.headline.split())
        text.append(f"# {finding.severity.word} {finding.check}: {headline}")
        text += [f"#   {line}" for line in finding.recipe]
    return "\n".join(text) + "\n"


def mend(
    audited: Audit,
    source: Mapping[str, Any],
    path: Path,
    *,
    suspects: bool = False,
    home: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Mended:
    """Write the recipe of an audit's cures, run it, and audit what is left.

    Args:
        audited: the audit.
        source: fields of the `source:` that was audited.
        path: where to write the recipe.
        suspects: also drop the least trusted fifth of the labels, or mark it for review where the
            self-test does not bear dropping out.
        home: where to publish the mended rows; a temporary folder if None.
        options: of the audit (`seed`, `embeddings`, `against`).

    Raises:
        ConfigError: the file can't be written.
        PrefactoryError: the recipe fails on the data.
    """
    if not lines_of(audited, suspects=suspects):
        write(audited, source, path, ())
        return Mended(path, (), audited, audited)
    with ExitStack() as stack:
        if home is None:
            folder = tempfile.TemporaryDirectory(prefix="prefactory-mend-")
            home = Path(stack.enter_context(folder))
        try:
            return _run(audited, source, path, suspects, home, options or {})
        except DataError as error:
            if not suspects or "SuspectLabels" not in str(error):
                raise
            marked = _run(audited, source, path, MARKED, home, options or {})
            return replace(marked, refused=str(error).partition("; write")[0])


def write(audited: Audit, source: Mapping[str, Any], path: Path, lines: Sequence[str]) -> None:
    """Write the recipe.

    Raises:
        ConfigError: the file can't be written.
    """
    try:
        path.write_text(text_of(audited, source, lines), "utf-8")
    except OSError as error:
        raise ConfigError(f"--write-recipe {str(path)!r}: {error.strerror}") from error


def _run(
    audited: Audit,
    source: Mapping[str, Any],
    path: Path,
    suspects: bool | Sequence[str],
    home: Path,
    options: Mapping[str, Any],
) -> Mended:
    lines = lines_of(audited, suspects=suspects)
    write(audited, source, path, list(lines))
    recipe = Recipe.from_yaml(path)
    version = recipe.run(home)
    named = set(audited.rows_named()["row"].drop_nulls())
    taken = version.ledger()
    taken_by = []
    for placed, (line, findings) in zip(recipe.steps, lines.items(), strict=True):
        rows = taken.filter(pl.col("step") == placed.label)["row_id"]
        unnamed = rows.filter(~rows.is_in(list(named))).len()
        taken_by.append(Line(line, findings, rows.len(), unnamed))
    after = audit(version, home=home, **options)
    return Mended(path, tuple(taken_by), audited, after)
