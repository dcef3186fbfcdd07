"""What models choose in dilemmas: win rates of values, and how far models agree.

Choices are in the column that `labelers.Choices` leaves on dilemmas.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import polars as pl

from prefactory.errors import DataError
from prefactory.measures.agreement import cohen_kappa, krippendorff_alpha, share
from prefactory.measures.win_graph import win_graph

NEITHER = "neither"
"""What an option keeps that keeps no rule."""


def choice_report(table: pl.DataFrame, name: str = "choices") -> dict[str, Any]:
    """Statistics of choices.

    Args:
        table: PAIRS with the column `<name>` of `labelers.Choices`, and `chosen_value` and
            `rejected_value`. A situation (`source_prompt_id`, if it is there) is one unit:
            its dilemmas share rules.
        name: of the column.

    Returns:
        JSON data. `dilemmas`; `models`: for each `model`, `asked`, `valid`, `neither` (share of
        valid choices, an estimate: a check of the model's sense), `first` (share of what stood
        first; 1/3 if places do not matter), `priority` (where it takes a side, how often that of
        the declared order) and `graph` (`win_graph` of the values); `agreement`: `alpha`
        (Krippendorff's) and, of every two models, `one`, `other`, `agreement` (of the values that
        they take, both orders and letters aside) and `kappa`.

    Raises:
        DataError: the columns are not there.
    """
    missing = [c for c in (name, "chosen_value", "rejected_value") if c not in table.columns]
    if missing:
        raise DataError(
            f"no model was asked about these dilemmas: column {missing[0]!r} is missing; "
            "generators.Dilemmas and then labelers.Choices add it"
        )
    votes = votes_of(table, name)
    return {
        "dilemmas": table.height,
        "models": [
            {"model": str(model), **_of_model(own)}
            for (model,), own in votes.group_by("model", maintain_order=True)
        ],
        "agreement": _agreement(votes),
    }


def votes_of(table: pl.DataFrame, name: str = "choices") -> pl.DataFrame:
    """The choices, one row each, with `dilemma`, `unit`, `chosen` and `rejected`."""
    unit = "source_prompt_id" if "source_prompt_id" in table.columns else "prompt_id"
    rows = table.select(
        dilemma="pair_id",
        unit=unit,
        chosen="chosen_value",
        rejected="rejected_value",
        votes=name,
    )
    rows = rows.filter(pl.col("votes").list.len() > 0).explode("votes").unnest("votes")
    return rows.sort("model", "dilemma", "order")


def said(votes: pl.DataFrame) -> pl.DataFrame:
    """What each model takes in each dilemma: the value of most of its choices.

    Returns:
        `model`, `dilemma`, `unit`, `said` (null: two have most, or none is valid), sorted.
    """
    valid = votes.filter(pl.col("value").is_not_null())
    counts = valid.group_by("model", "dilemma", "value").agg(n=pl.len())
    top = counts.filter(pl.col("n") == pl.col("n").max().over("model", "dilemma"))
    named = top.group_by("model", "dilemma").agg(
        said=pl.when(pl.len() == 1).then(pl.col("value").first())
    )
    every = votes.select("model", "dilemma", "unit").unique()
    return every.join(named, on=["model", "dilemma"], how="left").sort("model", "dilemma")


def _of_model(votes: pl.DataFrame) -> dict[str, Any]:
    valid = votes.filter(pl.col("value").is_not_null())
    sided = valid.filter(pl.col("value") != NEITHER)
    games = sided.group_by("dilemma", "unit", "chosen", "rejected", maintain_order=True).agg(
        share=(pl.col("value") == pl.col("chosen")).mean()
    )
    priority = share(sided["value"] == sided["chosen"], sided["unit"])
    return {
        "asked": votes.height,
        "valid": valid.height,
        "neither": share(valid["value"] == NEITHER, valid["unit"]).plain(),
        "first": share(valid["place"] == 0, valid["unit"]).plain(),
        "priority": priority.plain(),
        "graph": win_graph(games.rename({"chosen": "one", "rejected": "two"})),
    }


def _agreement(votes: pl.DataFrame) -> dict[str, Any]:
    each = said(votes)
    wide = each.pivot("model", index=["dilemma", "unit"], values="said", sort_columns=True)
    wide = wide.sort("dilemma")
    models = [c for c in wide.columns if c not in ("dilemma", "unit")]
    pairs = [
        {
            "one": one,
            "other": other,
            "agreement": share(wide[one] == wide[other], wide["unit"]).plain(),
            "kappa": cohen_kappa(wide[one], wide[other], groups=wide["unit"]).plain(),
        }
        for one, other in combinations(models, 2)
    ]
    alpha = krippendorff_alpha(each["dilemma"], each["said"]) if len(models) > 1 else None
    return {"alpha": None if alpha is None else alpha.plain(), "pairs": pairs}
