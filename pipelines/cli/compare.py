"""`prefactory compare-aggregations`: how many pairs flip between two ways to make one score."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.catalog import AsJson, Ref
from pipelines.terminal import write_json

if TYPE_CHECKING:
    import polars as pl

    from catalog.versions import Version
    from pipelines.compare import Comparison, Counted
    from prefactory.step import Labeler

COMBINERS = ("labelers.Combine", "labelers.MAP", "labelers.Weigh", "labelers.Normalise")
"""Steps whose scores are made of other scores, so that no default aggregation counts them again."""
SHOWN = 10
"""Most flips in the list below a matrix, unless `--full`."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("compare-aggregations")(compare_aggregations)


def compare_aggregations(
    ref: Ref,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="More aggregations, repeatable: a YAML file with a list of labelers, or one "
            "labeler as in a recipe: 'labelers.Combine: {name: mine, weights: {a: 2, b: 1}}'.",
        ),
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Only these objectives, separated by commas.")
    ] = None,
    most_pairs: Annotated[
        int, typer.Option(min=1, help="Answer pairs to look at, at most (by prompt id).")
    ] = 2_000_000,
    full: Annotated[bool, typer.Option("--full", help="List all flips, not the most.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the pairs that flip between any two ways to make one score of many.

    Compares every objective alone, the mean of z-scores, the plain sum,
    log-sigmoid, MAP (all objectives raised half as far as they can be),
    soft minimum, Pareto rank, and the scores that the steps of --with add
    and none of them reads.
    """
    from pipelines.compare import compare
    from pipelines.engines import engines
    from pipelines.settings import Settings
    from pipelines.vectors import embedder
    from prefactory.context import Context

    settings = Settings()
    version = settings.catalog.get(ref)
    steps = [step for word in with_ or [] for step in read_steps(word)]
    answers, pairs = read(version, texts=bool(steps))
    alone = wanted(objectives, answers, version)
    with ExitStack() as stack:
        engine = stack.enter_context(engines(settings)).engine if steps else None
        seed = version.manifest.seed
        ctx = Context(seed, "compare", embed=embedder(settings), engine=engine)
        combined = not_combined(version, alone) if objectives is None else alone
        found = compare(answers, pairs, steps, alone, combined, ctx, most_pairs)
    if as_json:
        write_json(as_data(version, found), ensure_ascii=True)
    else:
        typer.echo("\n".join(page(version, found, full)))


def read_steps(word: str) -> list[Labeler]:
    """Labelers of a YAML file (a list, or a mapping with `steps`), or of YAML on the spot.

    Raises:
        ConfigError: the file can't be read, or its steps are wrong, each with its line.
    """
    from pydantic import create_model

    from prefactory import yamllines
    from prefactory.errors import ConfigError
    from prefactory.recipe import Sections, parse
    from prefactory.step import Labeler

    path = Path(word)
    inline = ":" in word and not path.is_file()
    try:
        text = word if inline else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--with {word}: it can't be read: {error}") from error
    name = "--with" if inline else path.name
    data, lines = yamllines.load(text, name)
    if isinstance(data, dict) and set(data) == {"steps"}:
        data = data["steps"]
    else:
        if isinstance(data, dict) and inline:
            data, lines = [data], {(0, *at): line for at, line in lines.items()}
        lines = {("steps", *at): line for at, line in lines.items()}
    if not isinstance(data, list):
        raise ConfigError(f"{name}: write a list of labelers, as under `steps` of a recipe")
    where = Path() / "--with" if inline else path
    document = {"name": "compare", "source": {}, "steps": data}
    placed = parse(document, where, [], Sections(create_model("NoSource"), {}), lines).steps
    odd = [p for p in placed if not isinstance(p.step, Labeler)]
    if odd:
        problem = "is no labeler; an aggregation adds a score to answers"
        raise ConfigError([f"{name}: line {p.line}: {p.label} {problem}" for p in odd])
    return [p.step for p in placed if isinstance(p.step, Labeler)]


def read(version: Version, texts: bool) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The scored answers of a version, and the ids of its pairs if it has some.

    Scores that only the pairs have are joined to the answers, null where an answer is in no pair.

    Args:
        version: the version.
        texts: also read prompts and answers; otherwise these columns are null.

    Raises:
        DataError: there is neither a table of pairs nor of responses with a score.
    """
    import polars as pl

    from prefactory.errors import DataError
    from prefactory.tables import MESSAGES, is_score

    tables = version.manifest.tables
    scores = {n: [c for c in t.columns if is_score(c)] for n, t in tables.items()}
    if not scores.get("responses") and not scores.get("pairs"):
        have = ", ".join(tables) or "no table"
        raise DataError(
            f"{version.ref} has no scores to aggregate (it holds {have}); score the answers in its "
            "recipe, for example with labelers.R3 or labelers.TextStatistics, and run it again"
        )
    pairs = None
    answers: pl.DataFrame | None = None
    if "responses" in tables:
        more = ["prompt", "response", "model"] if texts else []
        columns = ["prompt_id", "response_id", *more, *scores["responses"]]
        answers = _table(version, "responses", columns)
    if "pairs" in tables:
        sides = [f"{side}{c}" for side in ("chosen", "rejected") for c in ("_id", "_model", "")]
        more = ["prompt", *(s for s in sides if not s.endswith("_id"))] if texts else []
        columns = ["prompt_id", "chosen_id", "rejected_id", *more, *scores["pairs"]]
        whole = _table(version, "pairs", columns)
        pairs = whole.select("prompt_id", "chosen_id", "rejected_id")
        answers = _with_pairs(answers, whole)
    assert answers is not None  # noqa: S101 - one of both tables has scores
    empty = {"prompt": MESSAGES, "response": MESSAGES, "model": pl.String()}
    missing = [pl.lit(None, t).alias(c) for c, t in empty.items() if c not in answers.columns]
    return answers.with_columns(missing), pairs


def _table(version: Version, name: str, columns: list[str]) -> pl.DataFrame:
    import polars as pl

    splits = version.manifest.tables[name].splits
    return pl.concat([b for split in splits for b in version.batches(name, split, columns)])


def _with_pairs(answers: pl.DataFrame | None, pairs: pl.DataFrame) -> pl.DataFrame:
    """Answers with the scores that only their pairs have; the answers of pairs if there are none.

    The texts of an answer that is in pairs only come with it.
    """
    import polars as pl

    from prefactory.tables import SIDES, is_score

    sides = []
    for side in SIDES:
        names = {c: c.removeprefix(f"{side}_") for c in pairs.columns if c.startswith(f"{side}_")}
        names |= {f"{side}_id": "response_id"} | ({side: "response"} if side in pairs else {})
        shared = [c for c in ("prompt_id", "prompt") if c in pairs.columns]
        sides.append(pairs.select(*shared, *names).rename(names))
    flat = pl.concat(sides, how="diagonal").unique("response_id", maintain_order=True)
    if answers is None:
        return flat
    new = [c for c in flat.columns if is_score(c) and c not in answers.columns]
    return answers.join(flat.select("response_id", *new), on="response_id", how="left")


def wanted(given: str | None, answers: pl.DataFrame, version: Version) -> list[str]:
    """The objectives to compare.

    Raises:
        ConfigError: one of them is not scored.
    """
    from prefactory.errors import ConfigError
    from prefactory.overrides import nearest
    from prefactory.tables import objectives

    have = objectives(answers.columns)
    if given is None:
        return have
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    problems = [
        f"--objectives: {version.ref} has no score of {n!r}{nearest(n, have)}; it has: "
        + ", ".join(have)
        for n in names
        if n not in have
    ]
    if problems:
        raise ConfigError(problems)
    return names


def not_combined(version: Version, names: list[str]) -> list[str]:
    """Objectives that the version's recipe did not make of others."""
    made = {
        column.removeprefix("chosen_").removeprefix("rejected_").removeprefix("score_")
        for stage in version.manifest.stages
        if stage.label.partition("#")[0] in COMBINERS
        for column in stage.adds
    }
    return [name for name in names if name not in made]


def as_data(version: Version, found: Comparison) -> dict[str, Any]:
    """The comparison for machines; null where nothing was counted."""
    return {
        "dataset": version.ref,
        "content_digest": version.manifest.content_digest,
        "aggregations": [
            {"name": n, "alone": n not in found.made, **found.made.get(n, {})} for n in found.names
        ],
        "skipped": found.skipped,
        "pairs": {
            where: {**asdict(c), "flips": c.flips.rename(_JSON).to_dicts()}
            for where, c in found.counted.items()
        },
    }


_JSON = {"conflict": "flips", "conflict_share": "flips_share", "conflict_se": "flips_se"}


def page(version: Version, found: Comparison, full: bool) -> list[str]:
    """The comparison in lines for people."""
    alone = sum(n not in found.made for n in found.names)
    lines = [
        f"{version.ref}: {len(found.made)} aggregations and {alone} objectives alone, higher is "
        "better in each"
    ]
    lines += [f"left out: {name}: {why}" for name, why in found.skipped.items()]
    for name, facts in found.made.items():
        if "message" in facts:
            lines.append(f"{name}: {facts['message']}")
    for where, counts in found.counted.items():
        lines += ["", *_shown(where, counts, full)]
    return lines


def _shown(where: str, counts: Counted, full: bool) -> list[str]:
    head = f"{where}: {counts.pairs:,} pairs of {counts.prompts:,} prompts"
    if not counts.pairs:
        return [head]
    lines = [f"{head}. Flips: below the diagonal in %, above it in pairs."]
    lines += _matrix(counts)
    lines.append(
        f"all agree on {counts.agreed:,} of {counts.judged:,} pairs that all of them judge"
        + _share(counts.agreed_share, counts.agreed_se)
    )
    rows = counts.flips.sort("conflict_share", descending=True, nulls_last=True).to_dicts()
    shown = rows if full else rows[:SHOWN]
    lines.append("flips:" if len(shown) == len(rows) else f"most flips ({SHOWN} of {len(rows)}):")
    for row in shown:
        tied = row["one_tied"] + row["both_tied"]
        ties = f"; {tied:,} tied in one or both" if tied else ""
        share = _share(row["conflict_share"], row["conflict_se"])
        count = f"{row['conflict']:,} of {row['n']:,}{share}"
        lines.append(f"  {row['a']} / {row['b']}: {count}{ties}")
    return lines


def _share(share: float | None, se: float | None) -> str:
    return "" if share is None or se is None else f", {100 * share:.1f} +- {100 * se:.1f} %"


def _matrix(counts: Counted) -> list[str]:
    flips = counts.flips
    names = list(dict.fromkeys([*flips["a"], *flips["b"]]))
    cell = {(a, b): n for a, b, n in flips.select("a", "b", "conflict").iter_rows()}
    part = {(b, a): s for a, b, s in flips.select("a", "b", "conflict_share").iter_rows()}
    wide = max(6, *(len(f"{n:,}") + 1 for n in cell.values()))
    label = max(len(name) for name in names) + 5
    lines = [" " * label + "".join(f"{i:>{wide}}" for i in range(1, len(names) + 1))]
    for i, a in enumerate(names, 1):
        row = [f"{cell[a, b]:,}" if (a, b) in cell else _percent(part.get((a, b))) for b in names]
        row[i - 1] = "."
        lines.append(f"{i:>3}  {a}".ljust(label) + "".join(f"{text:>{wide}}" for text in row))
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
