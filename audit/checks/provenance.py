"""Licence and provenance: what nobody says about where the rows come from."""

from __future__ import annotations

import polars as pl

from audit.check import Check
from audit.finding import Chart, Metric, Report
from audit.subject import Subject

RESTRICTED = r"(?i)\bnc\b|non-?commercial|noncommercial|research[- ]only|\bnd\b|no-?deriv"
UNKNOWN = ("", "unknown", "other", "none", "null", "n/a", "unlicensed")


def run(subject: Subject) -> Report:
    """Look for a licence, sources, models and label sources."""
    licences = _licences(subject)
    missing = [source for source, licence in licences.items() if licence is None]
    restricted = [f"{s} ({x})" for s, x in licences.items() if x and _restricts(x)]
    table = subject.table
    metrics = {
        "unlicensed": Metric(len(missing) / len(licences), n=len(licences), unit="share"),
        "restricted": Metric(len(restricted) / len(licences), n=len(licences), unit="share"),
        "no_source": _gap(table["source"]),
    }
    gaps = [("source", metrics["no_source"])]
    models = [side.model.rename("model") for side in subject.sides]
    if models:
        metrics["no_model"] = _gap(pl.concat(models))
        gaps.append(("model of the answers", metrics["no_model"]))
    if "label_source" in table.columns:
        metrics["no_label_source"] = _gap(table["label_source"])
        gaps.append(("label source", metrics["no_label_source"]))
    if "origin" in table.columns:
        metrics["no_origin"] = _gap(table["origin"])
        gaps.append(("origin", metrics["no_origin"]))
    told = (
        f"no licence is stated for {', '.join(missing[:4])}" if missing else "licences are stated"
    )
    if restricted:
        told += f"; restricted: {', '.join(restricted[:4])}"
    lacking = [f"{name} {100 * (m.value or 0):.0f}%" for name, m in gaps if m.value]
    rows = tuple((name, (m.value,)) for name, m in gaps)
    return Report(
        headline=told + (f"; missing: {', '.join(lacking)}" if lacking else ""),
        metrics=metrics,
        charts=(Chart("bars", "Rows that do not say", rows),) if lacking else (),
        notes=(
            "A licence is looked for in the manifest of a version, and in the README.md of a "
            "folder or hub dataset. Whether it fits your use is for you to say.",
        ),
    )


def _licences(subject: Subject) -> dict[str, str | None]:
    """Licence of each source; None where none is stated."""
    intake = subject.intake
    if intake.sources:
        found = {str(s.get("name") or "?"): s.get("license") for s in intake.sources}
    else:
        found = {intake.name: intake.license}
    if intake.license:
        found = {name: licence or intake.license for name, licence in found.items()}
    return {
        name: None if licence is None or str(licence).strip().lower() in UNKNOWN else str(licence)
        for name, licence in found.items()
    }


def _restricts(licence: str) -> bool:
    return bool(pl.Series([licence]).str.contains(RESTRICTED)[0])


def _gap(values: pl.Series) -> Metric:
    """Share of rows without a value."""
    text = values.cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase()
    blank = text.is_in(["", "unknown", "none", "null", "n/a"])
    return Metric(int(blank.sum()) / values.len(), n=values.len(), unit="share")


CHECK = Check(
    name="provenance",
    title="Licence and provenance",
    why="Rows that nobody may use, or of which nobody knows who wrote and who judged them, can't "
    "be defended, filtered by model, or taken back.",
    metrics={
        "unlicensed": "share of sources without a licence",
        "restricted": "share of sources whose licence forbids commercial use or changes",
        "no_source": "share of rows without a source",
        "no_model": "share of answers without the name of their model",
        "no_label_source": "share of pairs that do not say who chose",
        "no_origin": "share of answers that do not say what kind of author wrote them",
    },
    run=run,
    mends=(
        "# not a step: state it where the data is read",
        "# source: {path: ..., license: cc-by-4.0, mapping: {chosen_model: their.column}}",
    ),
)
