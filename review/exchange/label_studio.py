"""Label Studio: a labelling interface, tasks to import, and the annotations of its JSON export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import polars as pl

from prefactory.errors import DataError
from review.exchange.tasks import CHOICES, FIELDS, SAID

_CHOICES = "\n".join(
    f"    <Choice value={quoteattr(c)} alias={quoteattr(c)} hint={quoteattr(SAID[c])}/>"
    for c in CHOICES
)
CONFIG = f"""<View>
  <Text name="prompt" value="$prompt"/>
  <View style="display: flex; gap: 1em">
    <View style="flex: 50%"><Header value="left"/><Text name="left" value="$left"/></View>
    <View style="flex: 50%"><Header value="right"/><Text name="right" value="$right"/></View>
  </View>
  <Choices name="choice" toName="prompt" choice="single" required="true" showInLine="true">
{_CHOICES}
  </Choices>
  <TextArea name="comment" toName="prompt" placeholder="why" rows="2"/>
</View>
"""
"""The labelling interface of a project. Text tags show text, never HTML."""


def exported(tasks: pl.DataFrame) -> list[dict[str, Any]]:
    """Tasks for `Import` or `POST /api/projects/ID/import`; no predictions, which would tell."""
    return [{"data": row} for row in tasks.select(FIELDS).to_dicts()]


def results(export: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What people said in a JSON export (`exportType=JSON`); skipped tasks are no votes.

    Raises:
        DataError: it is no such export, or a task lacks our `pair_id`.
    """
    for number, task in enumerate(export, 1):
        data = task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping) or "pair_id" not in data:
            raise DataError(
                f"task {number} of the Label Studio export has no data.pair_id: it is not one that "
                "`prefactory votes export --to label-studio` made"
            )
        for one in task.get("annotations") or ():
            choice, comment = _said(one.get("result") or ())
            if one.get("was_cancelled") or choice is None:
                continue
            lead = one.get("lead_time")
            yield {
                "row_id": data["pair_id"],
                "person": _person(one.get("completed_by")),
                "choice": choice,
                "comment": comment,
                "at": one.get("updated_at") or one.get("created_at"),
                "ms": None if lead is None else round(1000 * float(lead)),
            }


def _said(parts: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Choice and comment of one annotation, from `<Choices>` or `<Pairwise>`."""
    choice, comment = None, None
    for part in parts:
        value = part.get("value") or {}
        if part.get("type") == "choices" and value.get("choices"):
            choice = str(value["choices"][0])
        elif part.get("type") == "pairwise" and value.get("selected"):
            choice = str(value["selected"])
        elif part.get("type") == "textarea" and value.get("text"):
            text = value["text"]
            comment = "\n".join(text) if isinstance(text, list) else str(text)
    return choice, comment


def _person(by: object) -> str:
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return f"label-studio {by}"
