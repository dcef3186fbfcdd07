"""Where people's votes so far let the judges of a loop label: rules for its next run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import polars as pl

from catalog.versions import Version
from labelers import Relabel
from prefactory.recipe import Placed, Recipe
from prefactory.turned import turned
from prefactory.votes import judged
from prefactory.votes.slices import Rule
from prefactory.votes.verdicts import verdicts


def rules(recipe: Recipe, before: Version | None, votes: pl.DataFrame) -> dict[str, Rule]:
    """Where each judge of a recipe may relabel, by people's votes on the version before.

    Args:
        recipe: with steps `labelers.Relabel: {trusted_on: {column: [...]}}`; the columns are those
            that the judge is measured by.
        before: the newest version of the loop, whose pairs carry the judges' opinions; None in the
            first round.
        votes: of all rounds.

    Returns:
        Label of the step -> its `trusted_on`; every column with a list, empty where the judge is
        trusted nowhere. Nothing for judges that nobody could measure yet.
    """
    asked = [p for p in recipe.steps if isinstance(p.step, Relabel) and p.step.trusted_on]
    if not asked or before is None or not votes.height:
        return {}
    pairs = as_reviewed(before.frame("pairs").collect())
    heard = {opinion.name: opinion for opinion in judged.opinions(pairs)}
    found: dict[str, Rule] = {}
    for placed in asked:
        name, columns = _judge_of(placed)
        if name in heard and _voted(pairs, votes):
            people = judged.People.of(pairs, verdicts(votes, draws=0), votes)
            measured = judged.measure(pairs, people, columns, [heard[name]])
            told = judged.rules(measured, name)
            found[placed.label] = {c: told.get(c, {}).get("trusted", []) for c in columns}
    return found


def _judge_of(placed: Placed) -> tuple[str, list[str]]:
    step = placed.step
    assert isinstance(step, Relabel)  # noqa: S101 - `rules` takes no other
    return step.name, list(step.trusted_on or {})


def _voted(pairs: pl.DataFrame, votes: pl.DataFrame) -> bool:
    return bool(pairs["pair_id"].is_in(votes["row_id"].implode()).any())


def as_reviewed(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs of a loop's version as people saw them: turned back, without edits.

    Opinions turn with the sides; labels of people are about the pair as it was reviewed.
    """
    if "human_turned" not in pairs.columns:
        return pairs
    rows = pairs.filter(~pl.col("human_edit"))
    return turned(rows, rows["human_turned"].fill_null(value=False), "human", "_turned_from")


def words(found: Mapping[str, Rule]) -> list[str]:
    """The rules as `key=value` words for the recipe."""
    plain = {label: {c: list(v) for c, v in rule.items()} for label, rule in found.items()}
    return [f"{label}.trusted_on={json.dumps(rule)}" for label, rule in plain.items()]


def lines(found: Mapping[str, Rule]) -> Sequence[str]:
    """The rules in words."""
    return [
        f"{label} may relabel, by {column}: {', '.join(values) or 'nothing'}"
        for label, rule in found.items()
        for column, values in rule.items()
    ]
