"""Patterns over texts of the data end: 200,000 characters that made them work for hours."""

import io

import pytest

from catalog.sources.json_files import read_json
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


@pytest.mark.parametrize("begin", ['{"a": "', '{"a" x "', '{"a" x ', '{"a": '])
@pytest.mark.parametrize("unit", ['\\"', '"\\', '"', "[ ", '{"a":', "x\n{"])
def test_an_array_that_never_closes_is_read_to_its_end_once(begin, unit):
    text = "[" + begin + unit * (N // len(unit))
    (chunk,) = read_json(io.BytesIO(text.encode()), 10**6)
    assert not chunk.records
    assert {*chunk.rejects.reasons} == {"malformed"}


@pytest.mark.parametrize("between", [",", ",\n", ", \n\t"])
def test_an_array_of_nothing_but_broken_elements_names_each(between):
    n = N // 10
    text = "[" + between.join([*['{"a" x}'] * n, '{"a": 1}']) + "]"
    (chunk,) = read_json(io.BytesIO(text.encode()), 10**6)
    assert (chunk.records, chunk.rejects.lines) == ([{"a": 1}], list(range(1, n + 1)))


def test_they_find_what_they_did():
    assert _MARK.search("x\n \r\n## Human: a")
    assert not _MARK.search("x\nHuman: a")
    assert _LIST.search("a\n\n  - b")
    assert claims._CITATION.sub("", "so [1], and [2 , 3].") == "so, and."
    assert sentences("... So.  \nIt is (well.) Not") == ["... ", "So.  \n", "It is (well.) ", "Not"]
    assert pieces(" a\u3000漢b \t") == [" a", "\u3000漢", "b"]
    assert looks_written("\n [ {'role': 'user'}]")
    assert shown("GET //h/x?a=1&key=2?b=3") == "GET //h/x?a=***&key=***"
