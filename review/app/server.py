"""The server: one process, one review, pages that work without a script and faster with it."""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from review.app import guard, pages
from review.app.core import App, Handler
from review.store import Review


def endpoint(app: App, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler as starlette calls it: hosts and origins first, the work in a thread."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            form = await _form(request) if request.method == "POST" else {}
        except ClientDisconnect:
            return Response(status_code=499)
        except _TooLargeError:
            return PlainTextResponse("too large", 413)
        return await run_in_threadpool(app.checked, handler, request, form)

    return answer


class _TooLargeError(Exception):
    """A request of more than `MOST_BODY`."""


async def _form(request: Request) -> dict[str, Any]:
    """The fields of a form; files are refused."""
    size = request.headers.get("content-length", "")
    unsaid = not size.isdecimal() or "transfer-encoding" in request.headers
    if unsaid or int(size) > guard.MOST_BODY:
        raise _TooLargeError
    form: dict[str, Any] = {}
    async with request.form(max_files=0, max_fields=500, max_part_size=guard.MOST_BODY) as data:
        for name, value in data.multi_items():
            if not isinstance(value, str):
                continue
            known = form.get(name)
            form[name] = value if known is None else [*_listed(known), value]
    return form


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


class _Guarded:
    """The app behind its checks of host and origin, with its headers on every answer."""

    def __init__(self, inner: Any, app: App) -> None:  # noqa: ANN401 - an ASGI app
        self.inner, self.app = inner, app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return

        async def guarded(message: Any) -> None:  # noqa: ANN401
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in guard.HEADERS.items()
                    if name.lower().encode() not in given
                ]
            await send(message)

        request = Request(scope)
        refused = self._refusal(request)
        if refused is not None:
            await PlainTextResponse(refused, 400)(scope, receive, guarded)
            return
        await self.inner(scope, receive, guarded)

    def _refusal(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        if self.app.hosts is not None and guard.host_of(host) not in self.app.hosts:
            return "this server is not asked under that name"
        origin = request.headers.get("origin")
        if request.method == "POST" and origin and guard.place_of(origin) != host.lower():
            return "this form comes from another site"
        return None


def create_app(review: Review, hosts: tuple[str, ...] | None = guard.LOCAL) -> Any:  # noqa: ANN401
    """The ASGI app of a review (see `App`)."""
    return asgi(App(review, hosts), pages.ROUTES)


def asgi(app: App, handlers: Mapping[tuple[str, str], Handler]) -> Any:  # noqa: ANN401
    """The ASGI app that answers by handlers, behind its guard: (method, address) -> handler."""
    routes = [
        Route(path, endpoint(app, handler), methods=[method], name=f"{method} {path}")
        for (method, path), handler in handlers.items()
    ]
    inner = Starlette(routes=[*routes, Route("/static/{name}", _static(app))])
    return _Guarded(inner, app)


def _static(app: App) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        found = app.static.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("not found", 404)
        kind, data = found
        return Response(data, media_type=kind, headers={"Cache-Control": "public, max-age=3600"})

    return answer


def serve(
    make: Callable[[tuple[str, ...] | None], Any],
    listener: socket.socket,
    *,
    any_host: bool,
    ready: Callable[[], None],
) -> None:
    """Serve an app until the process is told to end.

    Args:
        make: makes it, given the names under which it may be asked.
        listener: bound to an address.
        any_host: answer under any name; else under that of the address and localhost only.
        ready: called when requests are answered.
    """
    import uvicorn

    app = make(None if any_host else (*guard.LOCAL, listener.getsockname()[0]))

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401
            await super().startup(sockets)
            if self.started:
                ready()

    Server(settings_of(app)).run([listener])


def settings_of(app: Any) -> Any:  # noqa: ANN401 - uvicorn is imported when it is needed
    """How uvicorn serves an ASGI app."""
    import uvicorn

    from review.app.connections import MOST_HEAD, PATIENCE_S, Connection

    return uvicorn.Config(
        app, workers=1, access_log=False, server_header=False, log_level="warning",
        lifespan="off", http=Connection, ws="none", h11_max_incomplete_event_size=MOST_HEAD,
        timeout_keep_alive=int(PATIENCE_S),
    )  # fmt: skip
