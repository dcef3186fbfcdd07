"""A review on disk: made once from rows and settings, opened again, its guidelines and facts."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from prefactory.errors import ConfigError, DataError
from prefactory.identity import differences, fingerprint
from prefactory.images.marks import NAMED
from prefactory.overrides import nearest
from review import queues, schema
from review.database import POSTGRES, Database, Row, Work
from review.settings import CHANGEABLE, Settings, safe_name
from review.tasks import payloads, questions

FILE = "review.sqlite"
_DIGEST = re.compile("[0-9a-f]{32}")
DATABASE = "PREFACTORY_REVIEW_DB"
"""Environment variable with the URL of a PostgreSQL server; it may hold a password, and is written
nowhere."""
CHECKS = 1_000_000_000
"""`open` of rows that everybody is asked: gold and training rows."""


@dataclass(frozen=True)
class Review:
    """A review that is there.

    Attributes:
        name: of the review.
        folder: for what belongs to it.
        db: its database.
    """

    name: str
    folder: Path
    db: Database

    def meta(self, key: str) -> Any:  # noqa: ANN401 - any JSON
        """A fact of the review; None if it does not have it."""
        with self.db.read() as work:
            return read_meta(work, key)

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return Settings.model_validate(self.meta("settings"))

    @cached_property
    def secret(self) -> bytes:
        """Key of this review's forms."""
        return bytes.fromhex(self.meta("secret"))

    def guideline(self, version: int | None = None) -> tuple[int, str]:
        """Number and Markdown of a version of the guidelines, by default the newest; (0, "")."""
        sql = "select version, body from guideline"
        with self.db.read() as work:
            row = (
                work.one(f"{sql} order by version desc limit 1")
                if version is None
                else work.one(f"{sql} where version = ?", version)
            )
        return (0, "") if row is None else (row["version"], row["body"])

    def write_guideline(self, text: str) -> int:
        """Keep a text as the newest version of the guidelines, unless it is; its number."""
        text = clean(text)
        with self.db.write() as work:
            last = work.one("select version, body from guideline order by version desc limit 1")
            if last is not None and last["body"] == text:
                return int(last["version"])
            number = 1 if last is None else int(last["version"]) + 1
            work.run("insert into guideline values(?, ?, ?)", number, text, time.time())
        return number

    def change(self, **values: object) -> Settings:
        """Change settings that may change while a review runs.

        More people a row open all rows for as many more; fewer close those that are not taken yet.

        Raises:
            ConfigError: one is frozen.
        """
        if frozen := [name for name in values if name not in CHANGEABLE]:
            raise ConfigError(
                f"{', '.join(frozen)} of the review {self.name!r} can't change any more; make "
                "another one by --as NAME"
            )
        with self.db.write() as work:
            old = Settings.model_validate(read_meta(work, "settings"))
            new = Settings.model_validate(old.model_dump() | values)
            more = new.people - old.people
            if more:
                work.run(
                    "update task set open = case when open + ? > 0 then open + ? else 0 end "
                    "where purpose = 'work'",
                    more,
                    more,
                )
            write_meta(work, settings=new.model_dump(mode="json"))
        return new


def read_meta(work: Work, key: str) -> Any:  # noqa: ANN401
    """A fact, within a transaction."""
    value = work.value("select value from meta where key = ?", key)
    if value is None:
        return None
    digest, _, text = value.partition(" ")
    if not _DIGEST.fullmatch(digest):  # of before it had one
        digest, text = "", value
    if digest in ("", fingerprint([key, text])):
        with suppress(ValueError):
            return orjson.loads(text)
    raise DataError(f"{key!r} of the review is damaged: put a copy of its database in its place")


def write_meta(work: Work, **facts: object) -> None:
    """Keep facts, within a transaction."""
    for key, value in facts.items():
        text = orjson.dumps(value, default=str).decode()
        work.run(
            "insert into meta values(?, ?) on conflict(key) do update set value = excluded.value",
            key,
            f"{fingerprint([key, text])} {text}",
        )


def clean(text: str) -> str:
    """A text that every database takes: no NUL, no lone surrogates."""
    return text.replace("\0", "\u2400").encode("utf-8", "replace").decode("utf-8")


def database_of(folder: Path, name: str, url: str | None = None) -> Database:
    """The database of a review: of the URL (or of `PREFACTORY_REVIEW_DB`), else a file."""
    url = url or os.environ.get(DATABASE)
    if not url:
        return Database(folder / FILE)
    if not POSTGRES.match(url):
        raise ConfigError("the database of a review is postgresql://USER@HOST/NAME, or a file")
    plain = "".join(c if c.isalnum() else "_" for c in name)
    mark = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return Database(url, f"review_{plain[:40]}_{mark}")


