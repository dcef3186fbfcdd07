"""Search over instructions against random rewriting, at the same number of calls.

    python benchmarks/mcts.py [--seeds 400] [--workers 2]
    python benchmarks/mcts.py --throughput
    python benchmarks/mcts.py --likeness ../shared/data/instructions/bpo_prompt_rewrites.json.gz

On planted landscapes: the rewriter and the reward are written down, so the true value of every
rewrite is known. Each method makes 20 rewrites and has 21 instructions answered 3 times; what
counts is the true value of the instruction that it would choose, the raw one being 0. Prints the
tables of docs/mcts.md.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from generators.instruction_search.gap import (
    Output,
    confirmed,
    contests,
    critical,
    measured,
    passes,
    spread_of,
)
from generators.instruction_search.tree import Tree

ITERATIONS, SAMPLES = 20, 3
Walk = tuple[str, ...]
Landscape = Callable[[Walk, int, str], float]


def luck(seed: int, node: str) -> float:
    """A standard normal number that belongs to a node."""
    digest = hashlib.blake2b(f"{seed}/{node}".encode(), digest_size=8).digest()
    return float(np.random.default_rng(int.from_bytes(digest)).standard_normal())


def adds_up(walk: Walk, seed: int, node: str) -> float:
    """Each principle helps once: the best rewrite has applied them all."""
    return 0.5 * len(set(walk))


def one_is_enough(walk: Walk, seed: int, node: str) -> float:
    """One principle helps, whenever it is applied; the others do nothing."""
    return 1.0 if "p0" in walk else 0.0


def wears_off(walk: Walk, seed: int, node: str) -> float:
    """The first principle helps, by its kind; every further rewrite does harm."""
    return (0.4 + 0.3 * int(walk[0][1:]) - 0.4 * (len(walk) - 1)) if walk else 0.0


def deceptive(walk: Walk, seed: int, node: str) -> float:
    """The good way begins with a loss: p0 costs 0.5, p1 after it gains 2; p2 alone gains 0.3."""
    value = 0.3 if "p2" in walk else 0.0
    if "p0" in walk:
        after = walk[walk.index("p0") :]
        value += 1.5 if "p1" in after else -0.5
    return value


def rewriters_luck(walk: Walk, seed: int, node: str) -> float:
    """No principle is better than another: each single rewrite gains N(0, 0.3) on its parent."""
    parts = node.split("/")
    return 0.3 * sum(luck(seed, "/".join(parts[: i + 1])) for i in range(1, len(parts)))


def mixed(walk: Walk, seed: int, node: str) -> float:
    """Principles help once and unlike each other, long ways do harm, and there is luck."""
    gains = sum(0.6 * 0.6 ** int(p[1:]) for p in set(walk))
    return gains - 0.08 * len(walk) ** 2 + 0.5 * rewriters_luck(walk, seed, node)


def nothing_helps(walk: Walk, seed: int, node: str) -> float:
    """All instructions are equally good."""
    return 0.0


LANDSCAPES: dict[str, Landscape] = {
    f.__name__.replace("_", " "): f
    for f in (
        adds_up, one_is_enough, wears_off, deceptive, rewriters_luck, mixed, nothing_helps
    )
}  # fmt: skip


class World(NamedTuple):
    """A landscape seen through noise.

    Attributes:
        value: of a way through the principles.
        noise: standard deviation of one score.
        seed: of luck and noise.
    """

    value: Landscape
    noise: float
    seed: int

    def true(self, walk: Walk, node: str) -> float:
        """The value of a rewrite."""
        return self.value(walk, self.seed, node)

    def scores(self, walk: Walk, node: str, rng: np.random.Generator) -> list[float]:
        """Scores of the answers to it."""
        noise = self.noise * rng.standard_normal(SAMPLES)
        return [float(x) for x in self.true(walk, node) + noise]


class Found(NamedTuple):
    """Rewrites with their true values and the means of their scores; the raw one first."""

    true: list[float]
    mean: list[float]

    @property
    def chosen(self) -> float:
        """True value of what looks best."""
        return self.true[int(np.argmax(self.mean))]


def _node(tree: Tree, place: int) -> str:
    """A name for a node by its way from the root."""
    return "/".join(["raw", *tree.path(place)])


def search(world: World, actions: int, c: float, normalise: str) -> tuple[Found, Tree]:
    """Our tree search."""
    names = [f"p{i}" for i in range(actions)]
    rng = np.random.default_rng([world.seed, 1])
    drawn = np.random.default_rng([world.seed, 2])
    tree = Tree("raw", names, drawn, c, normalise)  # type: ignore[arg-type]
    for _ in range(ITERATIONS):
        proposal = tree.propose()
        assert proposal is not None
        walk = (*tree.path(proposal.parent), proposal.action)
        name = "/".join(["raw", *walk])
        tree.add(name, world.scores(walk, name, rng))
    tree.measure_root(world.scores((), "raw", rng))
    true = [world.true(tuple(tree.path(p)), _node(tree, p)) for p in range(len(tree.nodes))]
    return Found(true, [float(node.mean or 0.0) for node in tree.nodes]), tree


def rewriting(world: World, actions: int, deep: bool) -> Found:
    """Random rewriting: of the raw instruction, or of any that is there, all equally likely."""
    rng = np.random.default_rng([world.seed, 1])
    drawn = np.random.default_rng([world.seed, 3])
    walks: list[Walk] = [()]
    names = ["raw"]
    for i in range(ITERATIONS):
        parent = int(drawn.integers(len(walks))) if deep else 0
        action = f"p{drawn.integers(actions)}"
        walks.append((*walks[parent], action))
        names.append(f"{names[parent]}/{action}#{i}")  # each rewrite has a luck of its own
    true = [world.true(w, n) for w, n in zip(walks, names, strict=True)]
    scores = [world.scores(w, n, rng) for w, n in zip(walks, names, strict=True)]
    return Found(true, [math.fsum(s) / SAMPLES for s in scores])


METHODS: dict[str, Callable[[World, int], Found]] = {
    "best of n": lambda w, k: rewriting(w, k, deep=False),
    "random tree": lambda w, k: rewriting(w, k, deep=True),
    "c = 0.1 (default)": lambda w, k: search(w, k, 0.1, "min_max")[0],
    "c = 0": lambda w, k: search(w, k, 0.0, "min_max")[0],
    "c = 0.5": lambda w, k: search(w, k, 0.5, "min_max")[0],
    "c = 1": lambda w, k: search(w, k, 1.0, "min_max")[0],
}


def _chosen(job: tuple[str, int, float, range]) -> np.ndarray:
    """True values of what each method chooses, Float64[seeds, methods]."""
    name, actions, noise, seeds = job
    worlds = [World(LANDSCAPES[name], noise, seed) for seed in seeds]
    return np.array([[m(world, actions).chosen for m in METHODS.values()] for world in worlds])


def _interval(values: np.ndarray) -> str:
    half = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    return f"{values.mean():+.2f} ± {half:.2f}"


def compare(seeds: int, workers: int) -> None:
    """Print the true gain of each method, and the search's paired difference to best of n."""
    jobs = [
        (name, actions, noise, range(seeds))
        for name in LANDSCAPES
        for actions in (3, 5)
        for noise in (0.2, 1.0)
    ]
    with ProcessPoolExecutor(workers) as pool:
        found = list(pool.map(_chosen, jobs))
    heads = [*METHODS, "search - best of n", "search - random tree"]
    print(f"True value of the chosen instruction, {seeds} seeds, 95 % intervals.\n")
    print("| landscape | principles | noise | " + " | ".join(heads) + " |")
    print("|---|--:|--:|" + "--:|" * len(heads))
    names = list(METHODS)
    ours, best, tree = (names.index(n) for n in ("c = 0.1 (default)", "best of n", "random tree"))
    for (name, actions, noise, _), values in zip(jobs, found, strict=True):
        cells = [f"{values[:, i].mean():.2f}" for i in range(len(METHODS))]
        cells += [_interval(values[:, ours] - values[:, i]) for i in (best, tree)]
        print(f"| {name} | {actions} | {noise:g} | " + " | ".join(cells) + " |")


