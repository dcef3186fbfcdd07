"""The engines behind every step that asks a model: one session per build."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.settings import Settings

log = logging.getLogger("prefactory")


@contextmanager
def engines(settings: Settings) -> Iterator[Callable[[Any], Any]]:
    """`(engine config) -> Engine` for one build, journalled in the home; says what it used."""
    from prefactory.engines.session import Session

    with Session(settings.home / "journal") as session:
        try:
            yield session.engine
        finally:
            for model, used in session.report().items():
                log.info(
                    "%s: %d calls, %d from the journal, %d failures, %d + %d tokens, %s",
                    model,
                    used["calls"],
                    used["reused"],
                    used["failures"],
                    used["prompt_tokens"],
                    used["completion_tokens"],
                    f"{used['usd']:.4f} US dollars" if used["priced"] else "price unknown",
                )
