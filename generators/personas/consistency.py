"""Pairs of an answer in the style of its persona and one that drifted from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from generators.contests import BETTER, count_verdicts
from prefactory.asking import FORM_TOKENS, Asking, Task, fence
from prefactory.asking.forms import Form
from prefactory.context import Context
from prefactory.engines.configs import AnyEngine
from prefactory.measures.refusals import refuses
from prefactory.preferences.shares import wilson
from prefactory.prompts import Prompted
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import SCORE, SIDES, Shape, canonical_order, text_of, with_ids

_FORM = Form({"reason": "maybe", "better": ("A", "B", "tie")})
_CRITERION = "it is more helpful: more correct, more complete, and nearer to what was asked"


@dataclass
class _Topic(Task):
    """A pair whose answers are compared without regard to style."""

    request: str = ""
    first: str = ""
    second: str = ""
    verdict: str | None = None


class PersonaPairs(Prompted, Asking, Generator):
    """Pair, at each prompt, the answer nearest to the style of its persona with the farthest.

    Persona consistency after ConsiStyle (arXiv:2505.20626), in its text form (ours). Distances come
    from `labelers.PersonaStyle`; they must differ by `min_margin`. Answers that refuse are left
    out, and lengths must be within `length_ratio`. Where the table has a column `persona`, only
    answers of one persona are paired.

    Control: the same pairs under the anchor of a third persona, which must not tell chosen from
    rejected. If the 95 % interval (Wilson) of the share that it puts in the same order is more than
    `tolerance` from .5, personas differ in one thing alone, such as length, and no pair is written.

    A `judge` is asked in both orders which answer is more helpful; where it does not name the same
    one twice, `topic_checked` is true: the answers differ in style alone.

    New columns: `contrast` (`persona`), `margin`, `chosen_style_distance`,
    `rejected_style_distance` (Float32), `topic_checked` (Boolean), and all score columns of both
    sides. The state has the control: `pairs`, `share`, `low`, `high`, `passed`.

    Reasons: `no_distance`, `refuses`, `single_response`, `not_selected` (another answer is nearer
    or farther), `small_margin`, `length_ratio`, `control_failed`.

    Attributes:
        min_margin: of the distances.
        length_ratio: of the longer answer to the shorter, in characters, at most.
        tolerance: of the control (ours: of planted styles without such a fault, 4 to 20 personas in
            64 dimensions, the share is within .021 of .5).
        judge: compares helpfulness; null: nobody does.

    Example:
        - generators.PersonaPairs: {}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id", "rejected_id")
    templates: ClassVar = {"confirm": BETTER}

    min_margin: float = Field(default=0.2, gt=0)
    length_ratio: float = Field(default=2.0, gt=1)
    tolerance: float = Field(default=0.03, ge=0, lt=0.5)
    judge: AnyEngine | None = None

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The distances of own and third personas."""
        return {"style_distance": pl.Float32(), "style_third_distance": pl.Float32()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The distances, and whether helpfulness was compared."""
        distance = pl.Float32()
        return {"contrast": pl.String(), "margin": pl.Float64(), "topic_checked": pl.Boolean(),
                "chosen_style_distance": distance, "rejected_style_distance": distance}  # fmt: skip

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Two verdicts a prompt, with a judge."""
        if self.judge is None:
            return []
        return [Asks(self.judge, 2 * prompts, 2 * self.sampling.max_tokens, FORM_TOKENS)]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair a prompt."""
        return prompts, prompts

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to its pairs: the chosen id, and whether the third persona agrees.

        Returns:
            `chosen_id` (String) and `same` (Boolean; null where its distances are equal).
        """
        picked = self._picked(table).filter(pl.col("reason").is_null())
        both = _sides(picked)
        third = [pl.col(f"{side}_style_third_distance") for side in SIDES]
        same = pl.when(third[0] != third[1]).then(third[0] < third[1])
        return both.select("chosen_id", same=same)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Hold the control against chance."""
        told = parts["same"].drop_nulls()
        facts: dict[str, Any] = {"pairs": parts.height, "passed": True}
        if told.len():
            share = wilson(int(told.sum()), told.len())
            facts["passed"] = share.low - self.tolerance <= 0.5 <= share.high + self.tolerance
            facts["share"] = round(int(told.sum()) / told.len(), 4)
            facts |= {"low": round(share.low, 4), "high": round(share.high, 4)}
        return State({}, facts)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: RESPONSES with distances; all answers of a prompt are in it.
            ctx: holds the control; opens the judge.

        Returns:
            PAIRS in canonical order, and the answers in none.
        """
        picked = self._picked(table)
        facts = ctx.fitted.info
        if not facts["passed"]:
            detail = f"a third persona puts {facts['share']:.3f} of the pairs in the same order"
            picked = picked.with_columns(
                reason=pl.coalesce("reason", pl.lit("control_failed")), detail=pl.lit(detail)
            )
        fine = picked.filter(pl.col("reason").is_null())
        lost = picked.filter(pl.col("reason").is_not_null())
        dropped = lost.select(pl.col("response_id").alias("row_id"), "reason", "detail")
        return Generated(self._rows(table, fine, ctx), dropped)

    def _picked(self, table: pl.DataFrame) -> pl.DataFrame:
        """Every answer with its role (0 chosen, 1 rejected), or the reason why it has none."""
        text = text_of(pl.col("response")).fill_null("")
        persona = pl.col("persona") if "persona" in table.columns else pl.lit("")
        group = pl.concat_str("prompt_id", persona.cast(pl.String).fill_null(""), separator="/")
        rows = table.select(
            "response_id",
            "style_distance",
            "style_third_distance",
            text=text,
            length=text.str.len_chars(),
            group=group,
        )
        distance = pl.col("style_distance")
        rows = rows.with_columns(refuses(rows["text"]).alias("refusing")).with_columns(
            reason=pl.when(distance.is_null() | pl.col("style_third_distance").is_null())
            .then(pl.lit("no_distance"))
            .when("refusing")
            .then(pl.lit("refuses"))
        )
        live = rows.filter(pl.col("reason").is_null()).sort(
            "group", "style_distance", "response_id"
        )
        live = live.with_columns(
            place=pl.int_range(pl.len()).over("group"), of=pl.len().over("group")
        ).with_columns(
            role=pl.when(pl.col("place") == 0)
            .then(0)
            .when(pl.col("place") == pl.col("of") - 1)
            .then(1),
            margin=(distance.last() - distance.first()).over("group").cast(pl.Float64),
            ratio=_ratio().over("group"),
        )  # fmt: skip
        reason = (
            pl.when(pl.col("of") < 2)
            .then(pl.lit("single_response"))
            .when(pl.col("margin") < self.min_margin)
            .then(pl.lit("small_margin"))
            .when(pl.col("role").is_null())
            .then(pl.lit("not_selected"))
            .when(pl.col("ratio") > self.length_ratio)
            .then(pl.lit("length_ratio"))
        )
        detail = pl.format("distances {} apart", pl.col("margin").round(3))
        live = live.with_columns(reason=reason, detail=detail)
        gone = rows.filter(pl.col("reason").is_not_null()).with_columns(detail=pl.lit(""))
        return pl.concat([live.drop("place", "of", "ratio"), gone], how="diagonal")

    def _rows(self, table: pl.DataFrame, fine: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        scores = [c for c in table.columns if c.startswith(SCORE)]
        both = _sides(fine)
        ids = {side: both[f"{side}_id"] for side in SIDES}
        at = table.select("response_id").with_row_index("row")
        rows = []
        for side in SIDES:
            places = (
                ids[side]
                .to_frame("response_id")
                .join(at, on="response_id", how="left", maintain_order="left")["row"]
            )
            shared = ["prompt_id", "prompt", "source", "source_id"] if side == "chosen" else []
            columns = table.select(
                *shared,
                pl.col("response").alias(side),
                pl.col("response_id").alias(f"{side}_id"),
                pl.col("model").alias(f"{side}_model"),
                *(pl.col(c).alias(f"{side}_{c}") for c in scores),
            )
            rows.append(columns.select(pl.all().gather(places)))
        pairs = pl.concat(rows, how="horizontal").with_columns(
            both["chosen_style_distance"], both["rejected_style_distance"], both["margin"],
            pl.Series("topic_checked", self._checked(both, table, ctx), dtype=pl.Boolean),
            label_source=pl.lit("rule"), contrast=pl.lit("persona"),
        )  # fmt: skip
        return canonical_order(with_ids(pairs, Shape.PAIRS), Shape.PAIRS)

    def _checked(self, both: pl.DataFrame, table: pl.DataFrame, ctx: Context) -> list[bool]:
        """Whether a judge finds neither answer of a pair more helpful, whatever it reads first."""
        if self.judge is None or not both.height:
            return [False] * both.height
        asked = dict(table.select("response_id", text_of(pl.col("prompt"), "user")).iter_rows())
        orders: list[list[_Topic]] = []
        judge = self.asker(ctx, self.judge, greedy=True)
        for turned in (False, True):
            sides = SIDES[:: -1 if turned else 1]
            tasks = [
                _Topic(i, f"{row['chosen_id']}/{turned}", request=asked[row["chosen_id"]] or "",
                       first=row[f"{sides[0]}_text"], second=row[f"{sides[1]}_text"])
                for i, row in enumerate(both.iter_rows(named=True))
            ]  # fmt: skip
            question = partial(_question, partial(self.render, "confirm"))
            judge.forms(tasks, "topic", _FORM, question, _take)
            orders.append(tasks)
        every = [task for tasks in orders for task in tasks]
        faults = Counter(task.reason for task in every if task.reason is not None)
        said = [[task.verdict] for task in every if task.verdict is not None]
        count_verdicts(judge, faults, said, [task.row for task in every], even=True)
        return [
            there.verdict is not None and back.verdict is not None
            and (there.verdict, back.verdict) not in (("A", "B"), ("B", "A"))
            for there, back in zip(*orders, strict=True)
        ]  # fmt: skip


def _question(render: Callable[..., str], task: _Topic) -> str:
    return render(
        request=task.request,
        first=task.first,
        second=task.second,
        criterion=_CRITERION,
        mark=fence(task.request, task.first, task.second),
    )


def _take(task: _Topic, answer: dict[str, Any]) -> None:
    task.verdict = answer["better"]


def _ratio() -> pl.Expr:
    """Longer to shorter text of the nearest and the farthest answer of a prompt."""
    first, last = pl.col("length").first(), pl.col("length").last()
    return pl.max_horizontal(first, last) / pl.min_horizontal(first, last).clip(1)


def _sides(fine: pl.DataFrame) -> pl.DataFrame:
    """Chosen and rejected answers beside each other, in the order of the prompts."""
    columns = ("id", "style_distance", "style_third_distance", "text")
    parts = []
    for role, side in enumerate(SIDES):
        own = fine.filter(pl.col("role") == role).rename({"response_id": "id"})
        names = {c: f"{side}_{c}" for c in columns}
        keep = ["group", *columns, *(["margin"] if role == 0 else [])]
        parts.append(own.select(keep).rename(names))
    return parts[0].join(parts[1], on="group", how="inner").sort("group")