class Written(NamedTuple):
    """A pair of a tree.

    Attributes:
        gap: by the scores that chose it.
        margin: by samples that chose nothing.
        true: by the values that are written down.
    """

    gap: float
    margin: float
    true: float


Kind = Literal["normal", "whole numbers", "0 or 1"]


class Setting(NamedTuple):
    """How trees write pairs.

    Attributes:
        world, noise: a landscape, and the standard deviation of one score.
        level, ends, output: of `InstructionSearch`.
        kind: of scores.
    """

    world: str
    noise: float
    level: float | None
    ends: int = 2
    output: Output = "pairs"
    kind: Kind = "normal"


class Scores(NamedTuple):
    """A world whose scores are of a kind: whole numbers 1 to 10, or a success in five, say."""

    world: World
    kind: Kind

    def scores(self, walk: Walk, node: str, rng: np.random.Generator) -> list[float]:
        """Scores of the answers to a rewrite."""
        if self.kind == "0 or 1":
            return [float(x) for x in rng.random(SAMPLES) < SUCCESS]
        scores = self.world.scores(walk, node, rng)
        whole = [float(min(max(round(6 + s), 1), 10)) for s in scores]
        return scores if self.kind == "normal" else whole


SUCCESS = 0.2
"""Share of answers that are right, where a score is 0 or 1."""


