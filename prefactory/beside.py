"""What lies beside a recipe: modules with steps of one's own, without a change of `sys.path`.

A module beside a recipe is imported under a private name that belongs to its folder, so two recipes
in two folders may each have a `my_steps.py`. Its own imports find their neighbours the same way.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator

from prefactory.errors import ConfigError

OURS = frozenset(
    {"audit", "catalog", "filters", "generators", "labelers", "pipelines", "prefactory", "trainers"}
)
DIGEST = "__source_digest__"
"""Attribute of a module from beside a recipe: digest of the bytes that were executed."""
_PREFIX = "_beside_"
_FOLDER: ContextVar[Path | None] = ContextVar("folder of the recipe", default=None)


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """While a recipe is read: its modules and `@path` texts start at this folder."""
    token = _FOLDER.set(folder.resolve())
    try:
        yield
    finally:
        _FOLDER.reset(token)


def recipe_folder() -> Path | None:
    """The folder of the recipe that is being read, if one is."""
    return _FOLDER.get()


def import_module(name: str) -> ModuleType:
    """Import a module that lies beside the recipe being read, else one that is installed.

    Ours and those of the standard library come first, and a module of that folder that the program
    itself has imported. An edited module is executed anew.
    """
    folder = _FOLDER.get()
    if folder is None or not _lies(name, folder):
        return importlib.import_module(name)
    return importlib.import_module(f"{_root(folder)}.{name}")


class _Placed(str):
    """An import path that was read in a recipe's folder, which it remembers."""

    __slots__ = ("package",)
    package: str


def placed(path: str) -> str:
    """An import path that remembers the folder of the recipe being read, if it leads there."""
    folder = _FOLDER.get()
    if folder is None or not _lies(path, folder):
        return path
    remembered = _Placed(path)
    remembered.package = f"{_root(folder)}."
    return remembered


ImportPath = Annotated[str, AfterValidator(placed)]
"""Field of a step: `module.function`, of a module beside the recipe or an installed one."""


def roots() -> dict[str, str]:
    """Private packages that are loaded, and their folders: what another process needs to unpickle.

    See `adopt`.
    """
    loaded = [m for n, m in list(sys.modules.items()) if n.startswith(_PREFIX) and "." not in n]
    return {m.__name__: str(m.__path__[0]) for m in loaded}


def adopt(packages: Mapping[str, str]) -> None:
    """Know the private packages of another process, by the names that they have there."""
    for name, folder in packages.items():
        if name not in sys.modules:
            package = ModuleType(name)
            package.__path__ = [folder]
            sys.modules[name] = package


def import_function(path: str, what: str) -> Callable[..., Any]:
    """Import the function that an `ImportPath` names; `what` wants it, for messages.

    Raises:
        ConfigError: there is no such function.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        function = getattr(importlib.import_module(getattr(path, "package", "") + module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{what}: can't import {path!r}: {error}") from error
    if not callable(function):
        raise ConfigError(f"{what}: {path!r} is no function")
    return function  # type: ignore[no-any-return]


def public_name(name: str) -> str:
    """Name of a module or class as a recipe writes it, without the private name of its folder."""
    return name.partition(".")[2] if name.startswith(_PREFIX) else name


def digest(path: Path) -> str:
    """Digest of the bytes of a source file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _lies(name: str, folder: Path) -> bool:
    top = name.partition(".")[0]
    if top in OURS or top in sys.stdlib_module_names or top == "__main__":
        return False
    here = PathFinder.find_spec(top, [str(folder)])
    if here is None:
        return False
    loaded = getattr(sys.modules.get(top), "__spec__", None)
    return loaded is None or _locations(loaded) != _locations(here)


def _locations(spec: ModuleSpec) -> set[str]:
    """Where a module lies; a namespace package may list one folder several times."""
    return {str(Path(p).resolve()) for p in spec.submodule_search_locations or [str(spec.origin)]}


def _root(folder: Path) -> str:
    """Private package of a folder; another one once a module of it was edited."""
    name = _PREFIX + hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()
    loaded = [m for n, m in list(sys.modules.items()) if n.startswith(name) and "." not in n]
    if loaded and not _edited(loaded[-1].__name__):
        return loaded[-1].__name__
    package = ModuleType(f"{name}_{len(loaded)}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return package.__name__


def _edited(root: str) -> bool:
    """Tell whether a module of a private package is no more what was executed."""
    modules = [m for n, m in list(sys.modules.items()) if n.startswith(f"{root}.")]
    files = [(m, Path(m.__file__)) for m in modules if getattr(m, DIGEST, None) and m.__file__]
    return any(not path.is_file() or digest(path) != getattr(m, DIGEST) for m, path in files)


class _Finder:
    """Finds modules of private packages; knows no other name."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Executes a module whose import statements find what lies beside the recipe."""

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, DIGEST, digest(Path(self.path)))
        root = module.__name__.partition(".")[0]
        scoped = {**vars(builtins), "__import__": _importer(root)}
        module.__dict__["__builtins__"] = scoped
        super().exec_module(module)


def _importer(root: str) -> Any:  # noqa: ANN401 - as `builtins.__import__`
    folder = Path(sys.modules[root].__path__[0])

    def scoped(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if level or not _lies(name, folder):
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{root}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{root}.{name.partition('.')[0]}"]

    return scoped


sys.meta_path.insert(0, _Finder)  # before the path finder, which would load them unscoped
