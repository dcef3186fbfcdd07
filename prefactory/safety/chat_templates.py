"""Chat templates of models in our sandbox: transformers' own does not stop an endless loop."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from prefactory.extras import package
from prefactory.safety.sandbox import Sandbox

_LOCK = threading.Lock()


def bound_templates() -> None:
    """Have this process render all chat templates of transformers in our sandbox, once.

    Texts come out as before; a template that would run for ever or fill memory raises Jinja's
    `SecurityError`, as one that reaches out does. TRL and Sentence Transformers render by the same
    function.
    """
    module: Any = package("transformers.utils.chat_template_utils")
    with _LOCK:
        theirs = module._compile_jinja_template  # there is no public place to stand in
        if not hasattr(theirs, "theirs"):
            module._compile_jinja_template = _bounded(theirs)


def _bounded(theirs: Any) -> Any:  # noqa: ANN401 - a function of transformers
    @lru_cache
    def ours(text: str) -> Any:  # noqa: ANN401 - a jinja2 template
        return Sandbox(like=theirs(text).environment).from_string(text)

    ours.theirs = theirs  # type: ignore[attr-defined]
    return ours
