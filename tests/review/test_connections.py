"""What strangers may do to the server before they are asked who they are."""

import socket

import pytest

from review.app import connections
from tests.review.client import newcomer, serving
from tests.review.conftest import some_pairs

ASKED = "GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def url():
    """These tests are about requests: a file will do."""


@pytest.fixture
def port(make):
    with serving(make(some_pairs(3), people=2)) as port:
        yield port


def begun(port, text=""):
    link = socket.create_connection(("127.0.0.1", port), timeout=100)
    link.sendall(text.encode())
    return link


def told(link):
    """Status of the answer; None if the connection was ended without one."""
    with link:
        try:
            answer = link.recv(1000)
        except ConnectionError:
            return None
    return int(answer.split()[1]) if answer else None


def test_a_head_without_end_is_not_kept(port):
    link = begun(port, "GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
    with pytest.raises(ConnectionError):
        link.sendall(b"y" * 200_000_000)
    assert told(begun(port, ASKED)) == 204


@pytest.mark.parametrize(
    "text", ["", "GET / HTTP/1.1\r\nHost: ", "POST /vote HTTP/1.1\r\nHost: localhost\r\n"
             "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\na="]
)  # fmt: skip
def test_a_connection_that_never_asks_is_ended(port, monkeypatch, text):
    monkeypatch.setattr(connections, "PATIENCE_S", 0.2)
    assert told(begun(port, text)) is None


def test_an_address_has_so_many_connections_and_no_more(port, monkeypatch):
    monkeypatch.setattr(connections, "MOST_OF_ONE", 3)
    idle = [begun(port) for _ in range(3)]
    assert told(begun(port, ASKED)) is None
    idle.pop().close()
    while (status := told(begun(port, ASKED))) is None:
        pass  # until the server has seen its end
    assert status == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Host: localhost\r\nHost: evil.example", 400),
        ("Host: [::1]evil.example", 400),
        ("Host: localhost:80:evil.example", 400),
        ("Host: localhost\r\nOrigin: http://[", 400),
        ("Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", 413),
    ],
)
def test_a_request_that_says_two_things_is_refused(port, headers, status):
    kind = "Content-Type: application/x-www-form-urlencoded"
    link = begun(port, f"POST /vote HTTP/1.1\r\n{headers}\r\n{kind}\r\n\r\n3\r\na=b\r\n0\r\n\r\n")
    assert told(link) == status


def test_a_mark_of_other_letters_is_none(make):
    review = make(some_pairs(3), people=2)
    with serving(review) as port:
        ada = newcomer(review, port)
        assert ada.post("/vote", {"mark": "é\udc80".encode("utf-8", "surrogateescape")})[0] == 403
