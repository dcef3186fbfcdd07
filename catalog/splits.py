"""Splits cut by prompt group: rows whose conversations open alike are on the same side.

Groups whose texts are near-duplicates (by `prefactory.near`, the defaults of
`filters.NearDuplicates`) are clusters, and a cluster is on one side as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from prefactory.context import Context
from prefactory.identity import fingerprint
from prefactory.near.likeness import Rule
from prefactory.near.linking import linking_edges
from prefactory.near.minhash import banding
from prefactory.near.pairs import clusters, read_rows, reduce_texts
from prefactory.orders import Order
from prefactory.orders.links import all_links, linked_in, of_places
from prefactory.shards import in_runs
from prefactory.step.exchange import Linking
from prefactory.store import Store
from prefactory.tables import digests
from prefactory.utf8 import change_runs

SPLITS = ("train", "test")
THRESHOLD, RECALL, SHINGLE = 0.35, 0.95, 2
"""Of the near-duplicates among prompts; see `filters.duplicates.near.Shingled`."""
LARGE = 0.5
"""A cluster with more groups than this share of the test split's is always in train: a template
that fills half of the test split is no sample of the data."""

CLUSTERS = pl.Schema({"group": pl.String, "cluster": pl.String, "large": pl.Boolean})
"""Schema of the groups that have near-duplicates: digest of the group's text, the least digest of
its cluster, whether the cluster is too large for the test split. Other groups are not in it."""


def group_key(prompt: pl.Expr) -> pl.Expr:
    """Text by which prompts are grouped: the first user message, folded.

    NFKC, lower case, letters and digits only. Turns of one conversation, the same question under
    another system message, and questions that differ in case or punctuation share a group.
    """
    users = prompt.list.eval(
        pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content")
    )
    first = users.list.first().fill_null("")
    return first.map_batches(_folded, return_dtype=pl.String, is_elementwise=True)


def _folded(texts: pl.Series) -> pl.Series:
    """As columns, not as an expression: that would work out the same three times."""
    text = change_runs(texts, lambda runs: runs.str.normalize("NFKC")).str.to_lowercase()
    folded = text.str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()
    return folded.zip_with(folded != "", text)


def reduce_prompts(table: pl.DataFrame) -> pl.DataFrame:
    """Reduce the distinct groups of a table with `prompt` to digests and hashes (no texts).

    Returns:
        `group` (String, digest) and the columns of `prefactory.near.pairs.reduce_texts`.
    """
    groups = table.select(group_key(pl.col("prompt"))).to_series().unique()
    return _reduced(groups, digests(groups))


def _reduced(groups: pl.Series, keys: pl.Series) -> pl.DataFrame:
    hashes = reduce_texts({"prompt": groups}, SHINGLE, banding(THRESHOLD, RECALL))
    return hashes.insert_column(0, keys.alias("group"))


class Grouped(NamedTuple):
    """Some prompts and their groups.

    Attributes:
        prompts: `prompt_id` and `group` (digest of the group's text), each id once.
        hashes: of the groups, as of `reduce_prompts`; None where they are not compared.
        key: of the hashes, where they lie in a store.
    """

    prompts: pl.DataFrame
    hashes: pl.DataFrame | None
    key: str


def group_prompts(table: pl.DataFrame, near: bool, of: object) -> Grouped:
    """Group the prompts of a table, and reduce the groups to hashes if they are compared.

    Args:
        table: `prompt_id` and `prompt`, each id once.
        near: whether near-duplicates among the groups will be looked for.
        of: plain data that tells the table from others.
    """
    texts = table.select("prompt_id", text=group_key(pl.col("prompt")))
    groups = texts["text"].unique()
    known = pl.DataFrame({"text": groups, "group": digests(groups)})
    prompts = texts.join(known, on="text", how="left").select("prompt_id", "group")
    hashes = _reduced(groups, known["group"]) if near and groups.len() else None
    return Grouped(prompts, hashes, fingerprint(["groups", 1, THRESHOLD, RECALL, SHINGLE, of]))


class Linked(NamedTuple):
    """Where groups are linked whose hashes are too many to be held.

    Attributes:
        store: of the run; it takes the hashes.
        make: has orders of it done (their kind, and they).
        most: groups whose hashes are held at a time, about; the split does not depend on it.
    """

    store: Store
    make: Callable[[str, Sequence[Order]], object]
    most: int


def test_prompts(
    parts: Iterable[Grouped], test_fraction: float, seed: int, linked: Linked
) -> pl.Series:
    """Ids of the prompts in the test split, by the same draw as `with_split`.

    Args:
        parts: the prompts of all tables; ids and groups may repeat.
        test_fraction: share of the groups in the test split.
        seed: of the draw.
        linked: how groups are linked if there are more than its `most`.
    """
    prompts, held, lying = list[pl.DataFrame](), list[Grouped](), dict[str, int]()
    for part in parts:
        prompts.append(part.prompts)
        held += [] if part.hashes is None else [part._replace(prompts=part.prompts[:0])]
        if lying or sum(_groups(each) for each in held) > linked.most:
            for each in held:
                _put(each, linked.store)
                lying[each.key] = _groups(each)
            held = []
    if not prompts:
        return pl.Series("prompt_id", [], dtype=pl.String)
    every = pl.concat(prompts).unique("prompt_id")
    groups = every["group"].unique()
    near = None
    if lying:
        near = _clusters(_linked_groups(linked, lying), test_fraction, groups.len())
    elif held:
        near = cluster_groups(_let_go(held), test_fraction)
    drawn = _drawn(groups, test_fraction, seed, near)
    return every.join(drawn.filter("test"), left_on="group", right_on="key", how="semi")[
        "prompt_id"
    ]


def cluster_groups(parts: Iterable[pl.DataFrame], test_fraction: float) -> pl.DataFrame:
    """Find the clusters of near-duplicates among the groups of all tables of a version.

    Args:
        parts: what `reduce_prompts` made; groups may repeat.
        test_fraction: share of the groups in the test split.

    Returns:
        The clusters of more than one group (see `CLUSTERS`), sorted by group.
    """
    table = near_groups(parts)
    return _clusters(table, test_fraction, table.height)


def _clusters(table: pl.DataFrame, test_fraction: float, groups: int) -> pl.DataFrame:
    """The same, of groups with number and size of their cluster; so many there are in all."""
    most = max(2.0, LARGE * test_fraction * groups)
    return (
        table.filter(pl.col("size") > 1)
        .with_columns(cluster=pl.col("group").min().over("number"), large=pl.col("size") > most)
        .select(list(CLUSTERS))
    )


def _let_go(held: list[Grouped]) -> Iterator[pl.DataFrame]:
    """The hashes of groups, which are held no longer: two copies of them are too many."""
    while held:
        if (hashes := held.pop(0).hashes) is not None:
            yield hashes


def _groups(part: Grouped) -> int:
    return 0 if part.hashes is None else part.hashes.height


def _put(part: Grouped, store: Store) -> None:
    """Put hashes into a store, if it has them not yet."""
    if store.open(part.key) is not None or part.hashes is None:
        return
    with store.claim(part.key):
        if store.open(part.key) is None:  # perhaps another run has put them meanwhile
            with store.write(part.key) as writer:
                writer.table("part", part.hashes)


def _linked_groups(linked: Linked, lying: Mapping[str, int]) -> pl.DataFrame:
    """As `near_groups`, of the hashes that lie in a store, without groups that are near to none.

    Args:
        linked: where, and by whom.
        lying: keys of the hashes, and of how many groups they are.
    """
    keys, store = list(lying), linked.store
    how = Linking(banding(THRESHOLD, RECALL), Rule(THRESHOLD))
    runs = in_runs(list(lying.values()), linked.most)
    plan = linked_in("splits", how, [keys[a:b] for a, b in runs])
    for kind, orders in plan.batches:
        linked.make(f"splits ({kind})", orders)
    found = all_links(store, [plan.places, *plan.links])
    rows = np.unique(np.concatenate([found.left, found.right]))
    told = of_places(store, plan.places, plan.runs, rows)
    number = clusters(found.placed(rows).edges, rows.size)
    groups = pl.DataFrame({"group": told["id"], "number": number}).unique("group").sort("group")
    return groups.with_columns(size=pl.len().over("number"))


def near_groups(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Number the clusters of near-duplicates among groups.

    Args:
        parts: what `reduce_prompts` made; groups may repeat.

    Returns:
        `group` (String, each once, sorted), `number` (Int64, of its cluster) and `size` (groups of
        the cluster).
    """
    frames = list(parts)
    if not frames:
        return pl.DataFrame(schema={"group": pl.String, "number": pl.Int64, "size": pl.Int64})
    keys = pl.concat([frame["group"] for frame in frames])
    once = keys.is_first_distinct().arg_true()
    at, columns = once.gather(keys.gather(once).arg_sort()), list[pl.Series]()
    for name in frames[0].columns:  # one by one: no two copies of all hashes
        columns.append(pl.concat([frame[name] for frame in frames]).gather(at))
        frames = [frame.drop(name) for frame in frames]
    groups = pl.DataFrame(columns)
    rows = read_rows(groups, banding(THRESHOLD, RECALL))
    number = clusters(linking_edges(rows, Rule(THRESHOLD)), groups.height)
    size = np.bincount(number, minlength=1)[number]
    return groups.select("group", number=pl.Series(number), size=pl.Series(size))


def prompt_clusters(table: pl.DataFrame) -> pl.Series:
    """Number of each row's cluster of near-duplicate prompts, Int64 [n].

    Pairs that contradict each other have one prompt, and so one cluster.

    Args:
        table: has `prompt`.
    """
    groups = table.select(group=group_key(pl.col("prompt")))["group"]
    near = near_groups([reduce_prompts(table)])
    keys = pl.DataFrame({"group": digests(groups)})
    return keys.join(near, on="group", how="left", maintain_order="left")["number"]


def with_split(
    table: pl.DataFrame, test_fraction: float, seed: int, near: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Add `split` (`train` or `test`), drawn per prompt group from (seed, group).

    Args:
        table: has `prompt`.
        test_fraction: share of the groups in the test split.
        seed: of the draw.
        near: clusters of near-duplicate groups (see `CLUSTERS`), each drawn as its first group.
    """
    groups = table.select(group_key(pl.col("prompt")).alias("group"))
    distinct = groups["group"].unique()
    drawn = _drawn(digests(distinct), test_fraction, seed, near).with_columns(group=distinct)
    test = groups.join(drawn, on="group", how="left", maintain_order="left")["test"]
    return table.with_columns(split=pl.when(test).then(pl.lit("test")).otherwise(pl.lit("train")))


def _drawn(
    keys: pl.Series, test_fraction: float, seed: int, near: pl.DataFrame | None
) -> pl.DataFrame:
    """`key` and `test`: the side of each group, in the order of their digests."""
    drawn = pl.DataFrame({"key": keys, "own": keys})
    large = pl.lit(value=False)
    if near is not None:
        drawn = drawn.join(near, left_on="own", right_on="group", how="left", maintain_order="left")
        drawn = drawn.with_columns(own=pl.coalesce("cluster", "own"))
        large = pl.col("large").fill_null(value=False)
    draw = Context(seed, "publish").uniform(drawn["own"], "split")
    return drawn.with_columns(draw=draw).select(
        "key", test=(pl.col("draw") < test_fraction) & ~large
    )
