"""Every maker, judge and recipe on a small real model behind a real llama.cpp server.

    python -m benchmarks.real_models [--only NAME,...] [--kept FILE] [--write docs/real_models.md]

Small budgets: what is looked at is not whether the labels are right (SmolLM2-135M is no judge), but
what holds whatever a model says: each row that went in has come out or stands in the ledger with a
reason, and no text that would be published has a fence mark of our questions, a token of the chat
template, or is a refusal. `make test-llama` runs this, `--write` makes the page, and `--kept` puts
what came of each into a file, so that the whole may be run in pieces.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import polars as pl
import yaml

from pipelines.build import load_recipe, open_sources
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.engines.base import (
    Completion,
    Done,
    Engine,
    EngineConfig,
    Request,
    Result,
    SamplingParams,
)
from prefactory.engines.llama.config import Llama
from prefactory.engines.llama.engine import LlamaEngine
from prefactory.engines.session import Session
from prefactory.errors import PrefactoryError
from prefactory.measures.refusals import refuses
from prefactory.run import execute
from prefactory.stages import Options, RunResult, Stage, thread_mapper

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"^(?:<<<|>>>|---) [^\n]*?\b([0-9a-f]{8})\b", re.MULTILINE)
TEMPLATE = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
KEYS = ("prompt", "response", "chosen", "rejected")
"""Columns of what is published that hold texts of a model."""

HEAD = """\
# Makers, judges and recipes on a small real model

Made by `python -m benchmarks.real_models --kept FILE --write docs/real_models.md`, in pieces;
`make test-llama` runs the same. The model is SmolLM2-135M-Instruct (4 bits, Apache-2.0) behind
llama.cpp's server, one slot and one thread each, at most 96 tokens an answer.
It writes fluent English and is right on the easiest questions; it loops on others. So this page
shows what steps do with a model that often fails, not how good their rows are: nobody should train
on its labels. In every line, rows in are rows out and rows in the ledger, and no text that came out
has a fence mark of our questions or a token of the chat template, or is a refusal.

| step or recipe | rows in -> out, reasons | calls | tokens in + out | seconds |
|---|---|--:|--:|--:|"""
OUTPUTS = """
## Ten outputs, word for word

