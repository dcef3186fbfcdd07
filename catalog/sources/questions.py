"""Prompts of MT-bench and Arena answers: the questions files that lie near them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from catalog.sources.columns import value_at
from catalog.sources.open_files import chunks
from catalog.sources.resolve import format_of, resolve
from catalog.sources.spec import SourceFile, SourceSpec
from prefactory.errors import DataError


def question_files(
    spec: SourceSpec, base: Path | None, files: tuple[SourceFile, ...]
) -> tuple[SourceFile, ...]:
    """Find the questions: `questions` of the mapping, or files called *question* nearby.

    Nearby is the folder of the first file, and the folder above it.

    Raises:
        DataError: there is none.
    """
    named = spec.mapping.get("questions")
    if named is not None:
        return resolve(SourceSpec(path=named), base).files
    fs, path = fsspec.core.url_to_fs(files[0].url)
    folder = PurePosixPath(path).parent
    for parent in (folder, folder.parent):
        files_near = [
            SourceFile(PurePosixPath(p).name, _url(fs, p, files[0]), int(fs.size(p) or -1))
            for p in fs.ls(str(parent), detail=False)
            if "question" in PurePosixPath(p).name.lower() and format_of(p) is not None
        ]
        if files_near:
            return tuple(sorted(files_near, key=lambda f: f.name))
    raise DataError(
        f"source {spec.path!r} holds answers without their prompts, and no file called *question* "
        "lies near it; name it with `mapping: {questions: <path>}`"
    )


def _url(fs: Any, path: str, like: SourceFile) -> str:  # noqa: ANN401 - fsspec
    return str(fs.unstrip_protocol(path)) if "://" in like.url else str(path)


def read_questions(files: tuple[SourceFile, ...]) -> dict[str, list[str]]:
    """Question id -> turns of the user, of all files together.

    Raises:
        DataError: two files have the same id for different questions.
    """
    questions: dict[str, list[str]] = {}
    for file in files:
        for chunk in chunks(file, 4096):
            table = chunk.table.to_dicts() if chunk.table is not None else []
            for record in chunk.records if chunk.records is not None else table:
                key, turns = value_at(record, ("question_id",)), value_at(record, ("turns",))
                if key is None or not isinstance(turns, list):
                    continue
                if questions.setdefault(str(key), turns) != turns:
                    raise DataError(
                        f"{file.name} has another question {key} than the files beside it; name "
                        "the one to use with `mapping: {questions: <path>}`"
                    )
    return questions
