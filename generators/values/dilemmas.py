"""Value dilemmas: from values to rules, to scenes where two rules collide, to pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from catalog.values import coverage, facts
from generators.answers.step import Origin
from generators.made_rows import ORIGINS, PARENT, children, sides, text_column, turns
from generators.new_prompts.rules import nearest_rouge_l, unwanted
from generators.values.rules import (
    RULE,
    Rule,
    merge,
    read_rule,
    same_rules,
    scenes_of,
    table_of,
)
from generators.values.values import Ranked, least_covered, ranked
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    fence,
    lost,
    missed,
    open_tasks,
    request_text,
    unrated,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.identity import fingerprint
from prefactory.measures.diversity import tokens
from prefactory.measures.overlap import rouge_l
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import Shape

_TEXTS = "generators/values/prompts/dilemmas"
LETTERS = ("A", "B", "C")
NEITHER = "neither"
"""What stands in `option_map` for the option that keeps no rule."""

SAME_ACT = 0.9
"""ROUGE-L F1 from which two acts are one: judged twice, it is no conflict of values."""

OPTIONS: pl.DataType = pl.Struct(dict.fromkeys(LETTERS, pl.String))
SCENE = Form(dict.fromkeys(("scene", "question", "keeps_first", "keeps_second", NEITHER), "text"))
CHECK = Form({"first_applies": "flag", "second_applies": "flag", "both_can_be_kept": "flag"})


TEMPLATES = {
    "rule": Text(f"{_TEXTS}/rule.j2", ("value", "situation", "words", "mark")),
    "dilemma": Text(
        f"{_TEXTS}/dilemma.j2", ("first", "second", "situation", "number", "count", "mark")
    ),
    "check": Text(f"{_TEXTS}/check.j2", ("first", "second", "scene", "mark")),
    "answer": Text(f"{_TEXTS}/answer.j2", ("scene", "question", "option", "rule", "words", "mark")),
}
"""Texts of the step by name."""


@dataclass
class Dilemma(Task):
    """One scene between two rules; the first of each two is the one that is chosen.

    Attributes:
        number: of the row's dilemmas, from 0.
        rules: that of the chosen value first.
        turned: the writer is shown the other rule first, so that no value gains by its place.
        options: what keeps each rule, in their order, and what keeps neither.
        order: which option is A, B and C.
    """

    number: int = 0
    rules: tuple[Rule, Rule] = field(default_factory=lambda: (Rule(0, ""), Rule(0, "")))
    turned: bool = False
    scene: str = ""
    question: str = ""
    options: tuple[str, str, str] = ("", "", "")
    answers: list[str] = field(default_factory=list)
    order: tuple[int, ...] = (0, 1, 2)

    @property
    def asked(self) -> str:
        """Scene and question: the prompt of the pair."""
        return f"{self.scene}\n\n{self.question}"

    @property
    def rule_texts(self) -> tuple[str, str]:
        """Of the chosen value first."""
        return self.rules[0].text, self.rules[1].text

    @property
    def shown(self) -> tuple[str, str]:
        """The rules in the order in which models see them."""
        first, second = self.rule_texts
        return (second, first) if self.turned else (first, second)

    def agree(self) -> None:
        """Fail where a rule failed, or where both rules judge one act."""
        for rule in self.rules:
            if rule.reason is not None:
                self.fail(rule.reason, rule.detail or "")
                return
        first, second = (tokens(rule.act) for rule in self.rules)
        if rouge_l(first, second) >= SAME_ACT:
            self.fail("same_act", " / ".join(self.rule_texts))


def lettered(things: tuple[str, ...], order: tuple[int, ...]) -> dict[str, str]:
    """Three things by the letters under which they stand; `order` tells which is A, B and C."""
    return {letter: things[place] for letter, place in zip(LETTERS, order, strict=True)}


class Dilemmas(Gated, Prompted, Asking, Generator):
    """Make pairs whose two answers argue from two values, the one declared first being chosen.

    After CVC: for each row, whose prompt is a situation, two values are drawn, least covered first;
    a model writes a rule of conduct for each (a judgement and an act), scenes in which both rules
    apply and only one can be kept, three options (one of them beside the point), and one full
    answer from each rule. Which answer is chosen follows from `priority` alone, never from the
    model that writes: `label_source` is `rule`.

    Rules are the value's, not the situation's: before any scene is written, those of one value that
    say the same (`same_rule`, CVC's cosine of .8, with a guard for polarity: "right to keep a
    promise" and "wrong to keep a promise" have .95) become one, and no rule is in more than
    `rule_scenes` scenes. All rules are asked for at the start, so the journal answers them later; a
    rule that a server failed on then, and gives later, stands for itself.

    CVC pairs rules that are alike and contradict each other by an NLI model, which favours one act
    judged twice over two values in conflict. Here two different values meet in one situation, and
    a model confirms that both rules apply. Options are put in order by (recipe seed, step, id), and
    `option_map` tells which value each letter keeps. Texts and numbers are ours.

    New columns: `source_prompt_id`, `value_system`, `value_ids` (List[String], chosen first),
    `chosen_value`, `rejected_value`, `rule_ids` (List[String]), `chosen_rule`, `rejected_rule`,
    `scenario`, `options` and `option_map` (structs of A, B, C; `neither` keeps no rule), and the
    sides' origins. The prompt is scene and question. What values were drawn stands in the report
    under "Learned from the data"; remove near copies of scenes with `filters.NearDuplicates` or
    `filters.SemanticDuplicates`.

    Reasons, for rows without a dilemma, that of the first: `no_situation`, `rule_used_up` (one of
    its rules has its scenes in other situations), `same_act` (both rules
    judge one act), `names_value` (scene or question names a value by its label), `same_scene`,
    `no_conflict`, `same_text`, `too_long` (a rule), `unparseable`, those of
    the gate, and those of the engines.

    Attributes:
        writer: writes rules and scenes.
        priority: nodes of the value system, the most important first; a leaf has the place of the
            nearest node above it that is named, and leaves without a place are not drawn.
        values: name of the value system, or a YAML file of your own.
        sensitive: use a value system that is marked as sensitive.
        opposed: let only values meet that the system calls opposed.
        dilemmas: scenes per row (CVC: at least five per pair of rules).
        answerer: writes the answers; null takes the writer.
        judge: confirms that both rules apply; null takes the writer.
        confirm: whether anybody is asked that.
        same_rule: least cosine of rules of one value that are the same; null: only equal texts are.
        rule_scenes: scenes that a rule is in at most (CVC: 20); null: any number. Both null: rules
            are asked for shard by shard, and no encoder is needed.
        encoder: of rules.
        rule_words: of a rule, at most.
        answer_words: that an answer is told to have.
        sampling: how rules and scenes are drawn.
        answer_sampling: how answers are drawn.
        max_similarity: greatest ROUGE-L F1 of two scenes of one row.
        origin: of the answers.

    Example:
        - generators.Dilemmas:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
            priority: [benevolence, power]
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "dataset"
    version: ClassVar[int] = 3
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = TEMPLATES

    writer: AnyEngine
    priority: tuple[str, ...] = Field(min_length=2)
    values: str = Field(default="schwartz10", min_length=1)
    sensitive: bool = False
    opposed: bool = False
    dilemmas: int = Field(default=5, ge=1, le=100)
    answerer: AnyEngine | None = None
    judge: AnyEngine | None = None
    confirm: bool = True
    same_rule: float | None = Field(default=0.8, gt=0, le=1)
    rule_scenes: int | None = Field(default=20, ge=1)
    encoder: Encoder = Encoder()
    rule_words: int = Field(default=25, ge=5)
    answer_words: int = Field(default=120, ge=10)
    answer_sampling: SamplingParams = SamplingParams(max_tokens=512)
    max_similarity: float = Field(default=0.7, gt=0, le=1)
    origin: Origin = "open_model"
    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    @model_validator(mode="after")
    def _validate_values(self) -> Self:
        system = self._ranked().system
        if system.sensitive and not self.sensitive:
            raise ValueError(f"values: {system.system} is sensitive ({system.note}); allow it")
        if self.judge is not None and not self.confirm:
            raise ValueError("judge: nobody is asked with `confirm: false`")
        return self

    def _ranked(self) -> Ranked:
        return ranked(self.values, self.priority, self.opposed)

    def identity(self) -> dict[str, Any]:
        """Fields, and what stands in the value system."""
        used = self._ranked().system.model_dump(mode="json")
        return {**super().identity(), "system": used}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Values, rules, and the options."""
        text, texts = pl.String(), pl.List(pl.String)
        names = ("chosen_value", "rejected_value", "chosen_rule", "rejected_rule", "scenario")
        return {
            PARENT: text,
            "value_system": text,
            "value_ids": texts,
            **dict.fromkeys(names, text),
            "rule_ids": texts,
            "options": OPTIONS,
            "option_map": OPTIONS,
            **ORIGINS,
        }

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Two rules a row; a scene, a check and two answers per dilemma."""
        scenes = rows * self.dilemmas
        asks = [Asks(self.writer, 2 * rows + scenes, QUESTION_TOKENS, FORM_TOKENS)]
        if self.confirm:
            judge = self.judge or self.writer
            asks.append(Asks(judge, scenes, QUESTION_TOKENS, FORM_TOKENS))
        answerer = self.answerer or self.writer
        return [
            *asks,
            Asks(answerer, 2 * scenes, QUESTION_TOKENS, self.answer_sampling.max_tokens),
        ]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair per dilemma."""
        return rows * self.dilemmas, rows * self.dilemmas

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to its situations: `prompt_id` and `situation` (String)."""
        situations = [request_text(prompt).strip() for prompt in table["prompt"].to_list()]
        return table.select("prompt_id", situation=pl.Series(situations, dtype=pl.String))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Give every situation its two values, and find the rules that are the same.

        Returns:
            State with the tables `pairs` (`prompt_id`, `first` and `second`, numbers of leaves, and
            `scenes`) and `merged` (see `generators.values.rules.MERGED`); its `info` has the
            coverage of what was drawn, the declared order, and how many rules there are.

        Raises:
            ConfigError: `same_rule` is set and the run has no encoder.
        """
        values = self._ranked()
        order = ctx.uniform(parts["prompt_id"], "order").arg_sort()
        ordered = parts.select(pl.all().gather(order))
        drawn = least_covered(ordered.height, values.partners, ctx.rng("values"))
        names = pl.Series([values.system.value_id(n.id) for n in values.leaves], dtype=pl.String)
        pairs = pl.DataFrame(
            {"prompt_id": ordered["prompt_id"], "first": drawn[:, 0], "second": drawn[:, 1]}
        )
        both = pairs.select(
            pl.concat_list(
                names.gather(pairs["first"]).alias("a"), names.gather(pairs["second"]).alias("b")
            )
        ).to_series()
        merged, scenes, counts = self._shared(
            ordered.hstack(pairs.drop("prompt_id").get_columns()), ctx
        )
        pairs = pairs.with_columns(scenes=pl.Series(scenes, dtype=pl.Int64))
        info = {
            "value_system": values.system.system,
            "priority": list(self.priority),
            "situations": ordered.height,
            **counts,
            "coverage_of_draws": facts(coverage(both, values.system)),
        }
        return State({"pairs": pairs.sort("prompt_id"), "merged": merged}, info)

    def _shared(
        self, drawn: pl.DataFrame, ctx: Context
    ) -> tuple[pl.DataFrame, list[int], dict[str, int]]:
        """Same rules, scenes of each situation, and counts for the report.

        Args:
            drawn: `prompt_id`, `situation`, `first` and `second`, in the order of their right.
            ctx: opens the writer and the encoder.
        """
        merged = same_rules(table_of([]), np.zeros((0, 1)), 1.0)
        if self.same_rule is None and self.rule_scenes is None:
            return merged, [self.dilemmas] * drawn.height, {}
        rules = self._rules(drawn, ctx)
        written = table_of(rules)
        if self.same_rule is not None and written.height:
            if ctx.embed is None:
                raise ConfigError(
                    "generators.Dilemmas needs an encoder to find rules that are the same, and "
                    "this run has none; set same_rule: null"
                )
            vectors = np.asarray(ctx.embed(self.encoder, written["text"]), dtype=np.float32)
            merged = same_rules(written, vectors, self.same_rule)
        merge(rules, merged)
        scenes = scenes_of(rules, self.dilemmas, self.rule_scenes)
        counts = {"rules_written": written.height, "rules": written.height - merged.height}
        return merged, scenes, counts

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the dilemmas of a table's situations.

        Args:
            table: PROMPTS.
            ctx: holds the values; opens the models; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the situations without a dilemma.
        """
        tasks = self._planned(table, ctx)
        keys = pl.Series([t.key for t in tasks], dtype=pl.String)
        ways = list(permutations(range(3)))
        lots = zip(ctx.uniform(keys, "options"), ctx.uniform(keys, "turned"), strict=True)
        for task, (lot, side) in zip(tasks, lots, strict=True):
            task.order, task.turned = ways[int(lot * len(ways))], side < 0.5
        self._scenes(tasks, ctx)
        if self.confirm:
            self._checks(tasks, ctx)
        self._answers(tasks, ctx)
        return Generated(
            self._rows(table, open_tasks(tasks)), lost(table["prompt_id"], tasks), missed(tasks)
        )

    def _planned(self, table: pl.DataFrame, ctx: Context) -> list[Dilemma]:
        """The scenes of each situation with their rules; one that failed if it gets none."""
        drawn = self.fit_shard(table, ctx).join(
            ctx.fitted.tables["pairs"], on="prompt_id", how="left", maintain_order="left"
        )
        rules = self._rules(drawn, ctx)
        merge(rules, ctx.fitted.tables["merged"])
        tasks = []
        for row, pair in enumerate(zip(rules[::2], rules[1::2], strict=True)):
            scenes = int(drawn["scenes"][row])
            for number in range(max(scenes, 1)):
                task = Dilemma(row, f"{drawn['prompt_id'][row]}/{number}", number=number)
                task.rules = pair
                task.agree()
                if task.reason is None and not scenes:
                    task.fail("rule_used_up", " / ".join(task.rule_texts))
                tasks.append(task)
        return tasks

    def _rules(self, drawn: pl.DataFrame, ctx: Context) -> list[Rule]:
        """Two rules per row, that of the chosen value first; see `_shared` for the columns."""
        values = self._ranked()
        rules = []
        rows = drawn.select("prompt_id", "situation", "first", "second").iter_rows()
        for row, (key, situation, first, second) in enumerate(rows):
            for value in values.chosen_first((first, second)):
                rule = Rule(row, f"{key}/{value.id}", situation=situation, value=value)
                if not situation:
                    rule.fail("no_situation", "the prompt has no text")
                rules.append(rule)

        def question(rule: Rule) -> str:
            node = rule.value
            assert node is not None  # noqa: S101 - set above
            value = {
                "label": node.label,
                "definition": node.definition.rstrip("."),
                "above": values.above(node),
            }
            mark = fence(rule.situation)
            return self.render(
                "rule", value=value, situation=rule.situation, words=self.rule_words, mark=mark
            )

        def take(rule: Rule, parsed: tuple[str, str]) -> None:
            rule.text, rule.act = parsed

        read = partial(read_rule, most=self.rule_words)
        self.asker(ctx, self.writer).parsed(
            rules, "rule", read, question, take, RULE.schema, lambda rule: rule[0]
        )
        return rules

    def _scenes(self, tasks: list[Dilemma], ctx: Context) -> None:
        def question(task: Dilemma) -> str:
            first, second = task.shown
            return self.render(
                "dilemma",
                first=first,
                second=second,
                situation=task.rules[0].situation,
                number=task.number + 1,
                count=self.dilemmas,
                mark=fence(first, second, task.rules[0].situation),
            )

        def take(task: Dilemma, answer: dict[str, Any]) -> None:
            task.scene, task.question = answer["scene"], answer["question"]
            keeps = [answer["keeps_first"], answer["keeps_second"]]
            first_keeps, second_keeps = reversed(keeps) if task.turned else keeps
            task.options = (first_keeps, second_keeps, answer[NEITHER])
            labels = [r.value.label for r in task.rules if r.value is not None]
            if (label := unwanted(task.asked, labels)) is not None:
                task.fail("names_value", f"it says {label!r}")

        self.asker(ctx, self.writer).forms(
            tasks, "scene", SCENE, question, take, lambda scene: str(scene["scene"])
        )
        scenes: dict[int, list[str]] = {}
        for task in open_tasks(tasks):
            before = scenes.setdefault(task.row, [])
            if (likeness := nearest_rouge_l(task.scene, before)) > self.max_similarity:
                task.fail("same_scene", f"ROUGE-L {likeness:.3f} with another of its row")
            else:
                before.append(task.scene)

    def _checks(self, tasks: list[Dilemma], ctx: Context) -> None:
        def question(task: Dilemma) -> str:
            first, second = task.shown
            mark = fence(first, second, task.asked)
            return self.render("check", first=first, second=second, scene=task.asked, mark=mark)

        def take(task: Dilemma, answer: dict[str, Any]) -> None:
            if not (answer["first_applies"] and answer["second_applies"]):
                task.fail("no_conflict", "a rule does not apply")
            elif answer["both_can_be_kept"]:
                task.fail("no_conflict", "both rules can be kept")

        judge = self.judge or self.writer
        self.asker(ctx, judge, greedy=True).forms(
            tasks, "check", CHECK, question, take, says=unrated
        )

    def _answers(self, tasks: list[Dilemma], ctx: Context) -> None:
        answerer = self.asker(ctx, self.answerer or self.writer, self.answer_sampling)
        for side in (0, 1):

            def question(task: Dilemma, side: int = side) -> str:
                return self.render(
                    "answer",
                    scene=task.scene,
                    question=task.question,
                    option=task.options[side],
                    rule=task.rules[side].text,
                    words=self.answer_words,
                    mark=fence(task.asked, task.options[side], task.rules[side].text),
                )

            def take(task: Dilemma, text: str) -> None:
                if text in task.answers:
                    task.fail("same_text", "both answers say the same")
                task.answers.append(text)

            answerer.texts(tasks, f"answer {side}", question, take)

    def _rows(self, table: pl.DataFrame, fine: list[Dilemma]) -> pl.DataFrame:
        system = self._ranked().system
        ids = [
            tuple(system.value_id(r.value.id) for r in t.rules if r.value is not None) for t in fine
        ]
        name = (self.answerer or self.writer).model
        new = {
            "prompt": turns([t.asked for t in fine], "user"),
            "value_system": text_column([system.system] * len(fine)),
            "value_ids": (pl.List(pl.String), [list(pair) for pair in ids]),
            "rule_ids": (
                pl.List(pl.String),
                [[fingerprint(["rule", text]) for text in t.rule_texts] for t in fine],
            ),
            "scenario": text_column([t.scene for t in fine]),
            "options": (OPTIONS, [lettered(t.options, t.order) for t in fine]),
            "option_map": (
                OPTIONS,
                [lettered((*pair, NEITHER), t.order) for pair, t in zip(ids, fine, strict=True)],
            ),
            **sides(
                [(t.answers[0], t.answers[1]) for t in fine],
                (name, name),
                (self.origin, self.origin),
                "rule",
            ),
        }
        for i, side in enumerate(("chosen", "rejected")):
            new[f"{side}_value"] = text_column([pair[i] for pair in ids])
            new[f"{side}_rule"] = text_column([t.rule_texts[i] for t in fine])
        return children(table, [t.row for t in fine], new, Shape.PAIRS, PARENT)
