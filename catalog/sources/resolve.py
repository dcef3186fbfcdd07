"""From the path of a source to its files: file, folder, glob, URL, `datasets` folder, hub id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from catalog.sources.archives import members, web_file
from catalog.sources.spec import SourceFile, SourceSpec
from prefactory.errors import DataError
from prefactory.safety.addresses import check_address

FORMATS = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "ipc",
    "feather": "ipc",
    "ipc": "ipc",
    "xlsx": "sheet",
    "xlsm": "sheet",
    "ods": "sheet",
    "zip": "zip",
}
"""Extension (before one of `PACKED`) -> reader."""
PACKED = (".gz", ".zst", ".bz2", ".xz")
"""Last extensions of files that are unpacked while they are read."""

_NO_DATA = {
    "state.json",
    "dataset_info.json",
    "dataset_dict.json",
    "manifest.json",
    "croissant.json",
}
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)/?")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Files of a source, sorted by name; or the id of a hub dataset."""

    name: str
    files: tuple[SourceFile, ...] = ()
    hub: str | None = None


def format_of(name: str) -> str | None:
    """Reader for a file name, by its extension; None if it has no extension that we read."""
    parts = _unpacked(PurePosixPath(name).name).lower().rsplit(".", 1)
    return FORMATS.get(parts[1]) if len(parts) == 2 else None


def _unpacked(name: str) -> str:
    """A file name without the extension that says how it is packed."""
    return next((name[: -len(end)] for end in PACKED if name.lower().endswith(end)), name)


def stem_of(name: str) -> str:
    """File name without its extensions (`pairs.jsonl.gz` -> `pairs`)."""
    base = PurePosixPath(name).name
    if format_of(base) is None:
        return base
    return _unpacked(base).rsplit(".", 1)[0]


def resolve(spec: SourceSpec, base: Path | None) -> Resolved:
    """Find what a spec's path means.

    Args:
        spec: the source.
        base: folder that a relative path starts from.

    Raises:
        DataError: nothing is there.
        ConfigError: its address holds a user, password or key.
    """
    check_address(spec.path, "source", query=True)
    hub = _HUB_URL.fullmatch(spec.path)
    if hub:
        return Resolved(hub[1].split("/")[1], hub=hub[1])
    if spec.path.startswith(("http://", "https://")):
        return _single(spec, web_file(spec.path))
    remote = "://" in spec.path
    url = spec.path if remote else str((base or Path()).joinpath(Path(spec.path).expanduser()))
    try:
        fs, path = fsspec.core.url_to_fs(url)
        resolved = _find(spec, fs, path)
    except DataError:
        raise
    except Exception as error:  # every filesystem has errors of its own
        raise DataError(f"source {spec.path!r} can't be opened: {error}") from error
    if resolved is not None:
        return resolved
    if not remote and _HUB.fullmatch(spec.path) and format_of(spec.path) is None:
        return Resolved(spec.path.split("/")[1], hub=spec.path)
    raise DataError(f"source {spec.path!r}: there is no such file or folder ({url}); mend `path`")


def _find(spec: SourceSpec, fs: Any, path: str) -> Resolved | None:  # noqa: ANN401 - fsspec
    if fs.isfile(path):
        return _single(spec, _file(fs, path, PurePosixPath(path).name))
    if fs.isdir(path):
        return _folder(spec, fs, path.rstrip("/"))
    if not _GLOB.search(path):
        return None
    root = _root(path)
    paths = [p for p in fs.glob(path) if fs.isfile(p)]
    files = [_file(fs, p, _below(p, root)) for p in paths]
    return Resolved(PurePosixPath(root).name, _listed(spec, files))


def _single(spec: SourceSpec, file: SourceFile) -> Resolved:
    files = _listed(spec, [file]) if format_of(file.name) == "zip" else (file,)
    return Resolved(stem_of(file.name), files)


def _root(pattern: str) -> str:
    """The folder of a glob that has no wildcard."""
    parts = PurePosixPath(pattern).parts
    first = next(i for i, part in enumerate(parts) if _GLOB.search(part))
    return str(PurePosixPath(*parts[:first]))


def _below(path: str, root: str) -> str:
    return str(PurePosixPath(path).relative_to(PurePosixPath(root)))


