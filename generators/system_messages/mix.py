"""A system message by domain of the prompt, or now and then the default one (MoI)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from generators import pools
from generators.system_messages.place import ADDS, Existing, judged, placed
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Generated, Generator
from prefactory.tables import Shape

LEAST = 8
"""Messages that a domain needs (our choice): fewer would be learned by heart."""


class Domain(BaseModel):
    """Messages of one domain, and other names of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: tuple[str, ...]
    also: tuple[str, ...] = ()


class _Pools(RootModel[dict[str, Domain]]):
    """A file of domains."""


@dataclass(frozen=True, eq=False)
class DomainPools:
    """Messages of all domains.

    Attributes:
        names: every name of a domain, folded, with the domain's number.
        messages: of each domain.
    """

    names: dict[str, int]
    messages: tuple[tuple[str, ...], ...]


def load_pools(name_or_path: str) -> DomainPools:
    """Read domain pools by name or from a file of the same form.

    Raises:
        ConfigError: with all mistakes.
    """
    return _load(name_or_path, pools.changed_at(name_or_path))


@lru_cache(maxsize=8)
def _load(name_or_path: str, mark: int) -> DomainPools:
    domains = pools.read_as(_Pools, name_or_path).root
    problems: list[str] = []
    names: dict[str, int] = {}
    for number, (domain, pool) in enumerate(domains.items()):
        distinct = {" ".join(m.split()) for m in pool.messages} - {""}
        if len(distinct) < LEAST:
            problems.append(
                f"{name_or_path}: {domain} has {len(distinct)} different messages; {LEAST} or more "
                "keep a model from learning one by heart"
            )
        for name in (domain, *pool.also):
            if names.setdefault(fold(name), number) != number:
                problems.append(f"{name_or_path}: {name!r} is the name of two domains")
    if problems:
        raise ConfigError(problems)
    return DomainPools(names, tuple(pool.messages for pool in domains.values()))


def fold(name: str) -> str:
    """A domain's name without case, with single spaces for `_`, `-` and white space."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


class SystemPromptMix(Generator):
    """Put a system message before each prompt: one of its domain, or now and then the default.

    The sure part of Mixture-of-Instructions (known to us from reviews only: shares and messages are
    our choice): a message per domain ("You are a programmer.") in place of the same one for all.
    The message is drawn by prompt id, evenly from the domain's pool. `trainers.packing` packs such
    rows with domains in balance. New columns: `generators.system_messages.place.ADDS`, with
    `system_source` `domain` or `default`.

    Reasons: `has_system`, `has_role`, `no_user_message`, `unknown_domain`.

    Attributes:
        domain: column with the domain.
        several: the column is a list of domains (List(String)); the first that has a pool counts.
        pools: name of the pools, `domain_prompts`, or a YAML file: domain -> `messages`, `also`.
        default: the default message.
        default_share: how many of a known domain get the default.
        unknown: prompts of no known domain get the `default`, or `drop`.
        existing: `drop` prompts that have a system message, or `replace` it.
        refuse_roles: drop prompts whose text begins by giving the assistant a role.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    parents: ClassVar[tuple[str, ...]] = ("source_prompt_id",)
    new_prompts: ClassVar[bool] = True

    domain: str = Field(default="domain", min_length=1)
    several: bool = False
    pools: str = Field(default="domain_prompts", min_length=1)
    default: str = Field(default="You are a helpful assistant.", min_length=1)
    default_share: float = Field(default=0.3, ge=0, le=1)
    unknown: Literal["default", "drop"] = "default"
    existing: Existing = "drop"
    refuse_roles: bool = True

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        load_pools(self.pools)
        return self

    def identity(self) -> dict[str, Any]:
        """Fields, and what stands in the pools."""
        domains = load_pools(self.pools)
        used = {"names": domains.names, "messages": [list(m) for m in domains.messages]}
        return {**super().identity(), "pools": used}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The domain: String, or List(String)."""
        return {self.domain: pl.List(pl.String) if self.several else pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where the message comes from."""
        return dict(ADDS)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Put the messages.

        Args:
            table: PROMPTS with the domain.
            ctx: draws by prompt id.

        Returns:
            PROMPTS, one row per prompt that can take a message, in canonical order; and the others.
        """
        domains = load_pools(self.pools)
        number = self._numbers(table, domains)
        answer = judged(table, self.existing, self.refuse_roles)
        nowhere = answer["reason"].is_null() & number.is_null() & (self.unknown == "drop")
        answer = answer.with_columns(
            reason=pl.when(nowhere).then(pl.lit("unknown_domain")).otherwise("reason"),
            detail=pl.when(nowhere).then(_shown(table[self.domain])).otherwise("detail"),
        )
        kept = answer["reason"].is_null()
        rows, number = table.filter(kept), number.filter(kept)
        system, default = self._messages(rows["prompt_id"], number, domains, ctx)
        rows = rows.with_columns(
            system=system,
            system_source=pl.when(default).then(pl.lit("default")).otherwise(pl.lit("domain")),
            value_system=pl.lit(None, dtype=pl.String),
            value_ids=pl.lit(None, dtype=ADDS["value_ids"]),
        )
        dropped = table.select(row_id="prompt_id").hstack(answer).filter(~kept)
        return placed(rows, dropped)

    def _numbers(self, table: pl.DataFrame, domains: DomainPools) -> pl.Series:
        """Number of each prompt's domain, null where it has no pool."""
        names = pl.DataFrame(
            {"name": list(domains.names), "number": list(domains.names.values())},
            schema={"name": pl.String, "number": pl.Int64},
        )
        column = pl.col(self.domain)
        rows = table.with_row_index("row").select(
            "row", name=column if self.several else pl.concat_list(column)
        )
        rows = rows.explode("name").with_row_index("place")
        folded = pl.col("name").str.to_lowercase().str.replace_all(r"[\s_-]+", " ")
        rows = rows.with_columns(name=folded.str.strip_chars())
        rows = rows.join(names, on="name", how="inner").sort("place")
        first = rows.unique("row", keep="first", maintain_order=True).select("row", "number")
        every = pl.DataFrame(
            {"row": pl.int_range(table.height, dtype=pl.get_index_type(), eager=True)}
        )
        return every.join(first, on="row", how="left", maintain_order="left")["number"]

    def _messages(
        self, ids: pl.Series, number: pl.Series, domains: DomainPools, ctx: Context
    ) -> tuple[pl.Series, pl.Series]:
        """Message of each prompt, and whether it is the default."""
        default = number.is_null() | (ctx.uniform(ids, "default") < self.default_share)
        start = np.concatenate(([0], np.cumsum([len(m) for m in domains.messages])))
        at = number.fill_null(0).to_numpy()
        size = start[at + 1] - start[at]
        draw = (ctx.uniform(ids, "message").to_numpy() * size).astype(np.int64)
        flat = pl.Series([text for pool in domains.messages for text in pool], dtype=pl.String)
        frame = pl.DataFrame({"text": flat.gather(start[at] + draw), "default": default})
        text = pl.when("default").then(pl.lit(self.default)).otherwise("text")
        return frame.select(text=text).to_series(), default


def _shown(domain: pl.Series) -> pl.Series:
    """A domain column as text for the ledger."""
    if domain.dtype == pl.List(pl.String):
        domain = domain.list.join(", ", ignore_nulls=True)
    return domain.fill_null("no domain")