def write(setting: Setting, seed: int) -> list[Written]:
    """Let one tree write its pairs, as `generators.instruction_search.rows` does."""
    world = Scores(World(LANDSCAPES[setting.world], setting.noise, seed), setting.kind)
    tree = grown(world, seed)
    rng = np.random.default_rng([seed, 4])

    def again(places: set[int]) -> dict[int, float]:
        ways = {p: (tuple(tree.path(p)), _node(tree, p)) for p in sorted(places)}
        return {p: float(np.mean(world.scores(*way, rng))) for p, way in ways.items()}

    spread = spread_of(tree.nodes)
    searched = [(c, passes(c)) for c in contests(tree, setting.output, max(setting.ends, 1))]
    verdicts = [(c, v) for c, v in searched if v.chosen is not None]
    if setting.ends:
        fresh = again({p for c, _ in verdicts for p in (*c.tops, *c.bottoms)})
        verdicts = [(c, measured(c, fresh, spread, SAMPLES)) for c, _ in verdicts]
        if setting.level is not None:
            verdicts = confirmed(verdicts, setting.level)
    pairs = [
        (v.chosen, v.rejected, float(v.gap or 0.0))
        for _, v in verdicts
        if v.chosen is not None and v.rejected is not None
    ]
    means = {place: float(node.mean or 0.0) for place, node in enumerate(tree.nodes)}
    unseen = again({p for a, b, _ in pairs for p in (a, b)}) if setting.ends else means
    true = {p: world.world.true(tuple(tree.path(p)), _node(tree, p)) for p in means}
    return [Written(gap, unseen[a] - unseen[b], true[a] - true[b]) for a, b, gap in pairs]


def grown(world: Scores, seed: int) -> Tree:
    """A finished tree of 20 rewrites by 4 principles, c = 0.1."""
    rng = np.random.default_rng([seed, 1])
    tree = Tree("raw", [f"p{i}" for i in range(4)], np.random.default_rng([seed, 2]), 0.1)
    for _ in range(ITERATIONS):
        proposal = tree.propose()
        assert proposal is not None
        walk = (*tree.path(proposal.parent), proposal.action)
        name = "/".join(["raw", *walk])
        tree.add(name, world.scores(walk, name, rng))
    tree.measure_root(world.scores((), "raw", rng))
    return tree


def _writes(job: tuple[Setting, range]) -> list[list[Written]]:
    setting, seeds = job
    return [write(setting, seed) for seed in seeds]


