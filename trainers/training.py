"""Training a transformer on a dataset version: one way for all methods."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import transformers

from prefactory.chat_template import ChatTemplate
from prefactory.errors import ConfigError, DataError
from prefactory.identity import fingerprint, identity_fields
from prefactory.measures.calibration import Floats
from prefactory.tables import SIDES
from trainers import checkpoints, settings
from trainers.answers import Comparison, compare
from trainers.base import DatasetRef, table
from trainers.columns import SIGN, checked, unread
from trainers.forms import in_form
from trainers.groups import CUT
from trainers.laying import LONG, Laid, layout, layout_answers, seen, together
from trainers.methods.plan import Plan
from trainers.metrics import (
    CONTEXT,
    PairMetrics,
    accuracy_by,
    pair_metrics,
    told_apart,
    warnings,
)
from trainers.objectives.frontier import Frontier, by_objective, explored, kept_beside
from trainers.once import once
from trainers.processes import first, model_folder, processes
from trainers.report import TrainingReport, transformer_card, write_options, write_reports
from trainers.running import arguments, check_machine, considerate, fit
from trainers.scoring import Sides, encoded, head_scores, log_probabilities
from trainers.scoring import token_counts as tokens
from trainers.settings import PolicySettings, TransformerSettings
from trainers.settings.trl_fields import options_class
from trainers.transformer import PACKAGES, load_model, load_tokenizer, lora_config, save

HELD_OUT = "held_out.parquet"
"""File of a trained model: `pair_id` and `margin` of the held-out pairs that it could read."""
_PLANS: Mapping[type[TransformerSettings], str] = {
    settings.SFT: "trl:plan_sft",
    settings.DPO: "trl:plan_dpo",
    settings.GoalDPO: "goal:plan_goal",
    settings.KTO: "unpaired:plan_kto",
    settings.CPO: "trl:plan_cpo",
    settings.SimPO: "trl:plan_cpo",
    settings.ORPO: "trl:plan_orpo",
    settings.Reward: "strength:plan_reward",
    settings.RACO: "raco:plan_raco",
    settings.Regression: "regression:plan_regression",
    settings.MAH: "mah:plan_mah",
    settings.BCO: "unpaired:plan_bco",
    settings.DCKD: "distil:plan_dckd",
    settings.ADPA: "distil:plan_adpa",
    settings.Stepwise: "stepwise:plan_stepwise",
    settings.PoFT: "unpaired:plan_poft",
    settings.SteerLM: "answers:plan_steerlm",
    settings.Listwise: "answers:plan_listwise",
    settings.RDPO: "near:plan_rdpo",
    settings.MORE: "sources:plan_more",
    settings.YaPO: "steering:plan_yapo",
}
"""Settings of a method -> what makes its plan, in `trainers.methods`."""


def plan_of(config: TransformerSettings, data: DatasetRef) -> Plan:
    """The plan of a method; only its own modules are imported.

    Raises:
        ConfigError: an option is given that the method decides itself.
    """
    module, _, name = _PLANS[type(config)].partition(":")
    plan: Plan = getattr(importlib.import_module(f"trainers.methods.{module}"), name)(config, data)
    if twice := sorted(plan.options.keys() & config.options().keys()):
        raise ConfigError(f"{plan.method} decides {', '.join(twice)} itself; leave it out")
    return plan


def train_transformer(
    config: TransformerSettings, data: DatasetRef, output: str | Path, cache: Path | None = None
) -> TrainingReport:
    """Train, measure and save a model.

    The reference of methods that have one is the model itself before training: its
    log-probabilities are computed once, so no second model is kept in memory. Writes the model and
    tokenizer, `training.json`, `README.md` and `report.html`. Checkpoints lie beside the folder
    until it is finished; the same call goes on from them.

    Args:
        config: the settings; their class says which method.
        data: the dataset version.
        output: folder of the model; must not exist, or be empty.
        cache: folder of tokenised rows; None: they are not kept.

    Raises:
        ConfigError: for a model or tokenizer that can't be used, or an impossible setting.
        DataError: if no training pair can be used, or a column that the method reads is missing or
            has a value that can't be used.
    """
    check_machine(config)
    if config.lora is not None:
        lora_config(config.lora, "CAUSAL_LM", [])  # whether peft is there
    plan = plan_of(config, data)
    data = plan.data or data
    free = plan.columns if plan.single else plan.optional
    checked(data, [c for c in plan.columns if c != "margin"], plan.method, free)
    notes = (*plan.notes, *unread(data, plan.columns, plan.method))
    final = Path(output)
    unfinished = checkpoints.checkpoints_of(final)
    frontier = _frontier(config, plan, data, final, cache)
    with model_folder(final) as folder, considerate():
        run = _Run.begin(config, plan, data)
        report = run.report(folder, unfinished, final, notes, cache, frontier)
    if first():
        for beside in (unfinished, kept_beside(final)):
            shutil.rmtree(beside, ignore_errors=True)
    return report


def _frontier(
    config: TransformerSettings, plan: Plan, data: DatasetRef, final: Path, cache: Path | None
) -> Frontier | None:
    """Trainings for other weights of the objectives, where they are asked for."""
    if not getattr(config, "frontier", 0):
        return None

    def margins(one: TransformerSettings, ref: DatasetRef, folder: Path) -> pl.DataFrame:
        train_transformer(one, ref, folder, cache)
        return pl.read_parquet(folder / HELD_OUT)

    return explored(config, [c.removeprefix(SIGN) for c in plan.columns], data, final, margins)


@dataclass
class _Run:
    """One training: what it reads, and what it writes."""

    config: TransformerSettings
    plan: Plan
    data: DatasetRef
    template: ChatTemplate
    train: Laid
    test: Laid
    held: Sides
    rows: Any
    long: int
    margins: pl.DataFrame | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: TransformerSettings, plan: Plan, data: DatasetRef) -> _Run:
        """Load the tokenizer, and lay out the pairs."""
        template = ChatTemplate(load_tokenizer(config), config.model)
        train, test = (_laid(config, plan, data, split, template) for split in ("train", "test"))
        whole = plan.task != "CausalLM"
        names = ("completion",) if plan.single else SIDES

        def read(rows: Any) -> Sides:  # noqa: ANN401
            return encoded(template, rows, config.max_length, whole, names)

        if not any(read([row]).pairs for row in train.rows):
            why = "longer than max_length" if whole else "its prompt fills max_length"
            none = "pair of {} is a tie" if len(names) == 2 else "answer of {} lacks a column"
            raise DataError(f"every training {none.format(data)}, or {why}")
        held = read(test.rows)
        rows, long = train.rows, 0
        if plan.compared and config.max_steps:
            batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
            rows, long = seen(
                train.rows,
                config.max_steps * batch * processes(),
                config.seed,
                lambda row: bool(read([row]).pairs),
            )
        return cls(config, plan, data, template, train, test, held, rows, long)

    def notes(self) -> list[str]:
        """What a reader must know of the rows."""
        n, all_rows = len(self.rows), len(self.train.rows)
        if n + self.long >= all_rows:
            return []
        return [
            f"{self.config.max_steps} steps see {n} of {all_rows} training pairs, drawn by the seed"
        ]

    def report(
        self,
        folder: Path,
        unfinished: Path,
        final: Path,
        notes: Sequence[str],
        cache: Path | None,
        frontier: Frontier | None,
    ) -> TrainingReport:
        """Train, measure, save, and write the reports."""
        trainer, given = self._trainer(unfinished, cache)
        config, plan = self.config, self.plan
        start = None
        if config.save_strategy != "no":
            with trainer.args.main_process_first():
                start = checkpoints.opened(unfinished, self._identity())
        before = self._logs(trainer) if plan.compared else None
        comparison = self._comparison()
        comparison.answer(trainer.model)
        facts = fit(trainer, config, start)
        if plan.finish is not None:
            plan.finish(trainer, folder)
        comparison.answer(trainer.model)
        metrics = self._measured(trainer, before)
        kept = len(trainer.train_dataset)
        left: dict[str, int] = getattr(trainer, "left", {})
        lost = int((~self.held.kept).sum()) + self.long
        lost += given - kept - sum(left.values()) if plan.counts else 0
        facts |= {**self._cut(trainer), **self._by_objective(), **self.parts}
        report = TrainingReport(
            method=plan.method,
            folder=final,
            dataset=self.data,
            config=config.model_dump(mode="json"),
            train=None,
            test=metrics,
            dropped=together(self.train.dropped, self.test.dropped, {self._long(): lost}, left),
            facts=facts,
            notes=(
                *self.train.notes,
                *notes,
                *self.notes(),
                *self._said(facts, metrics),
            ),
            answers=comparison.compared(),
            frontier=frontier,
        )
        save(trainer, folder)
        if first():
            if config.keep_checkpoints:
                checkpoints.kept(unfinished, folder)
            checkpoints.logs(unfinished, folder)
            text = transformer_card(report, plan.about, plan.task, plan.outputs)
            write_reports(folder, report, text, PACKAGES)
            write_options(folder, plan.method, config)
            if self.margins is not None:
                self.margins.write_parquet(folder / HELD_OUT)
        return report

    def _trainer(self, unfinished: Path, cache: Path | None) -> tuple[Any, int]:
        """TRL's trainer, and how many rows it was given."""
        config, plan = self.config, self.plan
        tokenizer = self.template.tokenizer
        taken = arguments(config, unfinished, self.held.pairs > 0)
        args = options_class(config.trl_options)(**taken, **plan.options)
        prepare = plan.prepare or (lambda rows: rows)
        train = in_form(prepare(self.rows), plan.form, config.seed)
        held = None
        if taken["eval_strategy"] != "no":
            held = in_form(prepare(self.test.rows), plan.form, config.seed)
        auto = getattr(transformers, f"AutoModelFor{plan.task}")
        loads = dict(plan.loads)
        if plan.task != "CausalLM":
            loads["num_labels"] = plan.outputs
        model = load_model(auto, config, **loads)
        if plan.task != "CausalLM":
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        lora = None
        if config.lora is not None:
            whole = [n for n in ("score", "classifier") if hasattr(model, n)]
            lora = lora_config(config.lora, _LORA[plan.task], whole)
        trainer = once(plan.trainer, cache)(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=held,
            processing_class=tokenizer,
            peft_config=lora,
            **self._reference(model),
        )
        return trainer, len(train)

    def _reference(self, model: Any) -> dict[str, Any]:  # noqa: ANN401
        """A second model, where the reference moves and can't be computed once."""
        if not self.config.options().get("sync_ref_model"):
            return {}
        return {"ref_model": load_model(type(model), self.config)}

    def _comparison(self) -> Comparison:
        rows = self.test.rows if len(self.test.rows) else self.train.rows
        if isinstance(self.config, PolicySettings):
            return compare(self.template, rows, self.config)
        return Comparison(self.template, [], 0, 1, self.config.max_length)

    def _identity(self) -> str:
        config = self.config
        return fingerprint(
            [self.plan.method, identity_fields(config), self.data.digest, self.data.table]
        )

    def _logs(self, trainer: Any) -> Floats:  # noqa: ANN401
        size, pad = self.config.per_device_eval_batch_size, self.template.tokenizer.pad_token_id
        with trainer.accelerator.autocast():
            return log_probabilities(trainer.model, self.held, size, pad)

    def _measured(self, trainer: Any, before: Floats | None) -> PairMetrics | None:  # noqa: ANN401
        """Metrics of the trained model on the held-out pairs that fit."""
        n = self.held.pairs
        if not n:
            return None
        if self.plan.single:
            self.parts = self._of_answers(trainer, before)
            return None
        score = self.plan.score
        if score is not None:
            now = self._logs(trainer)
            scores = score(now, np.zeros(2 * n) if before is None else before, tokens(self.held))
        else:
            size, pad = self.config.per_device_eval_batch_size, self.template.tokenizer.pad_token_id
            with trainer.accelerator.autocast():
                scores = self.plan.of_head(head_scores(trainer.model, self.held, size, pad))
        margins = scores[:n] - scores[n:]
        kept = np.flatnonzero(self.held.kept).tolist()
        rows = self.test.rows.select(kept)
        gap = np.asarray(rows["margin"][:]) if self.plan.apart else 0.0
        losses = np.logaddexp(0.0, -(margins - gap))
        ids = pl.DataFrame({"pair_id": rows["pair_id"][:]})
        self.margins = ids.with_columns(margin=pl.Series(margins, dtype=pl.Float64))
        if self.plan.by is not None:
            self.parts = accuracy_by(margins, rows[self.plan.by][:])
        context = table(self.data.pairs("test"), CONTEXT)
        return pair_metrics(margins, losses, ids.join(context, on="pair_id", maintain_order="left"))

    def _by_objective(self) -> dict[str, float]:
        """Held-out accuracy by objective, where pairs have signs of them."""
        signs = {c.removeprefix(SIGN): c for c in self.plan.columns if c.startswith(SIGN)}
        if self.margins is None or not signs:
            return {}
        found = by_objective(self.margins, self.data, signs)
        return {f"accuracy by {name}": v for name, v in found.items() if not np.isnan(v)}

    def _of_answers(self, trainer: Any, before: Floats | None) -> Mapping[str, float]:  # noqa: ANN401
        """What the trained model makes of held-out single answers."""
        rows = self.test.rows.select(np.flatnonzero(self.held.kept).tolist())
        if self.plan.measure is not None:
            return self.plan.measure(trainer, rows)
        if self.plan.score is None or before is None:
            raise TypeError(f"{self.plan.method} does not say how single answers are measured")
        scores = self.plan.score(self._logs(trainer), before, tokens(self.held))
        prepared = rows if self.plan.prepare is None else self.plan.prepare(rows)
        return told_apart(scores, prepared["label"][:])

    def _said(self, facts: Mapping[str, float], metrics: PairMetrics | None) -> list[str]:
        """Notes on rows that were cut, and on the held-out ones."""
        notes = _cut_note(facts)
        if not self.parts:
            return [*notes, *warnings(metrics)]
        parts = ", ".join(f"{name} {value:.4g}" for name, value in self.parts.items())
        return [*notes, f"held out: {parts}", *(warnings(metrics) if metrics else ())]

    def _long(self) -> str:
        return f"prompt {LONG}" if self.plan.task == "CausalLM" else LONG

    def _cut(self, trainer: Any) -> dict[str, float]:  # noqa: ANN401
        rows, columns = trainer.train_dataset, ("prompt_ids", "chosen_ids", "rejected_ids")
        if CUT in rows.column_names:
            return {"truncated_answers": float(sum(rows[CUT]))}
        if not set(columns) <= set(rows.column_names):
            return {}
        sizes = zip(*(map(len, rows[c]) for c in columns), strict=True)
        return {
            "truncated": float(sum(p + max(c, r) > self.config.max_length for p, c, r in sizes))
        }


def _laid(
    config: TransformerSettings, plan: Plan, data: DatasetRef, split: str, template: ChatTemplate
) -> Laid:
    """The rows of a split, whatever they are."""
    if plan.single:
        return layout_answers(data, split, template, config.ignored_system, plan.columns)
    columns = [c for c in plan.columns if c != "margin"]
    margin = "margin" in plan.columns
    return layout(data, split, template, config.ignored_system, margin, columns, plan.whole)


_LORA = {
    "CausalLM": "CAUSAL_LM",
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
}
"""Kind of model -> peft's name of the task."""


def _cut_note(facts: Mapping[str, float]) -> list[str]:
    names = {"pairs": "truncated", "answers": "truncated_answers"}
    cut = {what: facts.get(name, 0) for what, name in names.items()}
    return [f"{n:.0f} training {what} were cut at max_length" for what, n in cut.items() if n]
