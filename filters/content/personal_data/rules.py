"""Rules for personal data: candidates by pattern, each checked by what its format demands.

A pattern is linear in the text (Rust's regex engine, no backtracking); what it can't say, such as
what may stand before and after, or a checksum, is checked on the candidates.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml

Kind = Literal["secret", "email", "iban", "credit_card", "ip_address", "phone"]
KINDS: tuple[Kind, ...] = ("secret", "email", "iban", "credit_card", "ip_address", "phone")
"""In the order in which they are looked for: what one has taken no later one sees."""

ENTROPY = 3.5
"""Bits for each character of a named value from which on it looks random (ours)."""

EDGE = r"(?-u:\b)"
"""Edge of an ASCII word."""
CHANGES = 5
"""Changes between capitals, small letters and digits that it must have (ours)."""
ARMOUR = 120
"""Characters up to which a private key is only talked about."""

Check = Callable[[str, str, str], bool]


@dataclass(frozen=True)
class Rule:
    """One pattern.

    Attributes:
        kind: what it finds.
        holds: what every text holds that it finds something in, as a regex or literal.
        pattern: of candidates, without groups that capture.
        checks: tells of (before, candidate, after) if it is one; the characters around are at most
            two each.
        literal: whether `holds` is a literal.
        lead: what must stand before a candidate.
    """

    kind: Kind
    holds: str
    pattern: str
    checks: Check
    literal: bool = True
    lead: str = ""


@lru_cache(maxsize=1)
def data() -> dict[str, Any]:
    """The lists of `patterns.yaml`."""
    text = Path(__file__).with_name("patterns.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """All rules, in the order of `KINDS`."""
    return (*_secret_rules(), *_number_rules(), *_phone_rules())


def _secret_rules() -> list[Rule]:
    """Keys and tokens by their form, then what is named as one; and mail addresses."""
    names = data()["secret_names"]
    named = rf"{names}[\"']?\s{{0,3}}(?:[:=]|{EDGE}is{EDGE})\s{{0,3}}[\"']?"
    value = r"[A-Za-z0-9+/_.~=-]{16,128}"
    return [
        *(Rule("secret", s["holds"], s["pattern"], _token) for s in data()["secrets"]),
        Rule("secret", names, value, _random, literal=False, lead=named),
        Rule("email", "@", r"[\w%+][\w.%+'-]*@(?:[\w-]+\.)+\p{L}[\p{L}\p{N}-]+", _email),
    ]


def _number_rules() -> list[Rule]:
    """Numbers with a checksum or a range: each with what is searched first, and the candidates."""
    tail = rf"(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?{EDGE}"
    searches: list[tuple[Kind, str, str, Check]] = [
        ("iban", r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}", rf"{EDGE}[A-Z]{{2}}[0-9]{{2}}{tail}", _iban),
        ("credit_card", r"[0-9](?:[ -]?[0-9]){12}", r"[0-9](?:[ -]?[0-9]){12,18}", _card),
        ("ip_address", r"[0-9]\.[0-9]{1,3}\.[0-9]", r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", _ip),
        ("ip_address", r"::", r"[0-9A-Fa-f:]*::[0-9A-Fa-f:]*", _ip),
        (
            "ip_address",
            r"(?:[0-9A-Fa-f]{1,4}:){7}",
            r"(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}",
            _ip,
        ),
    ]
    return [Rule(*search, literal=False) for search in searches]


def _phone_rules() -> list[Rule]:
    """International, American, French, British and Chinese numbers; and what a word announces."""
    cues = f"(?i:{'|'.join(_cue(cue) for cue in data()['phone_cues'])})"
    american = r"(?:\([2-9][0-9]{2}\)[- ]?|[2-9][0-9]{2}[-. ])[2-9][0-9]{2}[-. ][0-9]{4}"
    international = r"(?:(?:[ .\x{A0}\x{2010}-\x{2013}-]|\) ?| ?\()?[0-9]{2,12}){1,6}"
    searches = [
        (r"\+[1-9]", rf"\+[1-9][0-9]{{0,2}}{international}", ""),
        (r"[0-9][-. )]", rf"(?:1[-. ])?{american}", ""),
        (
            r"0[1-9][ .-]?[0-9]{2}",
            r"0[1-9](?:[ .-][0-9]{2}){4}|\(?0[1-9][0-9]{1,3}\)?[ -][0-9]{3,4}[ -][0-9]{3,5}",
            "",
        ),
        (r"1[3-9]", r"1[3-9][0-9][ -][0-9]{4}[ -][0-9]{4}", ""),
        (cues, r"[0-9][0-9 .-]{5,14}[0-9]", rf"{cues}[^0-9\n]{{0,15}}"),
    ]
    return [
        Rule("phone", holds, p, _phone, literal=False, lead=lead) for holds, p, lead in searches
    ]


def _cue(word: str) -> str:
    """A word; as a whole if it is ASCII (Unicode's edges make a search a hundred times as slow)."""
    return f"{EDGE}{re.escape(word)}{EDGE}" if word.isascii() else re.escape(word)


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def _apart(before: str, after: str) -> bool:
    """No letter or digit beside, no decimal or thousands that go on, no money, no arithmetic."""
    left, right = before[-1:], after[:1]
    if left.isalnum() or right.isalnum() or left in tuple("_/$€£#.,-+*^\\"):
        return False
    return not (right in tuple("_.,-:/+*=") and after[1:2].isdigit())


def _token(before: str, text: str, after: str) -> bool:
    """Not the stand-in of a manual; a key in its own armour always is one."""
    if text.startswith("-----BEGIN"):
        return len(text) > ARMOUR
    return len(set(text)) >= 8 and not re.search(data()["secret_placeholders"], text)


def _random(before: str, text: str, after: str) -> bool:
    """Letters and digits mixed, as spread out as random ones: no name in a program."""
    plain = re.sub("[^A-Za-z0-9]", "", text)
    kinds = re.sub("[0-9]", "0", re.sub("[a-z]", "a", re.sub("[A-Z]", "A", plain)))
    changes = sum(a != b for a, b in pairwise(kinds))
    if "0" not in kinds or changes < CHANGES or not _token(before, text, after):
        return False
    counts = Counter(text)
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    return bits >= ENTROPY


def _email(before: str, text: str, after: str) -> bool:
    user, _, host = text.lower().rpartition("@")
    lists = data()
    return not (
        not user.strip(".'-_")
        or user in lists["placeholder_users"]
        or host in lists["placeholder_hosts"]
        or any(host.endswith("." + name) for name in lists["placeholder_hosts"])
        or host.rsplit(".", 1)[-1] in lists["placeholder_domains"]
        or "example" in host.split(".")
    )


def _iban(before: str, text: str, after: str) -> bool:
    """Length of its country, remainder 1 modulo 97."""
    plain = text.replace(" ", "")
    if data()["iban_lengths"].get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _card(before: str, text: str, after: str) -> bool:
    """A number range of a card company, and Luhn's checksum."""
    plain = _digits(text)
    if plain in data()["placeholder_cards"] or len(set(plain)) < 3 or not _apart(before, after):
        return False
    two, four, n = int(plain[:2]), int(plain[:4]), len(plain)
    ranges = {
        16: two in range(40, 56) or 2221 <= four <= 2720 or two in (62, 64, 65) or four == 6011,
        15: two in (34, 37),
        14: two in (30, 36, 38, 39),
        13: plain[0] == "4",
        19: plain[0] == "4" or two == 62,
    }
    ranges[16] = ranges[16] or 3528 <= four <= 3589
    if not ranges.get(n, False):
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(plain))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _ip(before: str, text: str, after: str) -> bool:
    """An address that the internet routes; of version 6 one with at least four groups."""
    if before[-1:].isalnum() or before[-1:] in tuple("._-:") or after[:1].isalnum():
        return False
    if after[:1] in tuple(".:_-/") and after[1:2].isalnum():
        return False
    text = text.rstrip(":") if not text.endswith("::") else text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    groups = len([g for g in text.split(":") if g])
    if address.version == 6 and (groups < 4 or not re.search("[0-9]", text)):
        return False
    return address.is_global and not address.is_multicast and text not in data()["placeholder_ips"]


def _phone(before: str, text: str, after: str) -> bool:
    """Seven to fifteen digits that are no pattern; exchange 555 of North America is fiction's."""
    plain = _digits(text)
    if not 7 <= len(plain) <= 15 or not _apart(before.replace("+", " "), after):
        return False
    last = plain[-10:]
    steps = {(int(b) - int(a)) % 10 for a, b in pairwise(last)}
    fiction = len(plain) in (7, 10, 11) and last[-7:-4] == "555"
    return len(steps) > 1 and len(set(last[-7:])) > 2 and not fiction


def checked(candidates: pl.DataFrame, rule: Rule) -> pl.Series:
    """Which candidates (`before`, `text`, `after`) a rule takes (Boolean); each is asked once."""
    columns = ["before", "text", "after"]
    distinct = candidates.select(columns).unique(maintain_order=True)
    taken = [rule.checks(*row) for row in distinct.iter_rows()]
    known = distinct.with_columns(taken=pl.Series(taken, dtype=pl.Boolean))
    return candidates.join(known, on=columns, how="left", maintain_order="left")["taken"]
