"""What a recipe allows to be fetched for rows: files below folders, and addresses of hosts.

A row's path or address is data, and data may be hostile: nothing is opened that the recipe does not
allow by name, no link leads out of a folder, and no host leads to another or into the own network.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from pydantic import BaseModel, ConfigDict

from prefactory.images.media import MOST_BYTES

HOPS = 5
"""Redirects that are followed, each to an allowed host."""
TIMEOUT_S = 30.0


class AllowedImages(BaseModel):
    """The `images:` of a source: from where its pictures may be fetched. By default from nowhere.

    Attributes:
        folders: a path in a row may lead to files below these (from the recipe's folder).
        hosts: an address in a row may lead to these: `img.example.org`, `*.example.org` for all
            below it, `127.0.0.1:8000` for a host of the own network, which is never reached by a
            name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class NotFetchedError(Exception):
    """A picture is not fetched: a reason for the ledger, and why."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both."""
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Fetcher:
    """Fetches pictures from where it is allowed.

    Attributes:
        folders: resolved.
        hosts: as the recipe writes them, in lower case.
    """

    folders: tuple[Path, ...]
    hosts: tuple[str, ...]

    def file(self, path: str) -> bytes:
        """The bytes of a file below one of the folders.

        Raises:
            NotFetchedError: it is not below one, also after links; or is none, or too large.
        """
        if "\0" in path:
            raise NotFetchedError("image_not_allowed", "the path of a picture holds a null")
        inside = [real for folder in self.folders if (real := _below(folder, path)) is not None]
        for real in inside:
            if real.is_file():
                return _read(real, path)
        if inside:
            raise NotFetchedError("image_missing", f"no file {_short(path)} in the folders allowed")
        raise NotFetchedError(
            "image_not_allowed", f"{_short(path)} is in no folder that is allowed"
        )

    def url(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            NotFetchedError: its host is not allowed, or leads to one that is not, or fails.
        """
        for _ in range(HOPS + 1):
            try:
                status, body, onward = _get(self._checked(url))
            except (OSError, http.client.HTTPException, ssl.SSLError) as error:
                detail = f"{_short(url)}: {type(error).__name__}: {error}"[:300]
                raise NotFetchedError("image_missing", detail) from error
            if status in (301, 302, 303, 307, 308) and onward:
                url = urljoin(url, onward)
                continue
            if status != 200:
                raise NotFetchedError("image_missing", f"{_short(url)} answers {status}")
            return body
        raise NotFetchedError("image_missing", f"{_short(url)} leads on and on")

    def _checked(self, url: str) -> tuple[SplitResult, str]:
        """An address and the numeric one to connect to."""
        try:
            at = urlsplit(url)
            host, port = (at.hostname or "").lower(), at.port
        except ValueError as error:
            raise NotFetchedError("image_not_allowed", f"{_short(url)} is no address") from error
        if at.scheme not in ("http", "https") or at.username or not host:
            raise NotFetchedError("image_not_allowed", f"{_short(url)} is no plain web address")
        if not self._allowed(host, port):
            raise NotFetchedError("image_not_allowed", f"the host {host} is not allowed")
        usual = 443 if at.scheme == "https" else 80
        try:
            found = socket.getaddrinfo(host, port or usual, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NotFetchedError("image_missing", f"no host {host}: {error}") from error
        address = str(found[0][4][0])
        if not _number(host) and not all(_public(str(entry[4][0])) for entry in found):
            raise NotFetchedError(
                "image_not_allowed", f"{host} is the address {address} of a network of its own"
            )
        return at, address

    def _allowed(self, host: str, port: int | None) -> bool:
        named = {host} if port in (None, 80, 443) else set()
        named |= {f"{host}:{port}"} if port is not None else set()
        below = [e[1:] for e in self.hosts if e.startswith("*.")] if host in named else []
        return not named.isdisjoint(self.hosts) or host.endswith(tuple(below))

    def evidence(self) -> list[dict[str, Any]]:
        """What decides the pictures of the folders: a digest of all names and contents."""
        return [{"folder": i, "digest": _digest(f)} for i, f in enumerate(self.folders)]


def fetcher(allowed: AllowedImages, base: Path | None) -> Fetcher:
    """A fetcher for what a source allows.

    Args:
        allowed: folders and hosts.
        base: folder that relative folders start from.
    """
    start = base or Path()
    folders = tuple((start / Path(f).expanduser()).resolve() for f in allowed.folders)
    return Fetcher(folders, tuple(host.lower() for host in allowed.hosts))


def _below(folder: Path, path: str) -> Path | None:
    """Where a path leads, all links followed; None if that is not below the folder."""
    try:
        real = (folder / path).resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    return real if real.is_relative_to(folder) else None


def _read(real: Path, path: str) -> bytes:
    """Read a file that is no link any more and no device, and not too large."""
    try:
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise NotFetchedError("image_missing", f"{_short(path)}: {error.strerror}") from error
    with open(handle, "rb") as file:  # noqa: PTH123 - a file that is open already
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise NotFetchedError("image_missing", f"{_short(path)} is no file")
        return _bounded(file.read, path)


def _bounded(read: Callable[[int], bytes], where: str) -> bytes:
    data = read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise NotFetchedError(
            "image_too_large", f"{_short(where)} has more than {MOST_BYTES:,} bytes"
        )
    return data


class _Plain(http.client.HTTPConnection):
    """A connection to a numeric address that was checked, for a host."""

    def __init__(self, at: SplitResult, address: str) -> None:
        super().__init__(at.hostname or "", at.port, timeout=TIMEOUT_S)
        self.address = address

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), TIMEOUT_S)


class _Secure(_Plain):
    """The same over TLS, with the certificate of the host."""

    default_port = 443

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def _get(where: tuple[SplitResult, str]) -> tuple[int, bytes, str | None]:
    """Ask for a picture: status, body and where it leads on. No cookies, no proxy."""
    at, address = where
    kind = _Secure if at.scheme == "https" else _Plain
    connection = kind(at, address)
    try:
        target = (at.path or "/") + (f"?{at.query}" if at.query else "")
        connection.request("GET", target, headers={"User-Agent": "prefactory", "Accept": "image/*"})
        answer = connection.getresponse()
        body = _bounded(answer.read, at.geturl()) if answer.status == 200 else b""
        return answer.status, body, answer.getheader("Location")
    finally:
        connection.close()


def _number(host: str) -> bool:
    """Whether a host is written as a numeric address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _public(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def _digest(folder: Path) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                own = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            whole.update(f"{path.relative_to(folder).as_posix()}\n{own.hexdigest()}\n".encode())
    return whole.hexdigest()


def path_of(text: str) -> str:
    """A path as it stands in a row; that of a `file:` address."""
    return unquote(urlsplit(text).path) if text[:5].lower() == "file:" else text


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:120]}...")
