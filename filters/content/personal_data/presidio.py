"""Personal data by Microsoft's Presidio, beside our rules (extra `pii`)."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from functools import lru_cache
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from filters.content.personal_data.hide import Hidden, marks_for
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.overrides import nearest

_HOW = "pip install -e '.[pii]' (in the checkout of prefactory)"


class Presidio(BaseModel):
    """Which of Presidio's recognisers look, after our rules, at what those left.

    Attributes:
        entities: what they look for, by Presidio's names. `PERSON` and `LOCATION` need a model.
        model: a spaCy pipeline that is installed, such as `en_core_web_lg`; null uses only
            recognisers that work by patterns, which needs no download.
        language: of the texts.
        min_score: least confidence, in (0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entities: tuple[str, ...] = Field(default=("US_SSN", "US_ITIN", "CRYPTO"), min_length=1)
    model: str | None = Field(default=None, min_length=1)
    language: str = Field(default="en", min_length=2)
    min_score: float = Field(default=0.5, gt=0, le=1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of its kinds, beside those of our rules."""
        return tuple(entity.lower() for entity in self.entities)

    def identity(self) -> dict[str, Any]:
        """Fields and the installed versions, as plain JSON data.

        Raises:
            MissingPackageError: Presidio, or the spaCy pipeline, is not installed.
        """
        packages = ["presidio-analyzer", *([self.model.replace("_", "-")] if self.model else [])]
        try:
            versions = {name: importlib.metadata.version(name) for name in packages}
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingPackageError(_missing(str(error.name))) from error
        return {"engine": "presidio", **self.model_dump(mode="json"), "versions": versions}

    def check(self) -> None:
        """Raise what `identity` or `opened` would: before a run, rather than in its middle."""
        self.identity()
        known = sorted(_analyzer(self.model, self.language).get_supported_entities(self.language))
        for entity in self.entities:
            if entity not in known:
                more = "; it may need a `model`" if self.model is None else ""
                near = nearest(entity, known) or f"; there are: {', '.join(known)}"
                raise ConfigError(f"presidio knows no entity {entity!r}{near}{more}")

    def hide(self, hidden: Hidden) -> Hidden:
        """Put marks in place of what Presidio finds, one text at a time (some hundred a second)."""
        analyzer = _analyzer(self.model, self.language)
        texts = hidden.texts
        marks, _ = marks_for(texts, self.kinds)

        def marked(text: str) -> str:
            entities = analyzer.analyze(
                text, self.language, list(self.entities), score_threshold=self.min_score
            )
            spans = sorted((r.start, -r.end, r.entity_type.lower()) for r in entities)
            pieces, at = [], 0
            for start, end, kind in spans:  # of those that overlap the first and longest counts
                if start >= at:
                    pieces += [text[at:start], marks[kind]]
                    at = -end
            return "".join([*pieces, text[at:]])

        distinct = texts.drop_nulls().unique(maintain_order=True)
        marked_texts = pl.Series([marked(text) for text in distinct], dtype=pl.String)
        known = pl.DataFrame({"old": distinct, "new": marked_texts})
        rows = pl.DataFrame({"old": texts})
        rows = rows.join(known, on="old", how="left", maintain_order="left")
        return Hidden(rows["new"].alias(texts.name), {**hidden.marks, **marks})


def _missing(package: str) -> str:
    if package == "presidio-analyzer":
        return f"presidio needs the package presidio-analyzer: {_HOW}"
    return (
        f"presidio's model needs the spaCy pipeline {package}: python -m spacy download {package}"
    )


@lru_cache(maxsize=2)
def _analyzer(model: str | None, language: str) -> Any:  # noqa: ANN401 - untyped library object
    try:
        library = importlib.import_module("presidio_analyzer")
        nlp = importlib.import_module("presidio_analyzer.nlp_engine")
    except ImportError as error:
        raise MissingPackageError(_missing("presidio-analyzer")) from error
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    if model is None:
        engine = nlp.NoOpNlpEngine([{"lang_code": language, "model_name": "none"}])
    else:
        models = [{"lang_code": language, "model_name": model}]
        engine = nlp.NlpEngineProvider(
            nlp_configuration={"nlp_engine_name": "spacy", "models": models}
        ).create_engine()
    return library.AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