def _folder(spec: SourceSpec, fs: Any, path: str) -> Resolved:  # noqa: ANN401 - fsspec
    name = PurePosixPath(path).name
    if spec.config is not None:
        if not fs.isdir(f"{path}/{spec.config}"):
            raise DataError(f"source {spec.path!r} has no folder {spec.config!r} (its `config`)")
        path = f"{path}/{spec.config}"
    elif fs.isfile(f"{path}/manifest.json"):
        marks = ("dataset_dict.json", "state.json")  # of a saved DatasetDict, or Dataset
        mark_files = [f for mark in marks for f in fs.glob(f"{path}/*/{mark}")]
        tables = sorted({PurePosixPath(f).parent.name for f in mark_files})
        if len(tables) > 1:
            raise DataError(
                f"source {spec.path!r} is a published version with {' and '.join(tables)}; say "
                f"which with `config: {tables[0]}`"
            )
        path = f"{path}/{tables[0]}" if tables else path
    if fs.isfile(f"{path}/dataset_dict.json") or fs.isfile(f"{path}/state.json"):
        return Resolved(name, _saved_dataset(spec, fs, path))
    files = [_file(fs, p, n) for p in fs.find(path) if _is_data(n := _below(p, path))]
    return Resolved(name, _listed(spec, files))


def _listed(spec: SourceSpec, files: list[SourceFile]) -> tuple[SourceFile, ...]:
    """Those of some files that hold data, and of zip files their members."""
    alone = len(files) == 1
    parts = [members(f, alone) if format_of(f.name) == "zip" else [f] for f in files]
    data = [file for part in parts for file in part if _is_data(file.name)]
    if spec.split is not None:
        data = [f for f in data if _of_split(f.name, spec.split)]
    if not data:
        split = f" of split {spec.split!r}" if spec.split else ""
        raise DataError(
            f"source {spec.path!r} holds no data file{split} (formats: {', '.join(FORMATS)}, each "
            f"also as {', '.join(PACKED)})"
        )
    return _sorted(data)


def _is_data(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "_")) for part in parts)
    cached = parts[-1].startswith("cache-")
    return not hidden and not cached and parts[-1] not in _NO_DATA and format_of(name) is not None


def _of_split(name: str, split: str) -> bool:
    path = PurePosixPath(name)
    own = re.match(rf"{re.escape(split)}(?:[-_.]\d|\.|$)", path.name) is not None
    return own or split in path.parts[:-1]


def _saved_dataset(spec: SourceSpec, fs: Any, path: str) -> tuple[SourceFile, ...]:  # noqa: ANN401
    """Arrow files of a folder made by `save_to_disk`, in the order that it says."""
    splits = [""]
    if fs.isfile(f"{path}/dataset_dict.json"):
        splits = sorted(_json(fs, f"{path}/dataset_dict.json")["splits"])
    states = {s: _json(fs, f"{path}/{s}/state.json" if s else f"{path}/state.json") for s in splits}
    named = {state.get("_split") or s: s for s, state in states.items()} | {s: s for s in splits}
    if spec.split is not None:
        if spec.split not in named:
            known = ", ".join(sorted(n for n in named if n)) or "none"
            raise DataError(
                f"source {spec.path!r} has no split {spec.split!r}; its splits: {known}"
            )
        states = {named[spec.split]: states[named[spec.split]]}
    files = []
    for split, state in states.items():
        for entry in state["_data_files"]:
            name = f"{split}/{entry['filename']}" if split else entry["filename"]
            files.append(_file(fs, f"{path}/{name}", name))
    return _sorted(files)


def _json(fs: Any, path: str) -> dict[str, Any]:  # noqa: ANN401 - fsspec
    with fs.open(path, "rb") as file:
        value = json.load(file)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not what `save_to_disk` writes")
    return value


def _file(fs: Any, path: str, name: str) -> SourceFile:  # noqa: ANN401 - fsspec
    local = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
    size = fs.size(path)
    url = path if local else fs.unstrip_protocol(path)
    return SourceFile(name, url, -1 if size is None else int(size))


def _sorted(files: list[SourceFile]) -> tuple[SourceFile, ...]:
    return tuple(sorted(files, key=lambda f: f.name))
