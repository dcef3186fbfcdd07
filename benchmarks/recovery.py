"""Does each method of training find a utility that was planted, and how fast does it lose it?

    python -m benchmarks.recovery [--methods "dpo;more"] [--flips 0,0.1,0.2,0.3,0.4,0.5]
        [--seeds 2] [--frontier 4] [--page docs/recovery.md]

Answers are six words out of twelve, and a word has a value: the utility of an answer is the sum.
Labels (or scores, weights, signs, whatever a method reads) follow the utility, and a share of them
is turned round. A tiny Llama that was never trained learns from 320 pairs or 160 prompts with four
answers, and is held against 300 pairs that it did not see, with right labels. Every figure is kept
in `--results` as soon as it is there, so that a benchmark that was cut short goes on with the next
run, and seeds and shares can be added later.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from pydantic import BaseModel

from benchmarks.dpo_worth import version_of
from catalog.versions import Version
from labelers import TeacherTokens
from labelers.pairs.reward_goal import goal_message
from pipelines.api import Recipe, run
from prefactory.folders import new_file
from prefactory.identity import fingerprint
from prefactory.measures.calibration import Floats
from prefactory.pages.svg import el, figure, text_at
from prefactory.tables import Shape, with_ids
from prefactory.testing import apply_step
from trainers import (
    ADPA,
    BCO,
    DCKD,
    DPO,
    MAH,
    MORE,
    PAL,
    RACO,
    RDPO,
    DatasetRef,
    GoalDPO,
    Listwise,
    PoFT,
    Regression,
    Reward,
    SteerLM,
    Stepwise,
    TrainingReport,
    YaPO,
    train_pal,
    train_transformer,
)  # fmt: skip
from trainers.settings import PolicySettings, TransformerSettings
from trainers.tiny import tiny_model

WORDS = ("ka", "lo", "mi", "nu", "pe", "ra", "si", "to", "vu", "we", "xa", "zo")
LENGTH, PAIRS, HELD, PROMPTS, EACH = 6, 320, 300, 160, 4
GAP = 1.0
"""Least difference of the utilities of a pair's answers; their standard deviation is 3.5."""
FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
VALUES = np.random.default_rng(7).normal(size=(4, len(WORDS)))
"""Values of the words, Float64[4, 12]: the utility, and three that methods of several need."""


@dataclass(frozen=True)
class Drawn:
    """Two answers to each of n prompts, the first better by the utility.

    Attributes:
        words: of the answers, Int64[n, 2, 6].
        levels: what they are worth by each of `VALUES`, Float64[n, 2, 4].
        flipped: whose label is turned round, Bool[n].
        rng: for what else a method draws.
    """

    words: np.ndarray[Any, np.dtype[np.int64]]
    levels: Floats
    flipped: np.ndarray[Any, np.dtype[np.bool_]]
    rng: np.random.Generator

    @classmethod
    def of(cls, n: int, flip: float, seed: int, utility: Callable[[Floats], Floats]) -> Drawn:
        """Draw pairs that are `GAP` apart at least.

        Args:
            n: pairs.
            flip: share of labels that is turned round.
            seed: of the draw.
            utility: of answers by their levels, Float64[..., 4] -> Float64[...].
        """
        rng = np.random.default_rng(seed)
        words = rng.integers(len(WORDS), size=(20 * n, 2, LENGTH))
        levels = VALUES[:, words].sum(axis=-1).transpose(1, 2, 0)
        gap = np.diff(utility(levels), axis=1)[:, 0]
        apart = np.flatnonzero(np.abs(gap) >= GAP)[:n]
        order = np.where(gap[apart] > 0, 1, 0)
        words, levels = (
            np.stack([a[apart, order], a[apart, 1 - order]], axis=1) for a in (words, levels)
        )
        return cls(words, levels, rng.random(n) < flip, rng)

    def sides(self, values: Floats) -> tuple[Floats, Floats]:
        """A number of each answer, Float64[n, 2], as the labels put them: chosen and rejected."""
        turned = np.where(self.flipped[:, None], values[:, ::-1], values)
        return turned[:, 0], turned[:, 1]

    def frame(self, prompts: Sequence[str] | None = None, **columns: Any) -> pl.DataFrame:  # noqa: ANN401
        """PAIRS with labels as they are said, and more columns."""
        first, second = (said(self.words[:, i]) for i in (0, 1))
        turned = pl.Series(self.flipped)
        texts = pl.DataFrame({"a": first, "b": second}).select(
            chosen=pl.when(turned).then("b").otherwise("a"),
            rejected=pl.when(turned).then("a").otherwise("b"),
        )
        asked = [f"ask {i}" for i in range(len(first))] if prompts is None else prompts
        table = texts.select(
            prompt=talks(pl.Series(asked), "user"),
            chosen=talks(pl.col("chosen"), "assistant"),
            rejected=talks(pl.col("rejected"), "assistant"),
        )
        named = {k: v if isinstance(v, pl.Series) else pl.Series(v) for k, v in columns.items()}
        named = {"source": pl.Series(["made"] * len(first))} | named
        return with_ids(table, Shape.PAIRS).with_columns(
            source_id=pl.lit("0"), label_source=pl.lit("rule"), **named
        )


