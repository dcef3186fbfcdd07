"""System messages without a model: how long, and how varied.

    python benchmarks/system_messages.py [--prompts 100000] [--messages 1] [--values janus]

Runs `generators.SystemMessages` (embedded) as a recipe does, in shards of 16,384 prompts, without
reading or writing files; then measures a sample of what came out.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time

import polars as pl

from generators import SystemMessages
from prefactory.apply import apply_generator
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.measures import diversity
from prefactory.tables import MESSAGES, Shape, with_prompt_id

SHARD = 16_384


def prompts(n: int) -> pl.DataFrame:
    """Distinct prompts of about 20 words."""
    text = pl.format(
        "Question {}: what should I know before I start, which steps come first, and what goes "
        "wrong most often?",
        pl.int_range(n),
    )
    message = pl.struct(role=pl.lit("user"), content=text)
    table = pl.select(prompt=pl.concat_list(message).cast(MESSAGES), source_id=text)
    table = with_prompt_id(table).with_columns(source=pl.lit("benchmark"))
    return table.select("prompt_id", "prompt", "source", "source_id").sort("prompt_id")


def main() -> None:
    """Print time and diversity."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=1)
    parser.add_argument("--values", default="janus")
    parser.add_argument("--vendi", action="store_true", help="embed 200 messages (MiniLM)")
    options = parser.parse_args()
    step = SystemMessages(values=options.values, messages=options.messages)
    table = prompts(options.prompts)
    shards = [table[i : i + SHARD] for i in range(0, table.height, SHARD)]
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}")
    ctx = Context(step="SystemMessages")
    started = time.perf_counter()
    parts = pl.concat([step.fit_shard(shard, ctx) for shard in shards]).sort("prompt_id")
    state = step.fit(parts, ctx)
    fitted = time.perf_counter()
    ctx = Context(step="SystemMessages", state=state)
    rows = [apply_generator(step, "step", s, Shape.PROMPTS, ctx)[0] for s in shards]
    ended = time.perf_counter()
    made = pl.concat(rows)
    texts = made["prompt"].list.first().struct.field("content")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{table.height:,} prompts, {made.height:,} messages ({texts.n_unique():,} different): "
        f"sets {fitted - started:.1f} s, messages {ended - fitted:.1f} s, "
        f"in all {ended - started:.1f} s; peak {memory:,.0f} MB"
    )
    for level, found in state.info["coverage"].items():
        counts = [node["n"] for node in found["nodes"].values()]
        print(
            f"{level:<13} {len(counts):>3} nodes, {min(counts):,} to {max(counts):,} messages "
            f"each, entropy {found['entropy']}"
        )
    sample = texts.sample(200, seed=0).to_list()
    shown = dict(diversity.of_texts(sample))
    if options.vendi:
        with Encoder().open() as encoder:
            shown["vendi"] = round(diversity.vendi_of(encoder.embed(sample)), 2)
    print("200 messages: " + ", ".join(f"{k} {v:g}" for k, v in shown.items()))
    print(f"mean words {texts.str.split(' ').list.len().mean():.1f}; for example:")
    for text in sample[:3]:
        print(f"  {text}")


if __name__ == "__main__":
    main()