def registry(folder: Path, name: str) -> Review:
    """A review without rows: the people, sessions and form keys of another app; made if new."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = Database(folder / "people.sqlite")
    db.create(schema.TABLES)
    (folder / "people.sqlite").chmod(0o600)
    with db.write() as work:
        if not read_meta(work, "ready"):
            facts = {"version": schema.VERSION, "settings": Settings().model_dump(mode="json")}
            write_meta(work, **facts, secret=secrets.token_hex(32), ready=True)
    return Review(name, folder, db)


def open_review(home: Path, name: str, url: str | None = None) -> Review:
    """Open a review that is there.

    Raises:
        ConfigError: there is none of the name; with those that there are.
    """
    folder = home / "reviews" / safe_name(name)
    db = database_of(folder, folder.name, url)
    if db.postgres or (folder / FILE).exists():
        review = Review(folder.name, folder, db)
        try:
            if review.meta("ready"):
                return review
        except Exception as error:  # two drivers' errors: no such table, no such schema
            if "meta" not in str(error):
                raise
        db.close()
    known = [p.name for p in sorted((home / "reviews").glob("*")) if p.is_dir()]
    listed = f"; there are: {', '.join(known)}" if known else ""
    raise ConfigError(
        f"no review {name!r} in {home / 'reviews'}{nearest(name, known) or listed}; "
        "`prefactory review NAME|FILE` makes one"
    )


def exists(home: Path, name: str, url: str | None = None) -> bool:
    """Tell whether a review is there, whole."""
    try:
        open_review(home, name, url).db.close()
    except ConfigError:
        return False
    return True


def create(
    home: Path,
    name: str,
    table: pl.DataFrame,
    settings: Settings,
    source: Mapping[str, Any],
    *,
    pictures: Any = None,  # noqa: ANN401 - `prefactory.images.marks.Pictures`
    url: str | None = None,
) -> Review:
    """Make a review: decide its queue and copy what it shows, all or nothing.

    Args:
        home: of the factory.
        name: of the review.
        table: the rows, with names in the marks of their pictures.
        settings: what is asked.
        source: how to read the rows again (fields of a recipe's source), with `name`.
        pictures: has the bytes of the pictures.
        url: of a PostgreSQL server.

    Raises:
        ConfigError: the settings do not fit the rows, or a review with others is there.
        DataError: nothing is left to ask about.
    """
    folder = home / "reviews" / safe_name(name)
    if exists(home, name, url):
        review = open_review(home, name, url)
        old, new = (s.model_dump(mode="json") for s in (review.settings, settings))
        changed = differences(old, new)
        if changed or review.meta("source") != dict(source):
            raise ConfigError(
                f"the review {review.name!r} is there, with other settings or rows "
                f"({'; '.join(changed[:4]) or 'another source'}); make another one by --as NAME"
            )
        return review
    asked = questions(table, settings)
    queue = queues.build(asked, settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = database_of(folder, folder.name, url)
    db.create(schema.TABLES)
    _fill(db, asked, queue, settings, source, pictures)
    if not db.postgres:
        (folder / FILE).chmod(0o600)
    return Review(folder.name, folder, db)


def _fill(
    db: Database,
    asked: pl.DataFrame,
    queue: pl.DataFrame,
    settings: Settings,
    source: Mapping[str, Any],
    pictures: Any,  # noqa: ANN401
) -> None:
    rows = queue.join(asked, on="row_id", how="left", maintain_order="left")
    why = asked.schema.get("gold_reason") == pl.String
    facts = {r["row_id"]: r for r in queue.to_dicts()}
    reasons = dict(asked.select("row_id", "gold_reason").iter_rows()) if why else {}
    inside = rows.select("row_id", *[c for c in asked.columns if c != "row_id"])
    names: set[str] = set()

    def tasks() -> Any:  # noqa: ANN401 - rows of values
        for row_id, payload, told in payloads(inside, settings):
            number = secrets.randbits(52)  # tells nothing of the order of the queue
            fact = facts[row_id]
            checks = fact["purpose"] != "work"
            yield (
                number, row_id, fact["place"], CHECKS if checks else settings.people,
                fact["purpose"], fact["queue"], fact["stratum"], fact["inclusion"],
                "first" if checks else None, clean(reasons.get(row_id) or "") or None,
                payload, told,
            )  # fmt: skip

    with db.write() as work:
        for name in ("task", "picture", "meta"):
            work.run(f"delete from {name}")  # left by one that was killed
        work.many(f"insert into task values({', '.join('?' * 12)})", tasks())
        for prompt in inside["prompt"].explode().struct.field("content").drop_nulls().unique():
            names.update(NAMED.findall(prompt))
        for name in sorted(names) if pictures is not None else ():
            work.run("insert into picture values(?, ?)", name, pictures.get(name))
        write_meta(
            work,
            version=schema.VERSION,
            settings=settings.model_dump(mode="json"),
            source=dict(source),
            strata=queues.strata_of(queue),
            rows=queue.filter(purpose="work").height,
            secret=secrets.token_hex(32),
            created=time.time(),
            ready=True,
        )


def task_of(work: Work, number: int) -> Row:
    """A task with all its columns.

    Raises:
        DataError: there is none.
    """
    row = work.one("select * from task where id = ?", number)
    if row is None:
        raise DataError(f"there is no task {number}")
    return row
