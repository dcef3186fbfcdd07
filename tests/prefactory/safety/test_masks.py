"""Secrets in what servers, proxies and databases say, in whatever form they say them."""

import base64
import json
import urllib.parse

import pytest

from prefactory.engines.http import Client
from prefactory.safety.addresses import passwords
from prefactory.safety.masks import Masks

KEY = 'sk/ve+ry=sec"ret-0123'


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
def test_a_secret_goes_in_every_form(before):
    pair = (before + KEY + "z").encode()
    coded = [base64.b64encode(pair), base64.urlsafe_b64encode(pair)]
    for said in (KEY, urllib.parse.quote(KEY, safe=""), urllib.parse.quote_plus(KEY),
                 *(c.decode() for c in coded)):  # fmt: skip
        out = Masks([KEY]).text(f"it is {said}.")
        assert "***" in out
        assert not any(KEY[i : i + 6] in out for i in range(len(KEY) - 6))
        core = said[6:-6]
        assert core not in out


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        lambda text: json.dumps(text).replace("/", "\\/"),
        lambda text: '"\\u' + text.encode("utf-16-be").hex(" ", 2).replace(" ", "\\u") + '"',
    ],
)
def test_json_with_escapes_keeps_its_meaning_without_the_secret(write):
    text = f'a\\u0041 {KEY} \\ "q" /x \n ö 🙂 \x7f'
    raw = Masks([KEY]).json(b'{"a": ' + write(text).encode() + b', "n": 1e400}')
    assert json.loads(raw) == {"a": text.replace(KEY, "***"), "n": float("inf")}


def test_a_short_secret_is_masked_as_a_word_of_errors_and_left_in_answers():
    masks = Masks(["abc", ""])
    assert masks.text("key abc of abcd") == "key *** of abcd"
    assert masks.json(b'"abc"') == b'"abc"'


def test_the_password_of_a_proxy_is_a_secret(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:pass%2Fword@proxy:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    secrets = Client("http://example.org").secrets
    assert "pass/word" in secrets
    said = f"407 {base64.b64encode(b'me:pass/word').decode()}"
    assert "bWU6" not in Masks(secrets).text(said)
    monkeypatch.delenv("http_proxy")
    assert Client("http://example.org").secrets == []


def test_passwords_of_addresses():
    assert set(passwords("postgresql://me:p%2Fw@h/db?sslpassword=x1")) == {"p%2Fw", "p/w", "x1"}
    assert passwords("postgresql://me@h/db") == []
    assert passwords("postgresql://me:a@b@h/db") == ["a@b"]
