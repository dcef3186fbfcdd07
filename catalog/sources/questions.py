"""Prompts and answers that MT-bench and Arena keep in other files, which lie near."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from catalog.sources.archives import is_web
from catalog.sources.columns import value_at
from catalog.sources.open_files import chunks
from catalog.sources.resolve import format_of, resolve
from catalog.sources.spec import SourceFile, SourceSpec
from prefactory.errors import DataError

BESIDE = {"questions": "question", "model_answers": "answer"}
"""What may lie beside a source (also its key in a mapping) -> word in the name of its files."""


def files_beside(
    what: str, spec: SourceSpec, base: Path | None, files: tuple[SourceFile, ...]
) -> tuple[SourceFile, ...]:
    """Find questions or answers: what the mapping names, or files called so nearby.

    Nearby is the folder of the first file, the folder above it, and folders there that are called
    so.

    Args:
        what: `questions` or `model_answers`.
        spec: the source.
        base: folder that a relative path in the mapping starts from.
        files: of the source.

    Raises:
        DataError: there is none.
    """
    named = spec.mapping.get(what)
    if named is not None:
        return resolve(SourceSpec(path=named), base).files
    word, own = BESIDE[what], {f.url for f in files}
    parents: tuple[PurePosixPath, ...] = ()
    if not is_web(files[0].url):  # a web server lists no folders
        fs, path = fsspec.core.url_to_fs(files[0].url)
        parents = (PurePosixPath(path).parent, PurePosixPath(path).parent.parent)
    for parent in parents:
        near = [
            p for p in fs.ls(str(parent), detail=False) if word in PurePosixPath(p).name.lower()
        ]
        near += [inner for p in near if fs.isdir(p) for inner in fs.ls(p, detail=False)]
        files_near = [
            SourceFile(PurePosixPath(p).name, url, int(fs.size(p) or -1))
            for p in near
            if format_of(p) is not None and (url := _url(fs, p, files[0])) not in own
        ]
        if files_near:
            return tuple(sorted(files_near, key=lambda f: f.name))
    lacks = {
        "questions": "answers without their prompts",
        "model_answers": "scores without answers",
    }
    raise DataError(
        f"source {spec.path!r} holds {lacks[what]}, and no file called *{word}* lies near it; name "
        f"it with `mapping: {{{what}: <path>}}`"
    )


def _url(fs: Any, path: str, like: SourceFile) -> str:  # noqa: ANN401 - fsspec
    return str(fs.unstrip_protocol(path)) if "://" in like.url else str(path)


def read_questions(files: tuple[SourceFile, ...]) -> dict[str, list[str]]:
    """Question id -> turns of the user, of all files together.

    Raises:
        DataError: two files have the same id for different questions.
    """
    questions: dict[str, list[str]] = {}
    for file, record in _records(files):
        key, turns = record.get("question_id"), record.get("turns")
        if key is None or not isinstance(turns, list):
            continue
        if questions.setdefault(str(key), turns) != turns:
            raise DataError(
                f"{file.name} has another question {key} than the files beside it; name "
                "the one to use with `mapping: {questions: <path>}`"
            )
    return questions


def read_answers(files: tuple[SourceFile, ...]) -> dict[tuple[str, str], list[str]]:
    """(Question id, model) -> turns of the model, of all files together; the first choice of each.

    Raises:
        DataError: a model has two different answers to a question.
    """
    answers: dict[tuple[str, str], list[str]] = {}
    for file, record in _records(files):
        turns = record.get("turns") or value_at(record, ("choices", "0", "turns"))
        model = record.get("model_id") or record.get("model")
        key = (str(record.get("question_id")), str(model))
        if isinstance(turns, list) and answers.setdefault(key, turns) != turns:
            raise DataError(
                f"{file.name} has another answer of {key[1]} to question {key[0]} than the files "
                "beside it; name the one to use with `mapping: {model_answers: <path>}`"
            )
    return answers


def _records(files: tuple[SourceFile, ...]) -> Iterator[tuple[SourceFile, dict[str, Any]]]:
    for file in files:
        for chunk in chunks(file, 4096):
            table = chunk.table.to_dicts() if chunk.table is not None else []
            for record in chunk.records if chunk.records is not None else table:
                yield file, record
