"""Coverage: sources, tags, values, languages (by script), turns."""

from __future__ import annotations

import polars as pl

from audit.check import Check
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import Subject
from prefactory.measures.coverage import coverage
from prefactory.measures.scripts import LANGUAGES, NONE, scripts

TAGS = ("tags", "tag", "category", "topic", "domain", "task", "subject", "language", "difficulty")
VALUES = ("value", "values", "principle", "principles", "dimension", "persona")
MOST = 8
"""Categories that a chart shows."""


def run(subject: Subject) -> Report:
    """Count what the prompts are about, as far as columns and letters say."""
    columns = {"source": subject.table["source"].fill_null("unknown")}
    for name in (*TAGS, *VALUES):
        if name in subject.table.columns and _categories(subject.table[name]):
            columns[name] = subject.table[name]
    writing = scripts(subject.question)
    columns["script"] = writing
    metrics: dict[str, Metric] = {}
    charts = []
    for name, values in columns.items():
        found = coverage(values)
        table = found.table.sort("support", "category", descending=[True, False])
        metrics[f"categories:{name}"] = Metric(table.height, n=found.rows, unit="count")
        metrics[f"largest:{name}"] = Metric(
            table["share"][0] if table.height else None, n=found.labelled, unit="share"
        )
        metrics[f"unlabelled:{name}"] = Metric(1 - found.labelled / found.rows, unit="share")
        if found.entropy is not None:
            metrics[f"evenness:{name}"] = Metric(found.entropy)
        bars = [
            (str(c), (float(s),)) for c, s in table.select("category", "share").head(MOST).rows()
        ]
        if table.height > MOST:
            bars.append((f"{table.height - MOST} more", (float(table["share"][MOST:].sum()),)))
        if table.height > 1:
            charts.append(Chart("bars", f"Prompts by {name}", tuple(bars)))
    other, named = _other_script(subject, writing)
    metrics |= other
    missing = [name for name in ("tags", "values") if not set(columns) & set(_NAMES[name])]
    return Report(
        headline=_told(metrics, columns),
        metrics=metrics,
        rows=named,
        charts=tuple(charts[:6]),
        notes=(
            "Languages by script only: English and German are both Latin. Topics and clusters of "
            "prompts are under value gap.",
        ),
        recipe=(),
        choices=_recipe(writing),
        unmeasured={name: f"no column names {name}" for name in missing},
    )


def _recipe(writing: pl.Series) -> tuple[str, ...]:
    """Rows stay that are in the script of most prompts."""
    known = writing.filter(writing.is_in(list(LANGUAGES.values())))
    if not known.len():
        return ()
    script = known.value_counts().sort("count", "script", descending=[True, False])["script"][0]
    code = next(codes.split()[0] for codes, name in LANGUAGES.items() if name == script)
    fields = f'languages: [{code}], min_letters: 1, "on": [prompt, response]'
    return (f"- filters.Language: {{{fields}}}   # those that are wanted, by script",)


_NAMES = {"tags": TAGS, "values": VALUES}


def _categories(values: pl.Series) -> bool:
    fits = values.dtype in (pl.String, pl.Categorical, pl.Enum) or values.dtype == pl.List(
        pl.String
    )
    return fits and values.null_count() < values.len()


def _other_script(subject: Subject, asked: pl.Series) -> tuple[dict[str, Metric], pl.DataFrame]:
    """Answers in another script than their prompt; where one is Latin only, since it mixes in."""
    metrics: dict[str, Metric] = {}
    named = [flagged([], "")]
    for side in subject.sides:
        given = scripts(side.text)
        prompt = asked.gather(pl.Series(side.rows))
        known = ~prompt.is_in([NONE, "other"]) & ~given.is_in([NONE, "other"])
        off = (known & (given != prompt)).to_numpy()
        metrics[f"other_script:{side.name}"] = share(off, side.prompts)
        note = f"the {side.name} answer is in another script than its prompt"
        named.append(flagged(side.rows[off], note))
    return metrics, pl.concat(named)


def _told(metrics: dict[str, Metric], columns: dict[str, pl.Series]) -> str:
    sources, kinds = (metrics[f"categories:{n}"].value for n in ("source", "script"))
    parts = [
        f"{sources:.0f} source{'s' * (sources != 1)}",
        f"{kinds:.0f} script{'s' * (kinds != 1)}",
    ]
    others = [n for n in columns if n not in ("source", "script")]
    parts += [f"{metrics[f'categories:{n}'].value:.0f} values of {n}" for n in others]
    off = max(
        (m.value or 0.0 for n, m in metrics.items() if n.startswith("other_script")), default=0.0
    )
    if off >= 0.0005:
        parts.append(f"{100 * off:.1f}% of answers in another script than their prompt")
    return ", ".join(parts)


CHECK = Check(
    name="coverage",
    title="Coverage",
    why="What the prompts do not cover, tuning leaves to chance; and an answer in another language "
    "than its question is seldom the better one.",
    metrics={
        "categories": "number of values of a column (categories:<column>)",
        "largest": "share of its most frequent value (largest:<column>)",
        "unlabelled": "share of rows without a value (unlabelled:<column>)",
        "evenness": "entropy over its maximum, 1 if all are equally frequent (evenness:<column>)",
        "other_script": "share of answers in another script than their prompt (…:<side>)",
        "tags": "never measured: says that no column names tags",
        "values": "never measured: says that no column names values",
    },
    run=run,
    slow=True,
)