def levels(seeds: int, workers: int) -> None:
    """Print how often trees write pairs, how often they are right, and by how much they flatter."""
    rules: list[tuple[float | None, int]] = [(None, 0), (None, 2), (0.2, 2), (0.05, 2), (0.01, 2)]
    worlds = [("nothing helps", 1.0), ("adds up", 1.0), ("mixed", 1.0), ("mixed", 0.2)]
    settings = [Setting(name, noise, *rule) for name, noise in worlds for rule in rules]
    outputs: list[Output] = ["instructions", "siblings", "steps"]
    settings += [
        Setting(name, 1.0, 0.05, 2, output)
        for name in ("nothing helps", "adds up")
        for output in outputs
    ]
    kinds: list[Kind] = ["whole numbers", "0 or 1"]
    settings += [Setting("nothing helps", 1.0, 0.05, 2, "pairs", kind) for kind in kinds]
    with ProcessPoolExecutor(workers) as pool:
        found = list(pool.map(_writes, [(s, range(seeds)) for s in settings]))
    print(f"\nPairs written, {seeds} trees with 4 principles, c = 0.1.\n")
    print("| landscape | noise | output | level | ends | trees that write | pairs a tree "
          "| truly better | gap | margin | true |")  # fmt: skip
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for one, trees in zip(settings, found, strict=True):
        pairs = [p for tree in trees for p in tree]
        share = f"{100 * np.mean([bool(tree) for tree in trees]):.1f} %"
        numbers = [f"{np.mean(v):.2f}" if v else "-" for v in zip(*pairs, strict=True)]
        numbers = numbers or ["-"] * 3
        helps = one.world != "nothing helps" and pairs
        right = f"{100 * np.mean([p.true > 0 for p in pairs]):.1f} %" if helps else "-"
        level = "none" if one.level is None else f"{one.level:g}"
        about = one.output if one.kind == "normal" else f"{one.output}, scores {one.kind}"
        print(
            f"| {one.world} | {one.noise:g} | {about} | {level} | {one.ends} | {share} "
            f"| {len(pairs) / len(trees):.2f} | {right} | " + " | ".join(numbers) + " |"
        )


def power(trees: int = 20_000) -> None:
    """Print how often a pair is written where one node is better and one worse than 19 equals."""
    rng = np.random.default_rng(0)
    shares = {}
    for gap in (0.0, 1.0, 2.0, 3.0, 4.0):
        true = np.zeros(ITERATIONS + 1)
        true[:2] = gap / 2, -gap / 2
        scores = true[:, None] + rng.normal(size=(trees, ITERATIONS + 1, SAMPLES))
        means = scores.mean(axis=2)
        freedom = (ITERATIONS + 1) * (SAMPLES - 1)
        sd = np.sqrt(((scores - means[..., None]) ** 2).sum(axis=(1, 2)) / freedom)
        order = np.argsort(-means, axis=1)[:, [0, 1, -2, -1]]
        fresh = true[order] + rng.normal(size=(trees, 4)) / math.sqrt(SAMPLES)
        gaps = fresh[:, :2].max(axis=1) - fresh[:, 2:].min(axis=1)
        shares[gap] = np.mean(gaps > critical(0.05, 2, 2, SAMPLES, freedom) * sd)
    limit = critical(0.05, 2, 2, SAMPLES, freedom)
    print(
        f"\nLevel .05 is {limit:.2f} sd. One node better and one worse than 19, {trees:,} trees.\n"
    )
    print("| true gap, sd of one score | " + " | ".join(f"{gap:g}" for gap in shares) + " |")
    print("|---|" + "--:|" * len(shares))
    print("| written | " + " | ".join(f"{100 * share:.1f} %" for share in shares.values()) + " |")