def said(words: np.ndarray[Any, Any]) -> pl.Series:
    """Answers as texts: Int64[n, 6] -> n texts."""
    return pl.Series([" " + " ".join(WORDS[w] for w in row) for row in words])


def talks(texts: pl.Series | pl.Expr, role: str) -> pl.Expr:
    """Conversations of one message."""
    message = pl.struct(role=pl.lit(role), content=texts)
    return pl.concat_list(message)


def first(levels: Floats) -> Floats:
    """The utility."""
    return levels[..., 0]


Make = Callable[[int, float, int], pl.DataFrame]


def pairs(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Labels by the utility."""
    return Drawn.of(n, flip, seed, first).frame()


def strong(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Labels, and how strong each preference is: 1 to 3 (`strength`), or the gap (`margin`)."""
    d = Drawn.of(n, flip, seed, first)
    gap = np.abs(d.levels[:, 0, 0] - d.levels[:, 1, 0])
    chosen, rejected = d.sides(d.levels[..., 0] / 3)
    return d.frame(
        strength=1.0 + np.digitize(gap, [2.5, 5.0]), margin=gap / 3,
        beta=0.1 + np.minimum(gap, 5) / 25,
        chosen_score_quality=chosen, rejected_score_quality=rejected,
    )  # fmt: skip


def weighted(n: int, flip: float, seed: int) -> pl.DataFrame:
    """As many pairs again with wrong labels, whose weight is 0."""
    right = pairs(n, flip, seed).with_columns(weight=pl.lit(1.0))
    wrong = pairs(n, 1.0, seed + 1000).with_columns(weight=pl.lit(0.0))
    return pl.concat([right, wrong]) if n == PAIRS else right


def signed(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Pairs in any order, and what two objectives say of them; the utility is their sum."""
    d = Drawn.of(n, 0.0, seed, lambda levels: levels[..., 0] + levels[..., 1])
    signs = {
        f"sign_{name}": (np.sign(d.levels[:, 0, k] - d.levels[:, 1, k])
                         * np.where(d.rng.random(n) < flip, -1, 1)).astype(np.int8)
        for k, name in enumerate("ab")
    }  # fmt: skip
    return d.frame(**signs)


def dimensions(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Half of the pairs labelled by the utility, half by another; only the first are held out."""
    a = Drawn.of(n, flip, seed, first).frame().with_columns(dimension=pl.lit("a"))
    b = Drawn.of(n, flip, seed + 1000, lambda levels: levels[..., 1])
    return pl.concat([a, b.frame().with_columns(dimension=pl.lit("b"))]) if n == PAIRS else a


def likelihoods(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Either answer as the chosen one, with what models that know the utility say of a token."""
    d = Drawn.of(n, 0.0, seed, first)
    if n != PAIRS:
        return d.frame(chosen_score_log_probability=np.zeros(n))
    turned = d.rng.random(n) < 0.5
    good = turned == (d.rng.random(n) < flip)
    d = Drawn(d.words, d.levels, turned, d.rng)
    return d.frame(chosen_score_log_probability=np.where(good, -0.5, -8.0))


def attributes(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Ratings of two attributes on each side, the utility and another, one in four unknown."""
    d = Drawn.of(n, flip, seed, first)
    columns = {}
    for k, name in enumerate(("help", "brief")):
        for side, values in zip(("chosen", "rejected"), d.sides(d.levels[..., k] / 3), strict=True):
            known = np.where(d.rng.random(n) < 0.25, np.nan, values)
            columns[f"{side}_score_{name}"] = pl.Series(known).fill_nan(None)
    return d.frame(**columns)


def sources(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Three sources that agree on the utility, each with a taste of its own beside it."""
    if n != PAIRS:
        return pairs(n, flip, seed)
    parts = [
        Drawn.of(n // 2, flip, seed + k, lambda levels, k=k: levels[..., 0] + 0.7 * levels[..., k])
        for k in (1, 2, 3)
    ]
    names = [[name] * (n // 2) for name in "abc"]
    return pl.concat([d.frame(source=s) for d, s in zip(parts, names, strict=True)])


def conditional(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Two kinds of questions, whose answers have opposite utilities; the other kind is near."""
    d = Drawn.of(n, 0.0, seed, first)
    kind = d.rng.random(n) < 0.5
    d = Drawn(d.words, d.levels, kind ^ (d.rng.random(n) < flip), d.rng)
    frame = d.frame([f"{'down' if k else 'up'} {i}" for i, k in enumerate(kind)])
    near = [int(d.rng.choice(np.flatnonzero(kind != k))) for k in kind]
    return frame.with_columns(rejected_prompt_id=frame["prompt_id"][near])


def several(n: int, flip: float, seed: int) -> pl.DataFrame:
    """Four answers to each prompt, with their utility as score and its softmax as weight."""
    rng = np.random.default_rng(seed)
    prompts = PROMPTS if n == PAIRS else n
    words = rng.integers(len(WORDS), size=(prompts, EACH, LENGTH))
    levels = VALUES[0, words].sum(axis=-1)
    turned = rng.random(prompts) < flip
    levels[turned] = levels[turned].max(1, keepdims=True) + levels[turned].min(
        1, keepdims=True
    ) - levels[turned]  # fmt: skip
    weights = np.exp(levels - levels.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    rows = pl.DataFrame({
        "asked": [f"ask {i}" for i in range(prompts) for _ in range(EACH)],
        "answer": said(words.reshape(-1, LENGTH)),
    })  # fmt: skip
    talk = rows.select(
        prompt=talks(pl.col("asked"), "user"), response=talks(pl.col("answer"), "assistant")
    )
    table = with_ids(talk, Shape.RESPONSES).with_columns(
        source=pl.lit("made"), source_id=pl.lit("0"), model=pl.lit("m"), origin=pl.lit("rule"),
        score_quality=pl.Series(levels.ravel()), weight_steer=pl.Series(weights.ravel()),
    )  # fmt: skip
    return table.sort("prompt_id", "response_id")


Found = tuple[float, float]
"""Held-out accuracy and its standard error."""


def people(flip: float, seed: int, folder: Path) -> Found:
    """PAL: twelve people, half of whom have another utility; vectors count the words."""

    def labels(n: int, share: float, start: int) -> pl.DataFrame:
        parts = []
        for k in (0, 1):
            d = Drawn.of(n // 2, share, start + k, lambda levels, k=k: levels[..., k])
            who = [f"{'ab'[k]}{i}" for i in d.rng.integers(6, size=n // 2)]
            parts.append(d.frame([f"ask {k} {i}" for i in range(n // 2)], annotator=who))
        return pl.concat(parts)

    def counts(_: Any, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:  # noqa: ANN401
        return np.array([[t.split().count(w) for w in WORDS] for t in texts], dtype=np.float32)

    data = version_of(labels(4 * PAIRS, flip, seed), labels(HELD, 0.0, seed + 500), folder / "data")
    config = PAL(dim=len(WORDS), linear=True, new_users=0.0, seed=seed)
    return _level(train_pal(config, data, folder / "model", counts))


def steps(flip: float, seed: int, folder: Path) -> Found:
    """A process reward model: a step of two words is right if their sum is above 0."""

    def solutions(n: int, share: float, start: int) -> pl.DataFrame:
        rng = np.random.default_rng(start)
        words = rng.integers(len(WORDS), size=(n, 4, 2))
        right = (VALUES[0, words].sum(axis=-1) > 0) ^ (rng.random((n, 4)) < share)
        rows = [
            {"prompt": f"ask {i}", "completions": [f"{WORDS[a]} {WORDS[b]}" for a, b in row],
             "labels": good.tolist()}
            for i, (row, good) in enumerate(zip(words, right, strict=True))
        ]  # fmt: skip
        publish = {"test_fraction": 0.0, "pays": False}
        recipe = Recipe(f"steps-{start}", source=pl.DataFrame(rows), publish=publish)
        return run(recipe, folder / "home").frame("responses", "train").collect()

    data = version_of(
        solutions(PAIRS, flip, seed), solutions(HELD // 4, 0.0, seed + 500), folder / "data",
        Shape.RESPONSES,
    )  # fmt: skip
    config = Stepwise(model=str(model_in(folder / "tiny")), seed=seed, **OPTIONS)
    report = train_transformer(config, DatasetRef(data.version, "responses"), folder / "model")
    level = report.facts["step_accuracy"]
    return level, float(np.sqrt(level * (1 - level) / report.facts["labelled_steps"]))


def taught(settings: type[TransformerSettings], k: int, **options: Any) -> Callable[..., Found]:  # noqa: ANN401
    """A student of a teacher that learned from the labels, and says its k likeliest tokens."""

    def found(flip: float, seed: int, folder: Path) -> Found:
        model = model_in(folder / "tiny")
        labelled = version_of(pairs(PAIRS, flip, seed), pairs(HELD, 0.0, seed + 500), folder / "d")
        teacher = DPO(model=str(model), seed=seed, compare_answers=0, **OPTIONS)
        train_transformer(teacher, labelled, folder / "teacher")
        both = {"teacher": {"model": str(folder / "teacher")}, "reference": {"model": str(model)}}
        step = TeacherTokens(**both, k=k, precision="float32")
        unlabelled, held = (
            apply_step(step, t.with_columns(chosen_model=pl.lit("m"), rejected_model=pl.lit("m")))
            .rows
            for t in (pairs(PAIRS, 0.5, seed + 2000), pairs(HELD, 0.0, seed + 500))
        )  # fmt: skip
        data = version_of(unlabelled, held, folder / "data")
        config = settings(model=str(model), seed=seed, compare_answers=0, **{**OPTIONS, **options})
        return _level(train_transformer(config, data, folder / "model"))

    return found


def goals(kind: str, flip: float, seed: int, _: Path) -> Found:
    """Pairs under the score of either answer: with a low goal the worse answer is the right one.

    Measured under the goals of one kind, `high` or `low`.
    """
    levels, asked = _learned_goals(flip, seed)
    return levels[kind], float(np.sqrt(levels[kind] * (1 - levels[kind]) / asked))


@cache
def _learned_goals(flip: float, seed: int) -> tuple[dict[str, float], int]:
    """Held-out accuracy of one training under both kinds of goals, and how many pairs each has."""

    def scored(n: int, share: float, start: int) -> Version:
        d = Drawn.of(n, share, start, first)
        chosen, rejected = ((2 + side).clip(0, 4) for side in d.sides(d.levels[..., 0]))
        rows = d.frame(chosen_score_quality=chosen, rejected_score_quality=rejected)
        rows = rows.select("prompt", "chosen", "rejected", "^.*_score_quality$")
        relabel = {"objective": "quality", "scale": [0, 4], "decimals": 0, "min_gap": 0.0}
        recipe = Recipe(
            f"goals-{start}", source=rows, steps=[{"labelers.RewardAugmented": relabel}],
            publish={"test_fraction": 0.0, "pays": False},
        )  # fmt: skip
        return run(recipe, folder / "home")

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        learned, asked = scored(PAIRS, flip, seed), scored(HELD // 2, 0.0, seed + 500)
        rows = [v.frame("goal_pairs", "train").collect() for v in (learned, asked)]
        data = version_of(rows[0], rows[1], folder / "data", table="goal_pairs")
        manifest = data.version.manifest.model_copy(update={"stages": learned.manifest.stages})
        words = [goal_message({"quality": g}, (0.0, 4.0), 0) for g in range(5)] * 8
        model = tiny_model(folder / "tiny", [" " + " ".join(WORDS), "ask 0 1 2", *words], 4, 600)
        options = {
            **OPTIONS, "max_length": 128, "num_train_epochs": 12, "seed": seed,
            "compare_answers": 0,
        }  # fmt: skip
        config = GoalDPO(model=str(model), beta=0.1, **options)
        version = replace(data.version, manifest=manifest)
        report = train_transformer(config, DatasetRef(version, "goal_pairs"), folder / "model")
        levels = {kind: report.facts[f"accuracy_{kind}"] for kind in ("high", "low")}
        return levels, asked.manifest.tables["pairs"].splits["train"]


def _level(report: TrainingReport) -> Found:
    if report.test is None:
        raise SystemExit("there are no held-out pairs")
    return report.test.accuracy, report.test.accuracy_se


@dataclass(frozen=True)
class Case:
    """How a method is tried.

    Attributes:
        settings: its class.
        make: rows of a split: number of pairs, share turned round, seed.
        options: beside `OPTIONS`.
        least: held-out accuracy that it must reach where no label is wrong.
        other: how it is measured, if by no training of a tiny model on these rows: given the share
            turned round, the seed and a folder.
    """

    settings: type[BaseModel]
    make: Make = pairs
    options: Mapping[str, Any] = field(default_factory=dict)
    least: float = 0.9
    other: Callable[[float, int, Path], Found] | None = None

    def found(self, flip: float, seed: int, folder: Path) -> Found:
        """Train, and measure."""
        if self.other is not None:
            return self.other(flip, seed, folder)
        train, test = self.make(PAIRS, flip, seed), self.make(HELD, 0.0, seed + 500)
        shape = Shape.PAIRS if "pair_id" in train.columns else Shape.RESPONSES
        data = version_of(train, test, folder / "data", shape)
        more = {"compare_answers": 0} if issubclass(self.settings, PolicySettings) else {}
        options = {**OPTIONS, **more, **self.options, "seed": seed}
        config = self.settings(model=str(model_in(folder / "tiny")), **options)
        return _level(train_transformer(config, DatasetRef(data.version), folder / "model"))


OPTIONS: dict[str, Any] = {
    "num_train_epochs": 4, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 64, "gradient_checkpointing": False, "learning_rate": 3e-3,
    "save_strategy": "no", "max_length": 48, "bf16": False,
}  # fmt: skip
CASES: dict[str, Case] = {
    "dpo": Case(DPO),
    "dpo, beta": Case(DPO, strong),
    "dpo, weight": Case(DPO, weighted),
    "rdpo": Case(RDPO, conditional),
    "raco": Case(RACO, signed),
    "mah": Case(MAH, dimensions, {"weights": {"a": 1.0}}),
    "bco": Case(BCO),
    "poft": Case(PoFT, likelihoods),
    "steerlm": Case(SteerLM, several, {"per_device_train_batch_size": 8}),
    "listwise": Case(Listwise, several, {"per_device_train_batch_size": 8}),
    "reward": Case(Reward),
    "reward, margin": Case(Reward, strong, {"use_margin": True}),
    "reward, scaled_bt": Case(Reward, strong, {"loss": "scaled_bt", "strength": "strength"}),
    "reward, pointwise": Case(Reward, strong, {"loss": "pointwise", "score": "quality"}),
    "regression": Case(Regression, attributes, {"attributes": ("help", "brief")}),
    "more": Case(MORE, sources, {"per_device_train_batch_size": 24}),
    "stepwise": Case(Stepwise, other=steps),
    "dckd": Case(DCKD, other=taught(DCKD, 16, sft_weight=0.0, alpha=1.0)),
    "adpa": Case(ADPA, other=taught(ADPA, 64, gamma=5.0), least=0.7),
    "goal-dpo, high": Case(GoalDPO, other=partial(goals, "high"), least=0.8),
    "goal-dpo, low": Case(GoalDPO, other=partial(goals, "low"), least=0.55),
    "yapo": Case(YaPO, options={"layer": 1, "learning_rate": 5e-2}),
    "pal": Case(PAL, other=people, least=0.85),
}
"""Every method of papers, and plain DPO and rewards beside them."""


def model_in(folder: Path) -> Path:
    """A tiny model whose tokenizer has each word as a token."""
    return tiny_model(folder, [" " + " ".join(WORDS), "ask up down 0 1 2"] * 8)


def measured(name: str, flip: float, seed: int, folder: Path) -> dict[str, float]:
    """Train once.

    Args:
        name: of a case.
        flip: share of what it reads that is turned round.
        seed: of the data and the training.
        folder: new; for the data and the models.

    Returns:
        `accuracy` on right labels, its standard error `se`, and `seconds`.
    """
    began = time.monotonic()
    accuracy, se = CASES[name].found(flip, seed, folder)
    return {"accuracy": accuracy, "se": se, "seconds": time.monotonic() - began}


Figures = dict[str, dict[float, list[float]]]
"""Accuracies by method and share turned round, one for each seed."""


def setup(name: str) -> str:
    """Digest of what a method's figures depend on, 8 hex digits."""
    case = CASES[name]
    return fingerprint([
        name, case.make.__name__, dict(case.options), OPTIONS, VALUES.tolist(), GAP, LENGTH,
        PAIRS, HELD, PROMPTS, EACH,
    ])[:8]  # fmt: skip


def runs(names: Sequence[str], flips: Sequence[float], seeds: int, results: Path) -> Figures:
    """Accuracies, from the methods' files where they were measured; all of a seed first."""
    results.mkdir(parents=True, exist_ok=True)
    found: Figures = {name: {flip: [] for flip in flips} for name in names}
    for seed, flip, name in product(range(seeds), flips, names):
        file = results / f"{name}-{setup(name)}.json"
        done = json.loads(file.read_text()) if file.is_file() else {}
        key = f"{flip:g} turned round, seed {seed}"
        if key not in done:
            with tempfile.TemporaryDirectory() as scratch:
                done[key] = one = measured(name, flip, seed, Path(scratch))
            with new_file(file) as out:
                out.write(json.dumps(done, indent=0).encode())
            print(f"{name}, {key}: {one['accuracy']:.3f} in {one['seconds']:.0f} s", flush=True)
        found[name][flip].append(done[key]["accuracy"])
    return found


def table(found: Mapping[str, Mapping[float, Sequence[float]]]) -> list[str]:
    """Lines of a Markdown table: the mean over the seeds, and how far they are apart."""
    flips = list(next(iter(found.values())))
    lines = [
        "| method | " + " | ".join(f"{100 * f:g} % turned round" for f in flips) + " |",
        "|---|" + "--:|" * len(flips),
    ]
    for name, row in found.items():
        cells = " | ".join(_cell(row[f]) for f in flips)
        lines.append(f"| `{name}` | {cells} |")
    return lines


def _cell(values: Sequence[float]) -> str:
    apart = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{apart}"


def chart(found: Mapping[str, Mapping[float, Sequence[float]]]) -> Markup:
    """One small chart a method: held-out accuracy against the share turned round."""
    columns, width, height, pad = 4, 190, 130, 34
    marks = []
    for place, (name, row) in enumerate(found.items()):
        left, top = (place % columns) * width + pad, (place // columns) * (height + 20) + 24
        wide, high = width - pad - 10, height - 40
        points = [
            (left + wide * flip / 0.5, top + high * (1 - np.mean(values)) / 0.6)
            for flip, values in sorted(row.items())
        ]
        half = top + high * 0.5 / 0.6
        marks += [
            text_at(left, top - 8, name, "start"),
            el("line", x1=left, x2=left + wide, y1=half, y2=half, stroke="#999",
               stroke_dasharray="3 3"),
            el("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), fill="none",
               stroke="#2563a8", stroke_width=2),
            *(el("circle", cx=x, cy=y, r=2.5, fill="#2563a8") for x, y in points),
            text_at(left - 4, top + 4, "1", "end"),
            text_at(left - 4, half + 4, ".5", "end"),
            text_at(left, top + high + 14, "0", "start"),
            text_at(left + wide, top + high + 14, "half turned round", "end"),
        ]  # fmt: skip
    rows = -(-len(found) // columns)
    summary = "Held-out accuracy of each method against the share of labels turned round"
    style = el("style", ".tick { font: 11px sans-serif; fill: #555 }")
    picture = figure(columns * width + 10, rows * (height + 20) + 10, summary, style, *marks)
    return Markup(str(picture).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def reached(steps: int, results: Path) -> list[str]:
    """Lines of what RACO and weighted DPO reach on two utilities, for weights `1 / steps` apart."""
    file = results / f"frontier-{steps}-{setup('raco')}.json"
    if not file.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            train, test = signed(PAIRS, 0.0, 0), signed(HELD, 0.0, 500)
            data = version_of(train, test, place / "data")
            more = {"frontier": steps, "compare_answers": 0}
            config = RACO(model=str(model_in(place / "tiny")), **OPTIONS, **more)
            report = train_transformer(config, data, place / "model")
            assert report.frontier is not None
            file.write_text(json.dumps(report.frontier.as_dict()))
    found = json.loads(file.read_text())
    volumes = ", ".join(f"{arm} {volume:.3f}" for arm, volume in found["hypervolume"].items())
    names = found["objectives"]
    lines = [
        "| by | " + " | ".join(f"weight of {n}" for n in names)
        + " | " + " | ".join(f"accuracy: {n}" for n in names) + " | best |",
        "|---|" + "--:|" * (2 * len(names)) + "---|",
    ]  # fmt: skip
    for point in found["points"]:
        cells = [f"{point['weights'][n]:g}" for n in names]
        cells += [f"{point['accuracy'][n]:.3f}" for n in names]
        lines.append(f"| {point['arm']} | {' | '.join(cells)} | {'yes' if point['best'] else ''} |")
    return [*lines, "", f"Hypervolume over 0: {volumes}."]


def page(lines: Sequence[str], frontier: Sequence[str], picture: str, command: str) -> str:
    """The page of docs."""
    return "\n".join([
        "# Does each method find a planted utility?",
        "",
        f"Made by `{command}`. Answers are six words out of twelve, a word has a value, and the "
        "utility of an answer is their sum. What a method reads (labels, scores, weights, signs) "
        "follows the utility, and a share of it is turned round. A Llama of 0.1 million weights "
        f"that was never trained learns from {PAIRS} pairs (`more`: {PAIRS * 3 // 2}; `steerlm` "
        f"and `listwise`: {PROMPTS} prompts with {EACH} answers) and is held against {HELD} pairs "
        "with right labels: held-out accuracy, mean over the seeds (± their standard deviation, "
        "where there are several). One half is chance; that many pairs alone leave a standard "
        f"error of up to {0.5 / HELD**0.5:.3f}, another seed more.",
        "",
        "`raco` and `mah` read two objectives (`raco` is held against their sum, `mah` with the "
        "head of the first), `more` three sources with tastes of their own beside the common one, "
        "`rdpo` two kinds of questions with opposite utilities; `dpo, weight` has as many wrong "
        "pairs again, of weight 0. `pal` reads four times as many pairs of twelve people, half of "
        "whom have another utility, and is told who asks; `stepwise` steps of two words, right if "
        "their sum is above 0, of which it tells single ones; the students of `dckd` and `adpa` "
        "see random labels, and a teacher that DPO taught the utility. `adpa` has the `k` and "
        "`gamma` that were best on its first seed. `goal-dpo` reads each pair under the score of "
        "either answer, in twelve epochs, and is held against pairs under the better one's "
        "(`high`) or the worse one's (`low`), where the worse answer is the right one. `yapo` fits "
        "one vector on the last layer's output of a model that stays as it is.",
        "",
        *lines,
        "",
        f"![Accuracy against the share turned round]({picture})",
        "",
        "## A frontier of two utilities",
        "",
        "The pairs of `raco`, no sign turned round: a policy for each choice of weights, by RACO "
        "and by weighted DPO (`frontier`), and the share of held-out pairs on which it prefers "
        "what each utility does. One seed.",
        "",
        *frontier,
        "",
    ])  # fmt: skip


def main() -> None:
    """Run what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--methods", type=lambda t: t.split(";"), default=list(CASES))
    parser.add_argument("--flips", type=lambda t: [float(f) for f in t.split(",")], default=FLIPS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_name("results") / "recovery",
        help="where each method's figures are kept",
    )  # fmt: skip
    parser.add_argument(
        "--frontier", type=int, default=4, help="steps along an edge; 0: no frontier"
    )
    parser.add_argument("--page", type=Path, default=None, help="such as docs/recovery.md")
    args = parser.parse_args()
    found = runs(args.methods, args.flips, args.seeds, args.results)
    lines = table(found)
    frontier = reached(args.frontier, args.results) if args.frontier else []
    print("\n".join([*lines, "", *frontier]))
    if args.page is not None:
        picture = args.page.with_suffix(".svg")
        picture.write_text(f"{chart(found)}\n")
        flips = ",".join(f"{flip:g}" for flip in args.flips)
        command = (
            f"python -m benchmarks.recovery --seeds {args.seeds} --flips {flips}"
            f" --frontier {args.frontier}"
        )
        args.page.write_text(page(lines, frontier, picture.name, command))


if __name__ == "__main__":
    main()
