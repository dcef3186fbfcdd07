"""Examples that a judge is shown before its question: pairs whose better answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from prefactory import yamllines
from prefactory.errors import ConfigError


class Example(BaseModel):
    """A pair that a judge is shown with its verdict.

    Attributes:
        prompt: the conversation, as text.
        chosen, rejected: the answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)

    def answers(self, turned: bool) -> tuple[list[str], int]:
        """The answers as they are shown, and the place of the better one."""
        both = [self.chosen, self.rejected]
        return (both[::-1], 1) if turned else (both, 0)


def read_examples(value: object) -> object:
    """Examples as a recipe has them: a list, or a file that `prefactory judge-examples` wrote.

    What stands in the file beside them, the evidence, decides nothing.

    Raises:
        ValueError: the file can't be read, or holds no list under `examples`.
    """
    if not isinstance(value, str):
        return value
    try:
        found = yamllines.load(Path(value).read_text("utf-8"), Path(value).name)[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the examples {value} can't be read: {error}") from error
    except ConfigError as error:
        raise ValueError(f"{value} is no YAML: {error}") from error
    listed = found.get("examples") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"{value} holds no list under `examples`")
    return tuple(listed)


Examples = Annotated[tuple[Example, ...], BeforeValidator(read_examples)]
