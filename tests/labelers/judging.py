"""Judges for tests: functions that read the question as a model would, and small tables."""

import re
from collections import Counter
from dataclasses import replace

from prefactory.apply import apply_generator, apply_labeler
from prefactory.engines.base import Failure
from prefactory.run import execute
from prefactory.stages import Options, thread_mapper
from prefactory.store import Store
from prefactory.tables import Shape, canonical_order
from tests.helpers import asking, content, one_file, recipe, responses

SEEN = Counter()
_ANSWER = re.compile(r"<<< answer ([A-Z]) (\w{8})\n(.*?)\n>>> answer \1 \2", re.DOTALL)


def question(request):
    """The question itself, whatever corrections follow it."""
    return next(m["content"] for m in request.conversation if m["role"] == "user")


def shown(request):
    """Texts by the letters under which a judge sees them."""
    return {name: text for name, _, text in _ANSWER.findall(question(request))}


def look(request):
    """Replaced by tests that want to see the requests."""
    raise NotImplementedError


def always_a(request):
    return "[[A]]"


def good(request):
    """The text with most GOOD; a tie of equals."""
    SEEN[question(request)] += 1
    points = {name: text.count("GOOD") for name, text in shown(request).items()}
    best = [name for name, n in points.items() if n == max(points.values())]
    return f"I looked at all.\n[[{best[0] if len(best) == 1 else 'tie'}]]"


def good_two(request):
    """Another judge of the same taste."""
    return good(request)


def bad(request):
    """The opposite of `good`, for two answers."""
    said = good(request)
    return said.replace("[[A]]", "[[x]]").replace("[[B]]", "[[A]]").replace("[[x]]", "[[B]]")


def rubbish(request):
    return "I would rather not say."


def absent(request):
    """Names an answer that is not there; sees it when it is told."""
    return good(request) if len(request.conversation) > 2 else "[[Z]]"


def stubborn(request):
    return "[[Z]]"


def failing(request):
    return Failure("http_500", "out of memory")


def good_a(request):
    """`good`, but fails where the good text does not stand first."""
    return good(request) if "GOOD" in shown(request)["A"] else Failure("timeout", "60 s")


def strong(request):
    points = [text.count("GOOD") for text in shown(request).values()]
    sign = "=" if points[0] == points[1] else ">>" if points[0] - points[1] > 1 else "<"
    return f'{{"winner": "A{sign}B"}}' if sign != "<" else "[[B>A]]"


def stone(request):
    """Stone, scissors, paper."""
    texts = shown(request)
    beats = {("stone", "scissors"), ("scissors", "paper"), ("paper", "stone")}
    return "[[A]]" if (texts["A"].split()[0], texts["B"].split()[0]) in beats else "[[B]]"


def judge(function, **fields):
    return {"engine": "scripted", "function": f"{__name__}.{function.__name__}", **fields}


def judged(step, table, seed=0):
    """Pairs of a `Judge` as {prompt: {(chosen, rejected)}}, reasons by text, rows, and its info."""
    ctx = asking(seed)
    parts = step.fit_shard(table, ctx)
    state = step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx)
    ctx = replace(ctx, state=state)
    rows, dropped = apply_generator(step, "judge", table, Shape.RESPONSES, ctx)
    pairs = set(zip(content(rows, "chosen"), content(rows, "rejected"), strict=True))
    names = dict(zip(table["response_id"], content(table, "response"), strict=True))
    reasons = {names[i]: reason for i, reason in dropped.select("row_id", "reason").iter_rows()}
    return pairs, reasons, rows, state.info


def labelled(step, table, ctx=None):
    """The new columns of a `JudgePairs`, with the pair ids."""
    ctx = ctx or asking()
    parts = step.fit_shard(table, ctx)
    ctx = replace(ctx, state=step.fit(parts.sort("pair_id"), ctx))
    return apply_labeler(step, "judge", table, Shape.PAIRS, ctx)


def answers(*rows, **extra):
    return canonical_order(responses(*rows, **extra), Shape.RESPONSES)


def ran(steps, table, store, shard_rows=1000, engine=None, seed=0):
    """Run steps on a table, with engines."""
    engine = engine or asking().engine
    options = Options(workers=2, shard_rows=shard_rows, engine=engine)
    return execute(
        recipe(*steps, seed=seed), [one_file(table)], Store(store), thread_mapper(2), options
    )
