"""The forms in which pairs go to TRL: as pairs, as chosen answers, as answers with a label."""

from __future__ import annotations

from typing import Any

import datasets

from trainers.methods.plan import Form


def in_form(rows: Any, form: Form, seed: int) -> Any:  # noqa: ANN401 - a dataset
    """Pairs in a form of TRL.

    Args:
        rows: a dataset with `prompt`, `chosen`, `rejected`, and columns beside them; or with
            `prompt` and `completion`, single answers.
        form: `pairs` and `answers` stay as they are; `chosen`: `prompt` and `completion`; `sides`:
            each answer as a `completion` with a Bool `label`, shuffled, as KTO must read them in
            their order.
        seed: of the shuffle.
    """
    if form in ("pairs", "answers"):
        return rows
    if "completion" in rows.column_names:  # single answers already
        return rows.shuffle(seed=seed, keep_in_memory=True) if form == "sides" else rows
    chosen = rows.remove_columns("rejected").rename_column("chosen", "completion")
    if form == "chosen":
        return chosen
    rejected = rows.remove_columns("chosen").rename_column("rejected", "completion")
    both = [
        side.add_column("label", [good] * len(side))
        for side, good in ((chosen, True), (rejected, False))
    ]
    return datasets.concatenate_datasets(both).shuffle(seed=seed, keep_in_memory=True)
