import json

import polars as pl
import pytest

from filters.contamination.benchmarks import benchmark, read_benchmark
from prefactory.errors import DataError


def texts(path, **more):
    return read_benchmark(str(path), **more).texts.to_list()


def jsonl(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_usual_columns(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"answer": "4", "question": "2 + 2?"}, {"question": " "})
    assert texts(path) == ["2 + 2?"]
    assert read_benchmark(str(path)).name == "a"
    upper = jsonl(tmp_path / "b.jsonl", {"Question": "why?"})
    assert texts(upper) == ["why?"]
    both = jsonl(tmp_path / "c.jsonl", {"instruction": "Add.", "input": "1, 2"})
    assert texts(both) == ["Add.\n1, 2"]


def test_turns_and_messages_are_one_prompt(tmp_path):
    turns = jsonl(tmp_path / "a.jsonl", {"turns": ["first", "then"]})
    assert texts(turns) == ["first\nthen"]
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert texts(jsonl(tmp_path / "b.jsonl", {"messages": said})) == ["u"]
    share = [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]
    assert texts(jsonl(tmp_path / "c.jsonl", {"conversations": share})) == ["h"]


def test_csv_with_and_without_header(tmp_path):
    (tmp_path / "a.csv").write_text("Type,Question\nx,what is it?\n")
    assert texts(tmp_path / "a.csv") == ["what is it?"]
    (tmp_path / "b.csv").write_text("Which one?,red,blue,A\nAnd now?,x,y,B\n")
    assert texts(tmp_path / "b.csv") == ["Which one?", "And now?"]


def test_lines_of_text_and_tables(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert texts(tmp_path / "a.txt") == ["one", "two"]
    pl.DataFrame({"problem": ["p"], "id": [1]}).write_parquet(tmp_path / "b.parquet")
    assert texts(tmp_path / "b.parquet") == ["p"]


def test_a_named_column(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "no", "ask": "yes"})
    assert texts(path, column="ask") == ["yes"]
    with pytest.raises(DataError, match="did you mean 'ask'"):
        texts(path, column="aks")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"foo": 1}\n', "no column that is known"),
        ("a.jsonl", '{"prompt": ""}\n', "holds no prompt"),
        ("a.txt", "", "holds no prompt"),
    ],
)
def test_what_holds_no_prompts(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        texts(tmp_path / name)


def test_what_is_not_there(tmp_path):
    for name in ("none.jsonl", "none.txt", "owner/none"):
        with pytest.raises(DataError):
            texts(tmp_path / name)


def test_the_digest_is_of_the_prompts():
    one, same, other = (
        benchmark(n, pl.Series(t)) for n, t in (("a", ["x", None]), ("a", ["x"]), ("a", ["y"]))
    )
    assert one.digest == same.digest != other.digest
