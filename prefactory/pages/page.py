"""One HTML page that loads nothing, with every text of the data escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, FileSystemLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from prefactory.pages import wording
from prefactory.pages.compiled import Compiled

BASE = Path(__file__).parent


def environment(
    folder: Path | Sequence[Path], filters: Mapping[str, Any], *, lenient: bool = False
) -> SandboxedEnvironment:
    """Templates of a folder, and `base.html.j2`, which they extend; all values are escaped.

    Args:
        folder: of the page's own templates; of several, the first that has one gives it.
        filters: beside `count`, `num`, `percent` and `plain` of `prefactory.pages.wording`.
        lenient: a name that is not there is empty, not an error.
    """
    templates = SandboxedEnvironment(
        loader=FileSystemLoader([*([folder] if isinstance(folder, Path) else folder), BASE]),
        autoescape=True,
        undefined=ChainableUndefined if lenient else StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=Compiled(),
    )
    for name in ("count", "num", "percent", "plain"):
        templates.filters[name] = getattr(wording, name)
    templates.filters |= filters
    return templates


def render(
    templates: SandboxedEnvironment, name: str, css: list[Path], js: list[Path], **values: object
) -> str:
    """Render a page. The same values give the same text.

    Its content security policy allows one style sheet and one script, by their digests, and no
    connection: even text that broke out would run nothing.

    Args:
        templates: of `environment`.
        name: of the template.
        css: style sheets of ours, joined after `base.css`.
        js: scripts of ours, joined after `base.js`; none: the page has no script.
        values: of the template.
    """
    style = assets(BASE / "base.css", *css)
    script = assets(BASE / "base.js", *js) if js else Markup("")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; "
        + (f"script-src {_digest(script)}; " if js else "")
        + "img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = templates.get_template(name)
    return readable(page.render(css=style, js=script, policy=policy, **values))


def assets(*paths: Path) -> Markup:
    """Files of ours, to be inlined as they are."""
    return Markup("".join(path.read_text(encoding="utf-8") for path in paths))  # noqa: S704


def readable(html: str) -> str:
    """Make control characters visible and lone surrogates harmless."""
    return html.translate(wording.CONTROLS).encode("utf-8", "replace").decode("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
