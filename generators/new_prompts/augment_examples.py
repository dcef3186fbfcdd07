"""Examples of complements by kind of request, and how long a complement is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from generators import pools
from generators.hard_negatives.texts import pieces
from prefactory.errors import ConfigError


class Example(BaseModel):
    """A request and what would complement it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str = Field(min_length=1)
    complement: str = Field(min_length=1)


Pool = dict[str, tuple[Example, ...]]
"""Kind of request -> examples."""


def load_examples(name_or_path: str) -> Pool:
    """Read examples by kind: those that come with prefactory (`complements`), or a YAML file.

    Raises:
        ConfigError: there is no such file, it has another form, or no kind `general`.
    """
    try:
        pool = TypeAdapter(Pool).validate_python(pools.read(name_or_path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"examples {name_or_path}: {place}: {first['msg']}; a kind is a list of request and "
            "complement"
        ) from error
    if not pool.get("general"):
        raise ConfigError(
            f"examples {name_or_path} have no kind 'general', the one to fall back to"
        )
    return pool


def word_count(text: str) -> int:
    """Words of a text; in scripts without spaces two letters count as one."""
    found = pieces(text)
    letters = sum(len(p.strip()) == 1 and ord(p.strip()) > 0x0DFF for p in found)
    return len(found) - letters + -(-letters // 2)
