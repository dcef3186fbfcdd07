"""What handlers are given: the review, who asks, and how to answer."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from prefactory.errors import PrefactoryError
from prefactory.pages.page import BASE, environment
from review import people
from review.app import guard
from review.people import Person
from review.settings import Settings
from review.store import Review

HERE = Path(__file__).parent
FRESH_S = 2.0
"""Seconds after which settings, guidelines and the number of open rows are read again."""
STATIC = {
    "app.css": ("text/css", (BASE / "base.css", HERE / "static" / "app.css")),
    "app.js": ("text/javascript", (HERE / "static" / "app.js",)),
    "htmx.min.js": ("text/javascript", (HERE / "static" / "htmx.min.js",)),
}


@dataclass
class Call:
    """One request, as handlers get it.

    Attributes:
        app: the app.
        request: of starlette.
        person: who asks; None without a session.
        settings: of the review.
        form: names and values; a name with several values has a list.
    """

    app: App
    request: Request
    person: Person | None
    settings: Settings
    form: dict[str, Any] = field(default_factory=dict)

    @property
    def who(self) -> Person:
        """The person; handlers that need one are only called with one."""
        assert self.person is not None  # noqa: S101
        return self.person

    @property
    def in_place(self) -> bool:
        """Whether htmx will put the answer into the page."""
        return self.request.headers.get("hx-request") == "true"

    def page(self, template: str, status: int = 200, **values: object) -> Response:
        """A page, or only what changes of it."""
        return self.app.page(self, template, status, **values)

    def refuse(self, words: str, status: int = 400) -> Response:
        """A sentence: into the page if there is one, else on a page of its own."""
        if self.in_place:
            html = self.app.templates.get_template("alert.html.j2").render(words=words)
            headers = {"HX-Retarget": "#alert", "HX-Reswap": "innerHTML"}
            return HTMLResponse(html, status, headers)
        return self.page("message.html.j2", status, words=words)


Handler = Callable[[Call], Response]


class App:
    """What all requests share."""

    def __init__(
        self,
        review: Review,
        hosts: tuple[str, ...] | None = guard.LOCAL,
        templates: Sequence[Path] = (),
    ) -> None:
        """Serve a review.

        Args:
            review: which.
            hosts: names under which the server may be asked; None: any. A page of another site
                can't reach a server on localhost under a name of its own.
            templates: folders of templates that go before the review's own.
        """
        self.review, self.hosts = review, hosts
        self.cookie = f"review-{hashlib.blake2b(review.name.encode(), digest_size=4).hexdigest()}"
        self.templates = environment([*templates, HERE / "templates"], {})
        self.static = {
            name: (kind, b"\n".join(path.read_bytes() for path in paths))
            for name, (kind, paths) in STATIC.items()
        }
        joined = b"".join(data for _, data in self.static.values())
        self.mark = hashlib.blake2b(joined, digest_size=6).hexdigest()
        self.requests = guard.Rates(per_second=25, burst=100)
        self.guesses = guard.Rates(per_second=0.2, burst=10)
        self._fresh: dict[str, tuple[float, Any]] = {}
        self._reading = threading.Lock()

    def fresh(self, name: str, read: Callable[[], Any]) -> Any:  # noqa: ANN401
        """A fact that may be `FRESH_S` old, or as old as reading it anew takes.

        One request reads it anew; the others meanwhile go on with what was known.
        """
        known = self._fresh.get(name)
        if known is not None and known[0] >= time.monotonic() - FRESH_S:
            return known[1]
        if not self._reading.acquire(blocking=known is None):
            assert known is not None  # noqa: S101
            return known[1]
        try:
            value = read()
            self._fresh[name] = (time.monotonic(), value)
        finally:
            self._reading.release()
        return value

    @property
    def settings(self) -> Settings:
        """Of the review."""
        return self.fresh("settings", lambda: self.review.settings)  # type: ignore[no-any-return]

    @property
    def guideline(self) -> tuple[int, str]:
        """Number and text of the guidelines."""
        return self.fresh("guideline", self.review.guideline)  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Read settings and guidelines anew."""
        self._fresh.clear()

    def page(self, call: Call, template: str, status: int, **values: object) -> Response:
        """A page of a template, or its main part for htmx."""
        person = call.person
        html = self.templates.get_template(template).render(
            review=self.review.name,
            settings=call.settings,
            person=person,
            mark=people.form_mark(self.review, person.session) if person else "",
            static=self.mark,
            whole=not call.in_place,
            path=call.request.url.path,
            **values,
        )
        return HTMLResponse(html, status)

    def call(self, request: Request, form: dict[str, Any]) -> Call:
        """A request with its person."""
        cookie = request.cookies.get(self.cookie, "")
        person = people.by_cookie(self.review, cookie) if cookie else None
        return Call(self, request, person, self.settings, form)

    def checked(self, handler: Handler, request: Request, form: dict[str, Any]) -> Response:
        """Answer a request if it may be asked."""
        call = self.call(request, form)
        need = getattr(handler, "role", "annotator")
        person = call.person
        key = person.id if person else f"at {request.client.host if request.client else ''}"
        if not self.requests.allows(key):
            return call.refuse("That was very quick; wait a moment, please.", 429)
        if need != "anybody":
            if person is None:
                words = "Open this review by the link that you were sent."
                return call.refuse(words, 401)
            if people.RANKS.index(person.role) < people.RANKS.index(need):
                return call.refuse(f"Only an {need} can open this page.", 403)
            if request.method == "POST":
                mark = people.form_mark(self.review, person.session)
                given = str(form.get("mark", "")).encode("utf-8", "replace")
                if not secrets.compare_digest(given, mark.encode()):
                    return call.refuse("This form is too old; load the page again.", 403)
        try:
            return handler(call)
        except PrefactoryError as error:
            return call.refuse(str(error), getattr(error, "status", 409))


def role(need: str) -> Callable[[Handler], Handler]:
    """Who may call a handler: `anybody`, or somebody of a role or a higher one."""

    def mark(handler: Handler) -> Handler:
        handler.role = need  # type: ignore[attr-defined]
        return handler

    return mark


def redirect(path: str) -> Response:
    """To another page, by GET."""
    return RedirectResponse(path, 303)
