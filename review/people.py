"""Who takes part: invitations by links with a token, roles, sessions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prefactory.errors import ConfigError
from review.database import Row, Work
from review.store import Review, clean

Role = Literal["reader", "annotator", "adjudicator", "owner"]
RANKS: tuple[Role, ...] = get_args(Role)
"""All roles, each may what those before it may."""
ROLES: tuple[Role, ...] = RANKS[1:]
"""Of a review; a `reader` reads the catalog (`prefactory serve`)."""
SESSION_S = 14 * 24 * 3600.0
FIRST_PLACE = -1_000_000


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who takes part.

    Attributes:
        id: random; in no page.
        name: what the person is called.
        pseudonym: what stands for the name in what is published, if that is wanted.
        role: `annotator` (own queue), `adjudicator` (also decides), `owner` (also sees all); of a
            catalog `reader` or `owner`.
        session: of this request.
    """

    id: str
    name: str
    pseudonym: str
    role: Role
    session: str = ""

    @property
    def decides(self) -> bool:
        """Whether the person may decide where votes differ."""
        return self.role in ("adjudicator", "owner")


def invite(
    review: Review, name: str, role: str = "annotator", roles: Sequence[Role] = ROLES
) -> str:
    """Add a person, or make a new link for one; the token of the link.

    The token is stored as a digest only, so an old link can't be shown again; a new one puts an end
    to the old one, and to open sessions.

    Raises:
        ConfigError: the name is empty or too long, or there is no such role.
    """
    name = " ".join(clean(name).split())
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise ConfigError(f"{name!r} can't be a person's name: 1 to 60 characters, please")
    if role not in roles:
        raise ConfigError(f"no role {role!r}; choose one of {', '.join(roles)}")
    token = secrets.token_urlsafe(24)
    with review.db.write() as work:
        known = work.one("select id from person where name = ?", name)
        if known is None:
            work.run(
                "insert into person values(?, ?, ?, ?, ?, 1, ?, 0, ?)",
                secrets.token_urlsafe(9), name, f"person-{secrets.token_hex(3)}", role,
                digest(token), FIRST_PLACE, time.time(),
            )  # fmt: skip
        else:
            work.run(
                "update person set token = ?, role = ?, active = 1 where id = ?",
                digest(token), role, known["id"],
            )  # fmt: skip
            work.run("delete from session where person = ?", known["id"])
    return token


def dismiss(review: Review, name: str) -> None:
    """Close a person's link and sessions; the votes stay.

    Raises:
        ConfigError: there is nobody of that name.
    """
    with review.db.write() as work:
        row = work.one("select id from person where name = ?", name)
        if row is None:
            raise ConfigError(f"nobody called {name!r} takes part in {review.name!r}")
        work.run("update person set active = 0, token = null where id = ?", row["id"])
        work.run("delete from session where person = ?", row["id"])


def everyone(review: Review) -> list[Person]:
    """All who were invited and not dismissed, by name."""
    with review.db.read() as work:
        rows = work.all("select * from person where active = 1 order by name")
    return [_person(row) for row in rows]


def by_token(review: Review, token: str) -> Person | None:
    """Whose link it is."""
    with review.db.read() as work:
        row = work.one("select * from person where token = ? and active = 1", digest(token))
    return None if row is None else _person(row)


def start(review: Review, person: Person) -> str:
    """Open a session; the value of its cookie."""
    cookie = secrets.token_urlsafe(32)
    now = time.time()
    with review.db.write() as work:
        work.run("delete from session where until < ?", now)
        work.run("insert into session values(?, ?, ?)", digest(cookie), person.id, now + SESSION_S)
    return cookie


def by_cookie(review: Review, cookie: str) -> Person | None:
    """Whose session it is, if it is open."""
    with review.db.read() as work:
        row = work.one(
            "select p.* from session s join person p on p.id = s.person "
            "where s.id = ? and s.until > ? and p.active = 1",
            digest(cookie),
            time.time(),
        )
    return None if row is None else _person(row, cookie)


def form_mark(review: Review, cookie: str) -> str:
    """What every form of a session carries, and no other site can know."""
    return hmac.new(review.secret, digest(cookie).encode(), hashlib.sha256).hexdigest()[:32]


def digest(text: str) -> str:
    """What is stored of a token or cookie."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def named(work: Work, name: str) -> Row | None:
    """A person's row by name."""
    return work.one("select * from person where name = ?", name)


def _person(row: Row, session: str = "") -> Person:
    return Person(row["id"], row["name"], row["pseudonym"], row["role"], session)
