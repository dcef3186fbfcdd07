"""Argilla 2: settings and records of a dataset, and the responses of its records.

Written to its documented records; its server needs Elasticsearch and was not run here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from prefactory.errors import DataError
from review.exchange.tasks import CHOICES, LEFT, RIGHT, SAID

QUESTION, COMMENT = "choice", "comment"


def settings() -> dict[str, Any]:
    """Fields and questions of a dataset, for `argilla.Settings`."""
    fields = [
        {"name": name, "title": name, "settings": {"type": "text", "use_markdown": True}}
        for name in ("prompt", LEFT, RIGHT)
    ]
    options = [{"value": c, "text": SAID[c], "description": None} for c in CHOICES]
    return {
        "guidelines": "Which of the two answers is better? Neither order nor length matters.",
        "fields": fields,
        "questions": [
            {
                "name": QUESTION, "title": "Which answer is better?", "required": True,
                "settings": {"type": "label_selection", "options": options},
            },
            {
                "name": COMMENT, "title": "Why?", "required": False,
                "settings": {"type": "text", "use_markdown": False},
            },
        ],
    }  # fmt: skip


def exported(tasks: pl.DataFrame) -> list[dict[str, Any]]:
    """Records: our pair id is the record's `id`; no suggestions, which would tell."""
    return [
        {"id": row["pair_id"], "fields": {n: row[n] for n in ("prompt", LEFT, RIGHT)}}
        for row in tasks.to_dicts()
    ]


def results(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What people said: submitted responses of records.

    Responses may be a mapping of questions to lists of `{value, user_id}`, as records are written
    to a file; a list of `{question_name, value, user_id, status}`; or a list of
    `{values: {question: {value}}, user_id, status}`, as the server's API gives them. Drafts and
    discarded ones are no votes.

    Raises:
        DataError: something is no record.
    """
    for number, record in enumerate(records, 1):
        row = record.get("id") or record.get("external_id") if isinstance(record, Mapping) else None
        if row is None:
            raise DataError(f"record {number} of the Argilla file has no id")
        said: dict[str, dict[str, Any]] = {}
        for question, value, user, told in _flat(record.get("responses") or ()):
            if told.get("status", "submitted") == "submitted":
                said.setdefault(user, {"at": told.get("updated_at") or told.get("inserted_at")})
                said[user][question] = value
        for user, answers in said.items():
            if answers.get(QUESTION) is not None:
                yield {
                    "row_id": row,
                    "person": f"argilla {user}",
                    "choice": answers[QUESTION],
                    "comment": answers.get(COMMENT),
                    "at": answers["at"],
                }


def _flat(
    responses: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, Any, str, Mapping[str, Any]]]:
    """Question, value, user and the rest of each response, in any of the three forms."""
    if isinstance(responses, Mapping):
        for question, given in responses.items():
            for one in given:
                yield question, one.get("value"), str(one.get("user_id")), one
        return
    for one in responses:
        user = str(one.get("user_id"))
        if "values" in one:
            for question, value in (one["values"] or {}).items():
                yield question, value.get("value"), user, one
        else:
            yield str(one.get("question_name")), one.get("value"), user, one