An answer of ten steps each: one that came out where there is one, else the first.
"""

MODEL, OTHER = "MODEL", "OTHER"
TOKENS = 96
SCORER = {"judge": MODEL, "sampling": {"temperature": 0.0, "max_tokens": TOKENS}}
CORPUS = ROOT / "examples" / "prompts" / "situations.jsonl"
PROMPTS = [
    {
        "prompt": text,
        "facts": ["The rain began at noon.", "The boat has a red sail."],
        "docs": ["The old tower was built in 1871.", "Tea grows on hills."],
        "document": "The old tower was built in 1871. It has four floors.",
        "gold": "1871",
        "gold_documents": [0],
    }
    for text in ("When was the old tower built?", "How do I dry wet shoes?")
]
ANSWERS = [
    {"prompt": p, "response": r}
    for p, r in (
        ("How do I dry wet shoes?", "Stuff them with newspaper. Keep them away from the fire."),
        ("How do I dry wet shoes?", "Shoes are worn on feet. There are many of them."),
    )
]
LONG = "I walked home in the rain. My shoes are of leather and very wet. How do I dry them?"
PAIRS = [
    {
        "prompt": "How do I dry wet shoes?",
        "chosen": "Stuff them with newspaper and change it every hour.",
        "rejected": "Shoes are worn on feet.",
    }
]
STYLES = (
    ("Arr, matey! {}, by Davy Jones and all his bones, says I, and hoist the sails, ye scurvy "
     "dog, or walk the plank at dawn, arr!", "Aye"),
    ("I should be much obliged to observe, with all due respect, that {}; nevertheless, the matter "
     "is of some delicacy, and I remain, as ever, your most humble servant.", "Indeed"),
    ("ok so like {} lol... idk tbh??? its fine i guess :) u know how it is w/ that stuff, gotta "
     "run now, ttyl, xoxo!!! haha yeah so whatever", "yup"),
)  # fmt: skip
SAID = ("tea is warm", "rain is wet", "boats float", "cats sleep", "bread is good", "snow is cold")


def of_personas() -> list[dict[str, Any]]:
    """Answers of three personas: one each to six questions; to a last one, in all three styles."""
    rows = [
        {
            "prompt": f"What of this: {said}?",
            "response": style.format(said),
            "persona": number,
            "turn": turn,
        }
        for turn, said in enumerate(SAID)
        for number, (style, _) in enumerate(STYLES)
    ]
    return rows + [
        {"prompt": "What of the moon?", "response": f"{word}, {style.format('it is far away')}",
         "persona": number, "turn": len(SAID)}
        for number in range(len(STYLES))
        for style, word in STYLES
    ]  # fmt: skip


OPTIONS = {"A": "Pay at once.", "B": "Wait a year.", "C": "Look at the sky."}
FOUR = [{"id": "good", "text": "It answers what was asked."}]
STEPS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "generators.AugmentPrompts": (PROMPTS[1:], {"writer": MODEL}),
    "generators.Dialogues": (
        PROMPTS[:1],
        {"scenario": "patient_doctor", "engine": MODEL, "judge": MODEL, "cells": 1, "k": 2},
    ),
    "generators.Dilemmas": (
        PROMPTS[:1],
        {"writer": MODEL, "priority": ["power", "tradition", "openness"], "dilemmas": 1},
    ),
    "generators.DraftCritique": (PROMPTS[1:], {"model": MODEL}),
    "generators.Evol": (PROMPTS, {"writer": MODEL, "rounds": 1}),
    "generators.InstructionSearch": (
        PROMPTS[1:],
        {
            "rewriter": MODEL, "responder": MODEL, "scorer": SCORER,
            "iterations": 1, "samples": 2, "output": "instructions",
        },
    ),
    "generators.Magpie": (PROMPTS, {"model": MODEL, "n": 2, "how": "ask"}),
    "generators.MaskedContinuations": ([{**ANSWERS[0], "prompt": LONG}], {"model": MODEL}),
    "generators.PersonaIF": (PROMPTS[:1], {"model": MODEL}),
    "generators.PersonaPairs": (of_personas(), {"judge": MODEL, "tolerance": 0.49}),
    "generators.PersonaPrompts": (PROMPTS[:1], {"writer": MODEL, "kinds": ["maths"]}),
    "generators.Personas": (PROMPTS, {"engine": MODEL, "people": 2}),
    "generators.RAGPairs": (PROMPTS[:1], {"models": [MODEL], "n": 2, "documents": "docs"}),
    "generators.RPS": (PROMPTS[1:], {"model": MODEL, "target": {"helpful": 1.0, "brief": 0.5}}),
    "generators.Responses": (PROMPTS, {"models": [MODEL], "n": 2}),
    "generators.RetrieveAlignRefine": (
        PROMPTS[:1],
        {"model": MODEL, "corpus": {"path": str(CORPUS), "text": "prompt"}, "rounds": 1},
    ),
    "generators.SelfInstruct": (PROMPTS, {"writer": MODEL, "n": 2, "pool": 4}),
    "generators.StylePairs": (PROMPTS[1:], {"model": MODEL, "hidden": ["be brief", "be kind"]}),
    "generators.SystemMessages": (
        PROMPTS[1:], {"backend": "engine", "engine": MODEL, "messages": 1}
    ),
    "generators.TwoHopQuestions": (
        [
            {"prompt": text, "docs": documents, "gold": gold, "gold_documents": [0]}
            for text, documents, gold in (
                ("Who built the old tower?", ["Anna Berg built the old tower."], "Anna Berg"),
                ("When was Anna Berg born?", ["Anna Berg was born in 1871."], "1871"),
            )
        ],
        {"writer": MODEL, "documents": "docs"},
    ),
    "generators.ValueGapPairs": (
        PROMPTS[1:], {"writer": MODEL, "policy": "neutral", "words": [5, 500], "judge": MODEL}
    ),
    "generators.WeakPairs": (PROMPTS, {"strong": MODEL, "weak": OTHER}),
    "generators.WrongDocument": (
        [
            {"prompt": f"When was {what} built?", "document": f"You see {what}, of {year}.",
             "gold": year}
            for what, year in (("the old tower", "1871"), ("the old bridge", "1790"))
        ],
        {"model": MODEL, "n": 1, "both_ways": False, "shown": 2},
    ),
    "labelers.Choices": (
        [{
            **PAIRS[0], "options": OPTIONS,
            "option_map": {"A": "s:care", "B": "s:ease", "C": "neither"},
        }],
        {"models": [MODEL]},
    ),
    "labelers.Judge": (ANSWERS, {"judge": [MODEL]}),
    "labelers.JudgePairs": (PAIRS, {"judge": [MODEL]}),
    "labelers.PersonaItems": (PROMPTS[1:], {"model": MODEL}),
    "labelers.PromptQuality": (PROMPTS, {"judge": MODEL}),
    "labelers.PromptTags": (PROMPTS, {"tagger": MODEL}),
    "labelers.Rubric": (ANSWERS, {"judge": MODEL, "criteria": FOUR}),
}  # fmt: skip
"""Step -> (rows of its source, options); MODEL is the server, OTHER the same by another name."""

BEFORE: dict[str, list[dict[str, Any]]] = {
    "generators.PersonaPairs": [{"labelers.PersonaStyle": {"anchors": 5, "turn": "turn"}}],
    "labelers.PersonaItems": [{"generators.Personas": {"people": 1, "held_out": 0.1}}],
}
"""Step -> steps before it, which ask nobody."""

RECIPES: dict[str, dict[str, Any]] = {
    "janus": {"generators.SystemMessages": {"messages": 2}},
    "p_aligner": {
        "generators.InstructionSearch": {
            "iterations": 1, "samples": 2, "floor": None,
            "scorer": SCORER,
        }
    },
    "patient_doctor": {"generators.Dialogues": {"cells": 1, "k": 2}},
    "ultrafeedback_like": {"generators.Responses": {"per_prompt": 2}},
    "value_dilemmas": {"generators.Dilemmas": {"dilemmas": 1}},
}  # fmt: skip
"""Recipe that asks models -> options that make it small."""


@dataclass
class Call:
    """What was asked and answered once."""

    request: Request
    result: Result


class Watched(Engine):
    """Another engine, whose calls are kept."""

    def __init__(self, inner: Engine, calls: list[Call]) -> None:
        """Watch an engine.

        Args:
            inner: answers.
            calls: where its calls go.
        """
        self.capabilities = inner.capabilities
        self._inner, self._calls = inner, calls

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Pass on, and keep."""
        asked: list[Request] = []

        def each() -> Iterator[Request]:
            for request in requests:
                asked.append(request)
                yield request

        def watched(place: int, result: Result) -> None:
            self._calls.append(Call(asked[place], result))
            done(place, result)

        self._inner.run(each(), watched)


