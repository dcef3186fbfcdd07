"""Errors a user can act on: each says what was wrong, where, and what to do.

The command line prints the message of a `PrefactoryError` without a traceback and leaves with its
`exit_code`; any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PrefactoryError(Exception):
    """Base of every error that the user can mend."""

    exit_code = 2


class ConfigError(PrefactoryError, ValueError):
    """A recipe, an override or an option is wrong. `problems` lists all of them at once."""

    def __init__(self, problems: str | list[str]) -> None:
        """Keep the list of problems and join them for the message.

        Args:
            problems: one sentence, or one sentence per mistake.
        """
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(PrefactoryError, ValueError):
    """A source or a table does not have the form that was asked of it."""


class StoreError(PrefactoryError, RuntimeError):
    """The store can't hold or return an object (full disk, damaged file)."""


class DiskFullError(StoreError):
    """No space left; what is finished is kept, and the same command resumes."""

    exit_code = 3


def is_full(error: Exception) -> bool:
    """Whether an error of the disk says that it is full, whoever raises it and with what."""
    no_space = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return no_space or "No space left" in str(error)  # Polars and Arrow raise it without an errno


def exit_code(error: BaseException) -> int | None:
    """Of an error that the user can mend: 3 if a full disk is what caused it. Else None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and is_full(cause):
            return DiskFullError.exit_code
        cause = cause.__cause__
    return error.exit_code if isinstance(error, PrefactoryError) else None


def store_error(message: str, error: Exception) -> StoreError:
    """The error of a store, a journal or a cache whose disk raised `error`."""
    return (DiskFullError if is_full(error) else StoreError)(message)


@contextmanager
def disk_errors(place: Path | str) -> Iterator[None]:
    """Say errors of the disk under a place in a sentence.

    Raises:
        StoreError: the disk is full, or not writable.
    """
    try:
        yield
    except OSError as error:
        full = is_full(error)
        told = f"the disk of {place} is full; free some space and run the same command again"
        raise store_error(told if full else f"{place} can't be written: {error}", error) from error


_DISK = {errno.EROFS: "Read-only file system", errno.EIO: "Input/output error"}


@contextmanager
def library_errors(place: Path | str) -> Iterator[None]:
    """Say errors of the disk under a place, whichever library met them; others stay as they are.

    Raises:
        StoreError: the disk is full, read-only or failing.
    """
    try:
        yield
    except PrefactoryError:
        raise
    except Exception as error:
        failing = getattr(error, "errno", None) in _DISK or any(
            told in str(error) for told in (*_DISK.values(), "os error 30", "os error 5)")
        )
        if not failing and not is_full(error):
            raise
        why = "free some space" if is_full(error) else "mend it"
        told = f"the disk of {place} fails ({error}); {why} and run the same command again"
        raise store_error(told, error) from error


class CatalogError(PrefactoryError, ValueError):
    """A dataset version is missing, damaged, or would be overwritten."""


class MissingPackageError(PrefactoryError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""


class StoppedError(PrefactoryError, RuntimeError):
    """The run stopped cleanly before its end and can be resumed by the same command."""

    exit_code = 3
