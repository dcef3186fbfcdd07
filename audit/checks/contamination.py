"""Benchmark prompts inside the data: in its prompts, and in its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from audit.check import Check
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import EXAMPLES, Rows, Subject, excerpt
from filters.contamination.benchmarks import Benchmark
from filters.contamination.ngrams import N, NgramIndex, spans


def run(subject: Subject) -> Report:
    """Look every benchmark up in the prompts, and in the chosen (or only) answers."""
    against = subject.options.against
    if not against:
        return Report(skipped="no benchmark was given (--against FILE)")
    texts = pl.concat([b.texts for b in against])
    which = np.repeat(np.arange(len(against)), [b.texts.len() for b in against])
    index = NgramIndex.build(texts)
    prompts = index.search(subject.prompt_text, short="line")
    metrics = {"prompts": _share(subject, prompts["text"].to_numpy())}
    found = [prompts["prompt"].to_numpy()]
    answers = pl.DataFrame(schema=prompts.schema)
    if subject.sides:
        side = subject.sides[0]
        answers = index.search(side.text, short="line")
        rows = side.rows[answers["text"].to_numpy()]
        answers = answers.with_columns(text=pl.Series(rows, dtype=pl.Int64))
        metrics["answers"] = _share(subject, rows)
        found.append(answers["prompt"].to_numpy())
    hit = np.zeros(texts.len(), dtype=bool)
    hit[np.concatenate(found)] = True
    bars = []
    for number, bench in enumerate(against):
        of = bench.texts.len()
        value = float(hit[which == number].mean())
        metrics[f"benchmark:{bench.name}"] = Metric(value, n=of, unit="share")
        bars.append((bench.name, (value,)))
    order, notes = _examples(subject, prompts, answers, texts, which)
    told = ", ".join(f"{100 * v:.1f}% of {name}" for name, (v,) in bars if v)
    return Report(
        headline=f"{told or 'no benchmark prompt'} found in the data; "
        f"{int(prompts['text'].n_unique()):,} of {subject.height:,} rows have a prompt of a "
        "benchmark",
        metrics=metrics,
        examples=subject.examples(order, notes),
        recipe=_recipe(against),
        rows=pl.concat(
            [
                flagged(part["text"].unique().sort(), f"its {what} holds a prompt of a benchmark")
                for what, part in (("prompt", prompts), ("answer", answers))
            ]
        ),
        charts=(Chart("bars", "Prompts of each benchmark that are in the data", tuple(bars)),),
        notes=(
            f"A prompt is found where over half of its words lie in runs of {N} words of one text "
            f"(arXiv 2411.15124); one of fewer than {N} words where it is the whole text "
            "or a line of it. Paraphrases and translations are not found this way.",
        ),
    )


def _recipe(against: Sequence[Benchmark]) -> tuple[str, ...]:
    """The benchmarks that were looked up, by the path that each was read from."""
    paths = json.dumps([b.path or b.name for b in against], ensure_ascii=False)
    return (f"- filters.Decontaminate: {{against: {paths}}}",)


def _share(subject: Subject, rows: Rows) -> Metric:
    hits = np.zeros(subject.height, dtype=bool)
    hits[rows] = True
    return share(hits, subject.prompts)


def _examples(
    subject: Subject,
    prompts: pl.DataFrame,
    answers: pl.DataFrame,
    texts: pl.Series,
    which: Rows,
) -> tuple[list[int], list[str]]:
    """The best matches of each kind, with the words that match."""
    order: list[int] = []
    notes: list[str] = []
    for matches, what in ((prompts, "prompt"), (answers, "answer")):
        best = matches.sort("share", "text", "prompt", descending=[True, False, False])
        best = best.unique("text", keep="first", maintain_order=True)
        for row, prompt, _, part in best.head(EXAMPLES - len(order)).iter_rows():
            name = subject.options.against[int(which[prompt])].name
            if what == "prompt":
                text = subject.prompt_text[row]
            else:
                text = subject.sides[0].text[int(np.searchsorted(subject.sides[0].rows, row))]
            matched = " ... ".join(text[a:b] for a, b in spans(text, texts[prompt]))
            order.append(int(row))
            notes.append(
                f"its {what} holds {100 * part:.0f}% of a prompt of {name}: "
                f"\N{LEFT DOUBLE QUOTATION MARK}{excerpt(matched, 300)}"
                f"\N{RIGHT DOUBLE QUOTATION MARK}"
            )
    return order, notes


CHECK = Check(
    name="contamination",
    title="Contamination",
    why="A model that was trained on a benchmark's prompts is measured on its memory. Chosen "
    "answers leak as well as prompts do.",
    metrics={
        "prompts": "share of rows whose prompt holds a benchmark prompt",
        "answers": "share of rows whose chosen (or only) answer holds a benchmark prompt",
        "benchmark": "share of a benchmark's prompts that are in the data (benchmark:<name>)",
    },
    run=run,
    slow=True,
    faulty_rows=True,
)