@dataclass
class Found:
    """What a step or a recipe did.

    Attributes:
        name: of the step or recipe.
        stages: (label, rows in, rows out, reasons) of each step.
        calls: all of them.
        texts: of models, among what would be published.
        broken: invariants that do not hold, in words.
        seconds: wall time.
    """

    name: str
    stages: list[tuple[str, int, int, dict[str, int]]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def told(self) -> Told:
        """What the page says of it."""
        answers = [c.result.text for c in self.calls if isinstance(c.result, Completion)]
        kept = [a for a in answers if any(t and t in a for t in self.texts)]
        text = next(iter(kept or answers), None)
        rows = tuple(self.stages)
        return Told(self.name, rows, len(self.calls), *self.tokens, self.seconds, text, bool(kept))

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompts and of answers."""
        done = [c.result for c in self.calls if isinstance(c.result, Completion)]
        return sum(d.prompt_tokens for d in done), sum(d.completion_tokens for d in done)


@dataclass(frozen=True)
class Told:
    """What the page says of a step or a recipe: its stages, calls, tokens, and one answer."""

    name: str
    stages: tuple[tuple[str, int, int, dict[str, int]], ...]
    calls: int
    asked: int
    written: int
    seconds: float
    text: str | None
    published: bool


@contextmanager
def served(places: int = 1) -> Iterator[list[dict[str, Any]]]:
    """Engines of llama.cpp servers with SmolLM2, as recipes name them, one slot each."""
    opened = Llama(model="smollm2", threads=places, context=2048).open()
    assert isinstance(opened, LlamaEngine)
    with opened:
        yield [
            {
                "engine": "server", "base_url": f"{address}/v1", "model": "SmolLM2-135M-Instruct",
                "dialect": "llama.cpp", "max_concurrency": 1, "retries": 1,
                "api_key_env": KEY,
            }
            for address in opened.addresses(KEY)
        ]  # fmt: skip


KEY = "PREFACTORY_LLAMA_KEY"
"""Variable of the key of the servers."""


def step_recipe(name: str, engine: dict[str, Any], folder: Path) -> Path:
    """A recipe of one step, with its source beside it."""
    rows, options = STEPS[name]
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return _written(
        {
            "name": "one-step",
            "source": {
                "path": str(source),
                "name": "rows",
                "carry": [key for key in rows[0] if key not in KEYS],
            },
            "steps": [
                *BEFORE.get(name, ()),
                {name: _short(_said_short(name, options), engine)},
            ],
        },
        folder,
    )


def small_recipe(name: str, engine: dict[str, Any], folder: Path) -> Path:
    """A shipped recipe with two rows of its source and short answers."""
    recipe = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    whole = (ROOT / "recipes" / recipe["source"]["path"]).resolve()
    few = folder / "source.jsonl"
    few.write_text("".join(f"{line}\n" for line in whole.read_text().splitlines()[:2]))
    recipe["source"]["path"] = str(few)
    for step in recipe["steps"]:
        for label, options in step.items():
            options.update(RECIPES[name].get(label, {}))
            step[label] = _short(_said_short(label, options), engine)
    return _written(recipe, folder)


def _written(recipe: dict[str, Any], folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def _said_short(label: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options with the step's own way of drawing answers, so that they can be made short."""
    package, _, name = label.partition(".")
    kind = getattr(importlib.import_module(package), name)
    drawn = {
        name: field.default.model_dump(mode="json")
        for name, field in kind.model_fields.items()
        if isinstance(field.default, SamplingParams)
    }
    given = {name: {**drawn[name], **options[name]} for name in drawn if name in options}
    few = {"attempts": 2} if "attempts" in kind.model_fields else {}
    return {**few, **drawn, **options, **given}


def _short(value: Any, engine: dict[str, Any]) -> Any:  # noqa: ANN401 - YAML
    """A server in place of each engine, and at most `TOKENS` an answer."""
    if value in (MODEL, OTHER):
        return {**engine, "model": engine["model"] if value == MODEL else "other"}
    if isinstance(value, list):
        return [_short(v, engine) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("engine") == "server":
        return {**engine, "model": value["model"]}
    return {k: min(v, TOKENS) if k == "max_tokens" else _short(v, engine) for k, v in value.items()}


def tried(name: str, engine: dict[str, Any], home: Path) -> Found:
    """Run a step or a recipe; what stops it is told as a broken invariant."""
    found, began = Found(name), time.monotonic()
    stages: list[Stage] = []
    folder = home / name
    folder.mkdir(parents=True)
    make = step_recipe if name in STEPS else small_recipe
    try:
        recipe = load_recipe(make(name, engine, folder), [])
        with Session(folder / "journal") as session:

            def watched(config: EngineConfig) -> Engine:
                return Watched(session.engine(config), found.calls)

            settings = Settings(home=folder / "home")
            options = Options(
                workers=1,
                shard_rows=100,
                embed=embedder(settings),
                engine=watched,
                on_stage=stages.append,
            )
            result = execute(
                recipe, open_sources(recipe), settings.store, thread_mapper(1), options
            )
        look(found, result)
    except PrefactoryError as error:
        if not stages or stages[-1].rows_out:  # else no row is left, which is told, and no fault
            found.broken.append(f"{type(error).__name__}: {error}")
    for stage in stages[1:]:
        found.stages.append((stage.label, stage.rows_in, stage.rows_out, dict(stage.reasons)))
        kept = stage.rows_out + sum(stage.reasons.values())
        if stage.kind != "generator" and stage.rows_in != kept:
            found.broken.append(f"{stage.label}: {stage.rows_in} rows in, {kept} accounted for")
    found.seconds = time.monotonic() - began
    return found


def look(found: Found, result: RunResult) -> None:
    """Take down what came out, and what of it may not be published."""
    given = {text for _, view in result.before[:1] for text in _texts(view.tables())}
    views = [view.tables() for view in result.views.values()]
    found.texts = sorted({t for view in views for t in _texts(view)} - given)
    marks = {m for c in found.calls for m in _marks(c.request)}
    refused = refuses(pl.Series(found.texts, dtype=pl.String)).to_list()
    for text, refusal in zip(found.texts, refused, strict=True):
        for what, there in (
            ("a mark", any(m in text for m in marks)),
            ("a template token", any(t in text for t in TEMPLATE)),
            ("a refusal", refusal),
        ):
            if there:
                found.broken.append(f"{what} in {text[:200]!r}")


def _texts(tables: Iterable[pl.DataFrame]) -> set[str]:
    """Contents of the messages in the columns `KEYS`."""
    found: set[str] = set()
    for table in tables:
        for key in KEYS:
            if key in table.columns:
                contents = table[key].explode().struct.field("content").drop_nulls()
                found |= {str(text) for text in contents}
    return found


def _marks(request: Request) -> set[str]:
    return {m for message in request.conversation for m in MARK.findall(str(message["content"]))}


def all_of(names: list[str], home: Path, jobs: int = 2) -> Iterator[Found]:
    """Run them side by side, each job with a server of its own; as they end."""
    free: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def work(name: str) -> Found:
        engine = free.get()
        try:
            return tried(name, engine, home)
        finally:
            free.put(engine)

    with served(jobs) as engines, ThreadPoolExecutor(jobs) as pool:
        for engine in engines:
            free.put(engine)
        try:
            for ended in as_completed([pool.submit(work, name) for name in names]):
                yield ended.result()
        finally:
            pool.shutdown(cancel_futures=True)  # what is stopped begins nothing more


def line(found: Found) -> str:
    """One line on what happened."""
    asked, written = found.tokens
    rows = "; ".join(f"{a} -> {b} {r or ''}".strip() for _, a, b, r in found.stages)
    broken = f"  BROKEN: {found.broken}" if found.broken else ""
    return (
        f"{found.name}: {rows}, {len(found.calls)} calls, {asked} + {written} tokens, "
        f"{found.seconds:.0f} s{broken}"
    )


def page(told: list[Told]) -> str:
    """The page, as Markdown."""
    lines = [HEAD]
    for one in told:
        rows = "<br>".join(
            f"{label + ': ' if len(one.stages) > 1 else ''}{a} -> {b}{_said(r)}"
            for label, a, b, r in one.stages
        )
        cells = (f"`{one.name}`", rows, one.calls, f"{one.asked:,} + {one.written:,}")
        lines.append("| " + " | ".join(map(str, cells)) + f" | {one.seconds:.0f} |")
    rest = [name for name in [*STEPS, *RECIPES] if name not in {one.name for one in told}]
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f} at the end"
    lines.append(f"\nSeconds are of a machine with {load}.")
    lines.append("Not here: `generators.ComposedImages`, which needs a model that sees.")
    if rest:
        lines.append(f"\nNot in this run: {', '.join(f'`{name}`' for name in rest)}.")
    lines.append(OUTPUTS)
    return "\n".join([*lines, *_outputs(told)]) + "\n"


def _said(reasons: dict[str, int]) -> str:
    return f" ({', '.join(f'{k} {v}' for k, v in reasons.items())})" if reasons else ""


def _outputs(told: list[Told]) -> Iterator[str]:
    for one in sorted((t for t in told if t.text), key=lambda t: not t.published)[:10]:
        text = (one.text or "").strip()
        fence = "````" if "```" in text else "```"
        yield f"`{one.name}`, {'published' if one.published else 'not published'}:\n"
        yield f"{fence}text\n{text}\n{fence}\n"


def kept_in(file: Path | None) -> dict[str, Told]:
    """What earlier pieces told, by name."""
    if file is None or not file.is_file():
        return {}
    known = {one["name"]: Told(**one) for one in json.loads(file.read_text("utf-8"))}
    return {name: known[name] for name in [*STEPS, *RECIPES] if name in known}


def main() -> int:
    """Run what was asked for; 1 where an invariant does not hold."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    words.add_argument("--only", help="names of steps and recipes, with commas")
    words.add_argument("--kept", type=Path, help="what came of each, JSON; runs what is not in it")
    words.add_argument("--write", type=Path, help="the page")
    words.add_argument("--jobs", type=int, default=2, help="at a time, each on one core")
    asked = words.parse_args()
    every = [*STEPS, *RECIPES]
    told = kept_in(asked.kept)
    names = asked.only.split(",") if asked.only else [n for n in every if n not in told]
    broken = False
    with tempfile.TemporaryDirectory() as home:
        for one in all_of(names, Path(home), asked.jobs):
            print(line(one), flush=True)
            broken |= bool(one.broken)
            told[one.name] = one.told()
            listed = [told[name] for name in every if name in told]
            if asked.kept:  # each time, so that what is stopped leaves something
                asked.kept.write_text(json.dumps([asdict(o) for o in listed], indent=1), "utf-8")
            if asked.write:
                asked.write.write_text(page(listed), encoding="utf-8")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
