"""Addresses that hold a secret: refused where they would be kept, and never shown.

An address of a source, bucket or server stands in recipes, manifests, logs and errors. Keys belong
into the environment, of which no name is shown.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from prefactory.errors import ConfigError

_USER = re.compile(r"(?<=://)[^/@\s'\"]*@")
_VALUE = re.compile(r"([?&][^=&#\s?]++=)[^&#\s'\"]*")
_SECRET = re.compile(r"key|token|secret|sig|passw|pwd|auth|cred|session", re.IGNORECASE)
_CONTAINERS = ("abfs", "abfss", "az", "azure", "wasb", "wasbs")
"""Schemes in which what stands before the `@` is a container."""


def shown(text: str) -> str:
    """A text with users, passwords and queries of its addresses as `***`."""
    return _VALUE.sub(r"\1***", _USER.sub("***@", text))


def passwords(address: str) -> list[str]:
    """The users' passwords and the values that stand in an address, as they do and decoded."""
    place = re.split(r"[/?#]", address.partition("://")[2], maxsplit=1)[0]
    user = place.rpartition("@")[0]
    found = [user.partition(":")[2], *re.findall(r"[?&][^=&#]*=([^&#]*)", address)]
    return [form for word in found if word for form in {word, unquote(word)}]


def check_address(address: str, what: str, *, query: bool = False) -> None:
    """Refuse an address that holds a user, a password or a key.

    Args:
        address: a path is fine.
        what: it is of, for the message.
        query: whether it may have one, of which no name is that of a secret.

    Raises:
        ConfigError: it holds one.
    """
    if "://" not in address:
        return
    try:
        at = urlsplit(address)
        user, password, asked = at.username, at.password, at.query
    except ValueError as error:
        raise ConfigError(
            f"{what} {shown(address)!r} can't be fetched: it is no address"
        ) from error
    named = [name for name, _ in parse_qsl(asked, keep_blank_values=True) if _SECRET.search(name)]
    if password or (user and at.scheme not in _CONTAINERS) or named or (asked and not query):
        raise ConfigError(
            f"{what} {shown(address)!r} must hold no user, password or key: it would be written to "
            "manifests and logs. Keys come from the environment (AWS_ACCESS_KEY_ID, "
            "GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, ...); a file that needs one on the web is "
            "downloaded first"
        )
