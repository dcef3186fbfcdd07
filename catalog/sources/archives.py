"""Files that must be fetched or unpacked before they can be read: on the web, and inside zip files.

A file on the web is downloaded once for each process that reads it, into a temporary folder that is
removed when the process ends; so its identity is that of its content. Nothing is kept from reading
an address of this machine or network: who names a URL in a recipe may open it.
"""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPException, HTTPMessage
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from catalog.sources.spec import Reading, SourceFile
from prefactory.errors import DataError

TIMEOUT = 60
"""Seconds that a web server may be silent."""
MAX_MEMBERS = 10_000
_IN_MEMORY = 8 * 1024 * 1024


def is_web(url: str) -> bool:
    """Whether a URL is fetched from a web server."""
    return url.startswith(("http://", "https://"))


def _asked(url: str, method: str) -> Any:  # noqa: ANN401 - an open response
    """The answer of a web server; redirects are followed.

    Raises:
        DataError: it has no such file, or can't be reached.
    """
    headers = {"User-Agent": "prefactory", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310
        return urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url} can't be fetched: {reason}") from error


def web_file(url: str) -> SourceFile:
    """A file on the web, by the end of its path; the server is asked for nothing but its headers.

    Raises:
        DataError: there is none, or it is a page for people.
    """
    try:
        answer = _asked(url, "HEAD")
    except DataError as error:
        if not any(f"answers {code}" in str(error) for code in (403, 405, 501)):
            raise
        answer = _asked(url, "GET")  # some servers refuse HEAD
    with answer:
        headers: HTTPMessage = answer.headers
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "index"
    if headers.get_content_type() == "text/html":
        raise DataError(
            f"{url} is a page for people (HTML), no data file; take the link that downloads the "
            "file, often called raw or resolve"
        )
    length = headers.get("Content-Length") or ""
    mark = headers.get("ETag") or headers.get("Last-Modified") or str(time.time_ns())
    return SourceFile(name, url, int(length) if length.isdigit() else -1, mark=mark)


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="prefactory-web-")


@lru_cache(maxsize=1024)
def _downloaded(url: str, mark: str, most: int) -> Path:
    with (
        _asked(url, "GET") as answer,
        tempfile.NamedTemporaryFile(dir=_folder().name, delete=False) as file,
    ):
        try:
            _copy(answer, file, most)
        except (OSError, HTTPException) as error:
            raise DataError(f"{url} broke off: {error}") from error
        length = answer.headers.get("Content-Length") or ""
        if length.isdigit() and file.tell() != int(length):
            raise DataError(f"{url} broke off after {file.tell():,} of {int(length):,} bytes")
        return Path(file.name)


def _copy(source: IO[bytes], target: Any, most: int) -> None:  # noqa: ANN401 - a file
    """Copy a stream.

    Raises:
        DataError: it has more bytes than `most`.
    """
    size = 0
    while piece := source.read(1024 * 1024):
        size += len(piece)
        if size > most:
            raise DataError(
                f"it has more than {most / 1e9:g} GB; if it is as large as that, say so with "
                "`max_file_gb`"
            )
        target.write(piece)


def place(file: SourceFile, reading: Reading | None = None) -> str:
    """The path or fsspec URL where a file (or the zip file around it) can be opened now."""
    if not is_web(file.url):
        return file.url
    return str(_downloaded(file.url, file.mark, (reading or Reading()).file_bytes))


@contextmanager
def opened(file: SourceFile, reading: Reading | None = None) -> Iterator[IO[bytes]]:
    """Open the bytes of a file, of a member of a zip file, or of a file on the web."""
    url = place(file, reading)
    with _raw(url) as raw:
        if file.member is None:
            yield raw
            return
        with zipfile.ZipFile(raw) as archive, archive.open(file.member) as member:
            yield member


def _raw(url: str) -> Any:  # noqa: ANN401 - Python file or fsspec file
    if "://" in url:
        fs, path = fsspec.core.url_to_fs(url)
        return fs.open(path, "rb")
    return Path(url).open("rb")


def members(file: SourceFile, alone: bool) -> list[SourceFile]:
    """The files in a zip file.

    Args:
        file: the zip file.
        alone: it is the whole source, so that its members need no name of it before theirs.

    Raises:
        DataError: it is none, it has too many members, or the name of one leads out of it.
    """
    try:
        with opened(file) as raw, zipfile.ZipFile(raw) as archive:
            infos = [i for i in archive.infolist() if not i.is_dir()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{file.name} is no zip file that can be read: {error}") from error
    if len(infos) > MAX_MEMBERS:
        raise DataError(f"{file.name} holds {len(infos):,} files, more than {MAX_MEMBERS:,}")
    for info in infos:
        if _leads_out(info.filename):
            raise DataError(
                f"{file.name} holds a file called {info.filename!r}, a name that leads out of it; "
                "such a zip file is not read"
            )
    prefix = "" if alone else f"{file.name}/"
    return [
        SourceFile(f"{prefix}{i.filename}", file.url, i.file_size, i.filename, file.mark)
        for i in infos
    ]


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    odd = "\\" in name or ":" in path.parts[0] or any(ord(c) < 32 for c in name)
    return odd or path.is_absolute() or ".." in path.parts


@contextmanager
def on_disk(stream: Iterator[bytes]) -> Iterator[IO[bytes]]:
    """A temporary file of what a stream holds, for readers that must go back and forth."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        for piece in stream:
            file.write(piece)
        file.seek(0)
        yield file
