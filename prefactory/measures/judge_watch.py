"""Whether a judge judges: signs that its answers do not depend on what it was shown.

What is counted can be added up over shards; `problems` says what it means. The limits are ours:
from 20 answers about 5 prompts on, so that a small trial does not end in an alarm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

ANSWERS, PROMPTS = 20, 5
"""From so many answers about so many prompts on a judge is told of."""

MAX_INVALID = 0.3
ONE_PLACE, BY_CHANCE = 0.95, 1e-3
CYCLES = 0.2
"""Share of three compared answers that form a cycle; a coin makes .25."""

MIN_GOLD = 0.6
"""Least share of votes for the answer that is known to be the better one; a coin has .5."""

TRIPLE_PROMPTS = 1000
TIE = -1

Watched = dict[str, Any]
"""Counts about one judge: `judge` (its name), `answers`, `prompts`, `faults` by reason, and of what
applies `places` ("of how many" -> place -> votes), `ties`, `values` (what was rated -> rating ->
answers), `triples`, `cycles`, `gold`, `gold_prompts` and `gold_agrees`."""


def of_votes(votes: pl.DataFrame, models: Sequence[str]) -> list[Watched]:
    """Count the votes of each judge.

    Args:
        votes: `question`, `answers`, `judge`, `place`, `answer`, `fault`, as in
            `prefactory.measures.judge_report`; with `prompt_id` prompts are counted by it, with
            `gold` (number of the answer that is known to be the best, or null) the votes that name
            it.
        models: names of the judges, by number.

    Returns:
        A `Watched` for each judge.
    """
    prompt = "prompt_id" if "prompt_id" in votes.columns else "question"
    watched = []
    for number, model in enumerate(models):
        own = votes.filter(pl.col("judge") == number)
        named = own.filter(pl.col("place").is_not_null())
        places: dict[str, dict[str, int]] = {}
        counted = named.group_by("answers", "place").len().sort("answers", "place")
        for of, place, n in counted.iter_rows():
            places.setdefault(str(of), {})[str(place)] = n
        watched.append(
            {
                "judge": model,
                "answers": own.height,
                "prompts": own[prompt].n_unique(),
                "faults": counts(own["fault"]),
                "ties": own.filter(pl.col("answer") == TIE).height,
                "places": places,
                **(_of_gold(own, prompt) if "gold" in own.columns else {}),
            }
        )
    return watched


def _of_gold(own: pl.DataFrame, prompt: str) -> dict[str, int]:
    """Votes for an answer where the best one is known; of how many prompts; and for that one."""
    told = own.filter(pl.col("gold").is_not_null() & (pl.col("answer") >= 0))
    return {
        "gold": told.height,
        "gold_prompts": told[prompt].n_unique(),
        "gold_agrees": told.filter(pl.col("answer") == pl.col("gold")).height,
    }


def of_gold(rated: pl.DataFrame) -> dict[str, int]:
    """Comparisons of a rated answer that is known to be the best with the others of its prompt.

    Args:
        rated: `prompt_id`, `id` (of the answer), `gold` (Boolean), `score` (Float64).

    Returns:
        `gold` (comparisons whose scores differ), `gold_prompts` and `gold_agrees`.
    """
    known = rated.drop_nulls("score").unique("id", keep="first", maintain_order=True)
    best = known.filter("gold").select("prompt_id", best="score")
    told = best.join(known.filter(~pl.col("gold")), on="prompt_id")
    told = told.filter(pl.col("best") != pl.col("score"))
    return {
        "gold": told.height,
        "gold_prompts": told["prompt_id"].n_unique(),
        "gold_agrees": told.filter(pl.col("best") > pl.col("score")).height,
    }


def of_ratings(
    judge: str, prompts: pl.Series, reasons: pl.Series, ratings: Mapping[str, pl.Series]
) -> Watched:
    """Count the ratings of one judge.

    Args:
        judge: its name.
        prompts: ids of the rows that it was asked about, String[n].
        reasons: why there is no rating, String[n]; null where there is one.
        ratings: what was rated -> Float64[n].
    """
    return {
        "judge": judge,
        "answers": len(prompts),
        "prompts": prompts.n_unique(),
        "faults": counts(reasons),
        "values": {name: counts(values.cast(pl.String)) for name, values in ratings.items()},
    }


def of_triples(beats: pl.DataFrame) -> dict[str, int]:
    """Among every three answers of a prompt that were all compared, how many form a cycle.

    Args:
        beats: `prompt_id`, `chosen_id`, `rejected_id`: who beat whom; of the first 1,000 prompts.
    """
    first = beats["prompt_id"].unique().sort().head(TRIPLE_PROMPTS)
    one = beats.filter(pl.col("prompt_id").is_in(first.implode()))
    one = one.select("prompt_id", a="chosen_id", b="rejected_id").unique()
    two = one.join(one.select("prompt_id", b="a", c="b"), on=["prompt_id", "b"])
    ahead = two.join(one.rename({"b": "c"}), on=["prompt_id", "a", "c"], how="semi").height
    back = two.join(one.rename({"a": "c", "b": "a"}), on=["prompt_id", "a", "c"], how="semi")
    cycles = back.height // 3
    return {"triples": ahead + cycles, "cycles": cycles}


def counts(values: pl.Series) -> dict[str, int]:
    """How often each value that is not null is there, by its text."""
    known = values.drop_nulls().rename("value").value_counts(name="n").sort("value")
    return {str(value): n for value, n in known.iter_rows()}


def merged(parts: Sequence[Sequence[Watched]]) -> list[Watched]:
    """The counts of several shards added up, judge by judge; two of one name stay two."""
    judges: dict[tuple[str, int], list[Watched]] = {}
    for part in parts:
        named: Counter[str] = Counter()
        for own in part:
            judges.setdefault((own["judge"], named[own["judge"]]), []).append(own)
            named[own["judge"]] += 1
    return [_sum(own) for own in judges.values()]


def _sum(values: Sequence[Any]) -> Any:  # noqa: ANN401 - counts, or maps of counts
    if isinstance(values[0], Mapping):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _sum([v[key] for v in values if key in v]) for key in keys}
    return values[0] if isinstance(values[0], str) else sum(values)


def problems(
    watched: Sequence[Watched], max_invalid: float = MAX_INVALID, min_gold: float = MIN_GOLD
) -> list[str]:
    """A sentence for every sign that a judge does not judge.

    Args:
        watched: of `of_votes` or `of_ratings`.
        max_invalid: share of unusable answers that is still accepted, in [0, 1].
        min_gold: least share of votes for the better answer where that is known, in [0, 1].
    """
    return [sentence for own in watched for sentence in _problems(own, max_invalid, min_gold)]


def _problems(own: Watched, max_invalid: float, min_gold: float) -> Iterator[str]:
    judge, answers = f"the judge {own['judge']}", own["answers"]
    if answers >= ANSWERS and own["prompts"] >= PROMPTS:
        invalid = sum(own["faults"].values())
        if invalid > max_invalid * answers:
            why = ", ".join(f"{reason} {n:,}" for reason, n in own["faults"].items())
            yield (
                f"{invalid:,} of {answers:,} answers of {judge} are unusable ({why}); "
                f"max_invalid is {max_invalid:g}{_hint(own['faults'])}"
            )
        if answers - invalid >= ANSWERS:
            yield from _one_answer(own, judge, answers - invalid)
    if own.get("triples", 0) >= ANSWERS and own["cycles"] >= CYCLES * own["triples"]:
        yield (
            f"{own['cycles']:,} of {own['triples']:,} triples of answers that {judge} compared "
            "form a cycle (A beats B beats C beats A); a coin makes a quarter"
        )
    gold = own.get("gold", 0)
    if gold >= ANSWERS and own["gold_prompts"] >= PROMPTS and own["gold_agrees"] < min_gold * gold:
        yield (
            f"{own['gold_agrees']:,} of {gold:,} {'comparisons' if own.get('values') else 'votes'} "
            f"of {judge} on gold rows are right; min_gold is {min_gold:g}, and a coin has half"
        )


def _hint(faults: Mapping[str, int]) -> str:
    refused = any(reason in ("http_400", "http_422") for reason in faults)
    return "; if the server takes no JSON schemas, set guided: false" if refused else ""


def _one_answer(own: Watched, judge: str, valid: int) -> Iterator[str]:
    values = own.get("values") or {}
    if values and all(len(given) == 1 for given in values.values()):
        value = ", ".join(f"{name} {next(iter(given))}" for name, given in values.items())
        yield f"{judge} gave one value to all {valid:,} answers ({value})"
    if own.get("ties", 0) == valid:
        yield f'{judge} said "tie" in all {valid:,} votes'
    votes = {of: sum(by.values()) for of, by in (own.get("places") or {}).items()}
    named = sum(votes.values())
    top = sum(max(by.values()) for by in (own.get("places") or {}).values())
    chance = -sum((n - 1) * math.log(int(of)) for of, n in votes.items())
    if named >= ANSWERS and top >= ONE_PLACE * named and chance < math.log(BY_CHANCE):
        which = {int(max(by, key=lambda p: by[p])) + 1 for by in own["places"].values()}
        yield (
            f"{judge} goes by the place: {top:,} of {named:,} votes are for place "
            f"{' or '.join(map(str, sorted(which)))}, whatever stands there"
        )


HOW = "To publish it with a banner all the same: publish.failed_judges=true"


def failed(stages: Sequence[Any]) -> list[str]:
    """What `problems` says of all stages that were watched, with their labels.

    Args:
        stages: with `label`, `info` (counts under `watch`) and `fields` (`max_invalid`,
            `min_gold`).
    """
    return [
        f"{stage.label}: {sentence}"
        for stage in stages
        for sentence in problems(
            stage.info.get("watch") or (),
            stage.fields.get("max_invalid", MAX_INVALID),
            stage.fields.get("min_gold", MIN_GOLD),
        )
    ]
