"""One small door to two databases: a SQLite file, or a schema of a PostgreSQL server.

SQL is plain and the same for both. It is written with `?`, and differs in one place only: in
PostgreSQL, rows that a transaction is about to change are locked (`Work.lock`, `Work.skip`).
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefactory.errors import ConfigError, DataError
from prefactory.extras import package
from prefactory.safety.addresses import passwords
from prefactory.safety.masks import Masks

POSTGRES = re.compile(r"postgres(ql)?://")
_DAMAGED = re.compile(r"decode to UTF-8|malformed|no such (?!table: meta)|has no column|disk I/O")
WAIT_S = 30
"""Seconds that a writer waits for another process that writes to the same SQLite file."""

Row = dict[str, Any]


class Work:
    """A connection in use.

    Attributes:
        lock: ends a `select` whose rows are changed next.
        skip: the same, but rows that somebody else is changing are passed over.
    """

    def __init__(self, connection: Any, *, postgres: bool) -> None:  # noqa: ANN401 - of two drivers
        """Use an open connection."""
        self._connection = connection
        self._postgres = postgres
        self.lock = " for update" if postgres else ""
        self.skip = " for update skip locked" if postgres else ""

    def _ask(self, sql: str, values: Sequence[object]) -> Any:  # noqa: ANN401
        return self._connection.execute(sql.replace("?", "%s") if self._postgres else sql, values)

    def run(self, sql: str, *values: object) -> int:
        """Change something; the number of rows that changed."""
        return int(self._ask(sql, values).rowcount)

    def all(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query."""
        return [dict(row) for row in self._ask(sql, values).fetchall()]

    def one(self, sql: str, *values: object) -> Row | None:
        """The first row of a query, if there is one."""
        row = self._ask(sql, values).fetchone()
        return None if row is None else dict(row)

    def value(self, sql: str, *values: object) -> Any:  # noqa: ANN401 - whatever the column holds
        """The first value of the first row of a query; None if there is no row."""
        row = self.one(sql, *values)
        return None if row is None else next(iter(row.values()))

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a change once for each row of values."""
        if self._postgres:
            with self._connection.cursor() as cursor:
                cursor.executemany(sql.replace("?", "%s"), list(rows))
        else:
            self._connection.executemany(sql, rows)


class Database:
    """A SQLite file, or a schema of a PostgreSQL server; safe for threads and processes.

    A transaction is durable when `write` has ended: SQLite runs in WAL mode with
    `synchronous=FULL`.
    """

    def __init__(self, where: str | Path, schema: str = "") -> None:
        """Use a database; nothing is opened yet.

        Args:
            where: path of a file, or `postgresql://...`.
            schema: of PostgreSQL, lower-case letters, digits and `_`.

        Raises:
            MissingPackageError: psycopg is not installed.
        """
        self.postgres = bool(POSTGRES.match(str(where)))
        self._where, self._schema = str(where), schema
        if self.postgres:
            self._driver: Any = package("psycopg")
            if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
                raise ConfigError(f"{schema!r} can't be the name of a schema")
        self._writer = threading.Lock()
        self._free: list[Any] = []
        self._guard = threading.Lock()

    def create(self, statements: str) -> None:
        """Make the tables; `statements` are divided by `;` and may be run again.

        Raises:
            DataError: the database can't be opened or written.
        """
        with self.write() as work:
            if self.postgres:
                work.run(f"create schema if not exists {self._schema}")
            for statement in filter(None, (s.strip() for s in statements.split(";"))):
                work.run(statement)

    @contextmanager
    def read(self) -> Iterator[Work]:
        """A connection to read with."""
        connection = self._take()
        try:
            with self._told():
                yield Work(connection, postgres=self.postgres)
        except BaseException:
            self._discard(connection)
            raise
        self._give(connection)

    def check(self) -> None:
        """Look at all of a SQLite file, whose pages have no checksums; a server sees to its own.

        Raises:
            DataError: it is damaged.
        """
        if self.postgres:
            return
        with self.read() as work:
            found = [row["integrity_check"] for row in work.all("pragma integrity_check(1)")]
            lost = work.all("pragma foreign_key_check")
            if found != ["ok"] or lost:
                why = "rows are lost" if found == ["ok"] else found[0].splitlines()[-1]
                raise sqlite3.DatabaseError(why)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in a sentence that the file is damaged."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            kinds = (sqlite3.DatabaseError, UnicodeDecodeError)
            damaged = type(error) in kinds or _DAMAGED.search(str(error))
            if not damaged:  # locked, or a mistake of ours
                raise
            raise DataError(
                f"{self._where} is damaged ({error}); put a copy in its place, or save what can be "
                f"read: sqlite3 {self._where} .recover"
            ) from error

    @contextmanager
    def write(self) -> Iterator[Work]:
        """A transaction: committed and durable at its end, or nothing of it.

        SQLite has one writer at a time. In this process they queue at a lock, because SQLite's own
        waiting sleeps and is unfair.
        """
        if self.postgres:
            with self._transaction("begin") as work:
                yield work
        else:
            with self._writer, self._transaction("begin immediate") as work:
                yield work

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Work]:
        connection = self._take()
        try:
            with self._told():
                connection.execute(begin)
                yield Work(connection, postgres=self.postgres)
                connection.execute("commit")
        except BaseException:
            self._discard(connection)
            raise
        self._give(connection)

    def close(self) -> None:
        """Close what is open."""
        with self._guard:
            connections, self._free = self._free, []
        for connection in connections:
            connection.close()

    def _take(self) -> Any:  # noqa: ANN401
        with self._guard:
            if self._free:
                return self._free.pop()
        return self._open()

    def _give(self, connection: Any) -> None:  # noqa: ANN401
        with self._guard:
            self._free.append(connection)

    def _discard(self, connection: Any) -> None:  # noqa: ANN401
        """Close a connection in an unknown state: an open transaction is rolled back."""
        connection.close()

    def _open(self) -> Any:  # noqa: ANN401
        return self._open_postgres() if self.postgres else self._open_sqlite()

    def _open_sqlite(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._where, isolation_level=None, timeout=WAIT_S, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            for pragma in (
                "journal_mode=WAL",  # needs a local disk: it does not work on network file systems
                "synchronous=FULL",
                f"busy_timeout={1000 * WAIT_S}",
                "foreign_keys=ON",
            ):
                connection.execute(f"pragma {pragma}")
        except (sqlite3.Error, UnicodeDecodeError) as error:  # what it quotes may be damaged
            raise DataError(
                f"the review {self._where} can't be opened: {error}; if it is damaged, put a copy "
                "in its place"
            ) from error
        return connection

    def _open_postgres(self) -> Any:  # noqa: ANN401
        try:
            return self._driver.connect(
                self._where,
                autocommit=True,
                row_factory=self._driver.rows.dict_row,
                options=f"-c search_path={self._schema}",
            )
        except self._driver.Error as error:  # of an address that is none it shows a part
            told = Masks(passwords(self._where)).text(str(error))
            raise DataError(f"the PostgreSQL server can't be reached: {told}") from None
