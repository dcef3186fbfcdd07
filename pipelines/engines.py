"""The engines behind every step that asks a model: one session per build."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.progress import Progress
from pipelines.serve.running import announced
from pipelines.settings import Settings

if TYPE_CHECKING:
    from prefactory.engines.session import Session

_LOG = logging.getLogger(__name__)


@contextmanager
def engines(settings: Settings, progress: Progress | None = None) -> Iterator[Session]:
    """The engines of one build, journalled in the home and its bucket; says at the end what for.

    Args:
        settings: home, prices and budget.
        progress: what is going on; None shows the calls alone.

    Raises:
        ConfigError: the price file has the wrong form.
    """
    from prefactory.engines.session import Session

    shown = progress or Progress()
    journal = settings.home / "journal"
    asked = settings.prices, settings.budget, shown.title, settings.shared
    with Session(journal, *asked) as session:
        try:
            with (
                shown.shown(session.accounts),
                announced(settings.home, shown, session.accounts),
            ):
                yield session
        finally:
            for model, usage in session.report().items():
                _LOG.info(used_line(model, usage))


def used_line(model: str, used: dict[str, Any]) -> str:
    """One line about what a model was used for."""
    money = f"{used['usd']:.4f} US dollars" if used["priced"] else "price unknown"
    return (
        f"{model}: {used['calls']:,} calls, {used['reused']:,} from the journal, "
        f"{used['failures']:,} failures, {used['prompt_tokens']:,} + "
        f"{used['completion_tokens']:,} tokens, {money}"
    )