def throughput(latency_s: float = 0.1) -> None:
    """Print seconds per tree against a server of 100 ms latency."""
    import polars as pl

    from generators import InstructionSearch
    from prefactory.apply import apply_generator
    from prefactory.context import Context
    from prefactory.engines.session import Session
    from prefactory.tables import MESSAGES, Shape, with_prompt_id
    from tests.prefactory.engines.mock_server import MockServer, answer, chat

    def behave(body: dict, times: int) -> tuple[str, dict]:  # type: ignore[type-arg]
        text = body["messages"][-1]["content"]
        mark = hashlib.blake2b(f"{body}".encode(), digest_size=4).hexdigest()
        if "one way only" in text:
            return "ok", answer(chat(f"<instruction>say {mark} more</instruction>"))
        if "Rate the answer" in text:
            return "ok", answer(chat(f'{{"score": {1 + int(mark, 16) % 9}}}'))
        return "ok", answer(chat(f"answer {mark}"))

    print("\n| trees | calls | seconds | calls/s | one tree's rounds alone |")
    print("|--:|--:|--:|--:|--:|")
    for trees in (1, 16, 64):
        texts = pl.Series([f"question {i}" for i in range(trees)])
        message = pl.struct(role=pl.lit("user"), content=texts)
        table = pl.select(prompt=pl.concat_list(message).cast(MESSAGES), source_id=texts)
        table = with_prompt_id(table).with_columns(source=pl.lit("benchmark"))
        table = table.select("prompt_id", "prompt", "source", "source_id").sort("prompt_id")
        with MockServer(behave, latency_s) as server, tempfile.TemporaryDirectory() as folder:
            engine = {"engine": "server", "base_url": server.url, "model": "m",
                      "max_concurrency": 256}  # fmt: skip
            step = InstructionSearch(
                rewriter=engine, responder=engine, scorer={"judge": engine}, floor=None,  # type: ignore[arg-type]
                output="trees",
            )  # fmt: skip
            with Session(Path(folder)) as session:
                ctx = Context(engine=session.engine)
                started = time.perf_counter()
                apply_generator(step, "step", table, Shape.PROMPTS, ctx)
                seconds = time.perf_counter() - started
            calls = len(server.bodies)
        rounds = (3 * ITERATIONS + 2) * latency_s
        print(f"| {trees} | {calls:,} | {seconds:.1f} | {calls / seconds:,.0f} | {rounds:.1f} s |")


def likeness(path: Path) -> None:
    """Print what the floor and the length cap make of rewrites that people or models made (BPO)."""
    from prefactory.engines.encoder import Encoder

    rows = json.loads(gzip.decompress(path.read_bytes()))
    rows = [r for r in rows if r["prompt"].strip() != r["optimized_prompt"].strip()]
    columns = {c: [r[c] for r in rows] for c in ("prompt", "optimized_prompt", "good_res")}
    with Encoder().open() as encoder:
        raw, new, answers = (encoder.embed(texts).astype(np.float64) for texts in columns.values())
    cosines = {
        "its rewrite": (raw * new).sum(axis=1),
        "another's rewrite": (raw * np.roll(new, 1, axis=0)).sum(axis=1),
        "a good answer to it": (raw * answers).sum(axis=1),
    }
    print(f"cosine (MiniLM) of a raw instruction and ..., {len(rows)} of {path.name}\n")
    print("| | least | 1 % | 5 % | half | most |\n|---|--:|--:|--:|--:|--:|")
    for name, values in cosines.items():
        shown = [f"{x:.2f}" for x in np.percentile(values, [0, 1, 5, 50, 100])]
        print(f"| {name} | " + " | ".join(shown) + " |")
    lengths = np.array([[len(r["prompt"]), len(r["optimized_prompt"])] for r in rows])
    over = int((lengths[:, 1] > 3 * lengths[:, 0] + 500).sum())
    print(f"\nlonger than 3 times the raw one and 500 characters: {over}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--likeness", type=Path)
    options = parser.parse_args()
    if options.likeness is not None:
        likeness(options.likeness)
        return
    if options.throughput:
        print(f"{os.cpu_count()} cores, load {os.getloadavg()}")
        throughput()
        return
    started = time.perf_counter()
    compare(options.seeds, options.workers)
    levels(2 * options.seeds, options.workers)
    power()
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
