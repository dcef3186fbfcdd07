"""Scripted rewriters, responders and judges: the reward of an instruction is written in it."""

import random
import re

import numpy as np
import polars as pl

from prefactory.engines.base import Completion, Failure
from prefactory.step import Labeler, State

HERE = __name__
PRINCIPLES = [
    {"name": name, "domain": "helpfulness", "content": f"write [{name}]."} for name in "abc"
]
"""Principles that the scripted rewriter can carry out: it appends what stands in brackets."""


def instruction(request):
    """The instruction that a rewriter is to improve."""
    text = request.conversation[1]["content"]
    return re.search(r"<<< instruction (\w+)\n(.*)\n>>> instruction \1", text, re.S).group(2)


def block(request, name):
    """A block of a judge's question."""
    text = request.conversation[-1]["content"]
    return re.search(rf"<<< {name} (\w+)\n(.*)\n>>> {name} \1", text, re.S).group(2)


def append(request):
    """A rewriter that does as it is told."""
    principle = re.search(r"one way only: write (\[\w+\])", request.conversation[1]["content"])
    return f"Sure:\n<instruction>\n{instruction(request)} {principle.group(1)}\n</instruction>"


def echo(request):
    """A responder that repeats the instruction, and whether it was asked for fresh samples."""
    fresh = " fresh" if re.search("/(fresh|unseen)", request.row_id) else ""
    return f"What I say to it: {request.conversation[-1]['content']} #{request.draw_seed}{fresh}"


def distinct(request):
    """A judge without noise: 1 and as many more as there are distinct marks in the answer."""
    marks = set(re.findall(r"\[(\w)\]", block(request, "answer")))
    return f'{{"score": {1 + len(marks)}}}'


def noisy(request):
    """The same with noise of 0.5 that belongs to the answer."""
    answer = block(request, "answer")
    seed = int(re.search(r"#(\d+)", answer).group(1))
    marks = len(set(re.findall(r"\[(\w)\]", answer)))
    return f'{{"score": {3 + marks + 0.5 * random.Random(seed).gauss(0, 1)}}}'


def noise(request):
    """A judge that judges nothing."""
    return f'{{"score": {random.Random(block(request, "answer")).uniform(1, 10)}}}'


def noise_without(request):
    """A judge whom fresh answers disappoint."""
    answer = block(request, "answer")
    if "fresh" in answer:
        return '{"score": 5}'
    return distinct(request)


def of_question(request):
    """A judge that looks at the question alone."""
    marked = block(request, "conversation")
    return f'{{"score": {9 if "[a]" in marked or "[b]" in marked or "[c]" in marked else 2}}}'


def broken(request):
    return Failure("http_500", "no")


# -- rewriters that misbehave; attempt 1 is named in the id of the request -----


def attempt(request):
    return int(request.row_id.rsplit("/", 1)[1])


def untagged_first(request):
    return "here you are" if attempt(request) == 1 else append(request)


def never_a(request):
    """Answers the instruction instead, when principle a is asked for."""
    return "The answer is 42." if "[a]" in request.conversation[1]["content"] else append(request)


def unchanged(request):
    return f"<instruction> {instruction(request)}\n</instruction>"


def always_same(request):
    return "<instruction>question 1 with one more word</instruction>"


def endless(request):
    words = [f"l{chr(97 + i % 26)}{chr(97 + i // 26)}ng" for i in range(500)]
    return f"<instruction>{' '.join(words)}</instruction>"


def nothing(request):
    return "<instruction> </instruction>"


def off_topic(request):
    principle = re.search(r"write \[(\w+)\]", request.conversation[1]["content"]).group(1)
    kept = "question 1 " if principle != "a" else ""
    return f"<instruction>{kept}about cats [{principle}] {request.draw_seed}</instruction>"


def odd_texts(request):
    return append(request).replace("]", "] \ud800 \u0000 \u202e😀")


# -- responders that misbehave -----


def second_time(request):
    """Every answer fails at first, in one way or another."""
    if "/again" not in request.row_id:
        return "  \n" if request.sample else Failure("timeout", "too slow")
    return echo(request)


def third_sample_never(request):
    return Failure("http_500", "no") if request.sample == 2 else echo(request)


def same(request):
    """A responder that ignores seeds."""
    return f"What I always say to it: {request.conversation[-1]['content']}"


def cut_off(request):
    return Completion(echo(request), finish_reason="length")


def refusing(request):
    return "I'm sorry, but I can't help with that request."


def never_unseen(request):
    return Failure("http_500", "no") if "/unseen" in request.row_id else echo(request)


# -- without a judge -----


class Marks(Labeler):
    """Distinct marks in an answer; nothing for answers with the mark of `lost`."""

    lost: str = "?"
    column: str | None = None

    def needs(self, shape):
        return {} if self.column is None else {self.column: pl.String()}

    def adds(self, shape):
        return {"score_marks": pl.Float64(), "reason_marks": pl.String()}

    def label(self, table, ctx):
        text = table["response"].list.first().struct.field("content")
        marks = text.str.extract_all(r"\[\w\]").list.n_unique().cast(pl.Float64)
        if self.column is not None:
            marks = marks * table[self.column].str.len_chars()
        gone = text.str.contains(f"[{self.lost}]", literal=True)
        score = pl.select(pl.when(~gone).then(marks)).to_series()
        why = pl.select(pl.when(gone).then(pl.lit("lost"))).to_series()
        return pl.DataFrame({"score_marks": score, "reason_marks": why})


class Two(Marks):
    """Two scores."""

    def adds(self, shape):
        return {"score_x": pl.Float64(), "score_y": pl.Float64()}


class Whole(Marks):
    """Needs the whole dataset."""

    scope = "dataset"

    def fit_shard(self, table, ctx):
        return table.select("response_id")

    def fit(self, parts, ctx):
        return State()


def alike(encoder, texts):
    """Vectors: texts that share their first two words lie together."""
    starts = [" ".join(t.split()[:2]) for t in texts]
    vectors = np.zeros((len(starts), 64), dtype=np.float32)
    for row, start in enumerate(starts):
        vectors[row, sum(map(ord, start)) % 64] = 2.0
    return vectors


def engine(name, **more):
    return {"engine": "scripted", "model": name, "function": f"{HERE}.{name}", **more}


def fields(rewriter="append", responder="echo", judge="distinct", **more):
    """Fields of a search with scripted models and three principles."""
    return {
        "rewriter": engine(rewriter),
        "responder": engine(responder),
        "scorer": {"judge": engine(judge)},
        "principles": PRINCIPLES,
        "floor": None,
        "iterations": 20,
        **more,
    }
