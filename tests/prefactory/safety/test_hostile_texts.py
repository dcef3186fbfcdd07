"""Patterns over texts of the data end: 200,000 characters that made them work for hours."""

import pytest

from catalog.sources.layouts.transcripts import _MARK
from catalog.sources.messages import looks_written
from generators.evidence import claims
from generators.hard_negatives.texts import pieces, sentences
from generators.system_messages.engine import _LIST
from prefactory.safety.addresses import shown

N = 200_000


@pytest.mark.parametrize("unit", [" ", "\n", " \n", ".", "?", "\t", "\u3000", "[1,", ".)", "&a"])
def test_they_end(unit):
    text = unit * (N // len(unit))
    assert not _MARK.search(text)
    assert not looks_written(text)
    assert not _LIST.search(text)
    assert len(claims._CITATION.sub("", text)) <= N
    assert not list(claims._END.finditer(text))
    assert "".join(sentences(text)) == text
    assert text.startswith("".join(pieces(text)))
    assert shown(text) == text


def test_they_find_what_they_did():
    assert _MARK.search("x\n \r\n## Human: a")
    assert not _MARK.search("x\nHuman: a")
    assert _LIST.search("a\n\n  - b")
    assert claims._CITATION.sub("", "so [1], and [2 , 3].") == "so, and."
    assert sentences("... So.  \nIt is (well.) Not") == ["... ", "So.  \n", "It is (well.) ", "Not"]
    assert pieces(" a\u3000漢b \t") == [" a", "\u3000漢", "b"]
    assert looks_written("\n [ {'role': 'user'}]")
    assert shown("GET //h/x?a=1&key=2?b=3") == "GET //h/x?a=***&key=***"
