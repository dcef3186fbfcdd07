"""The pictures of a store: each once, in a file named by its content."""

from __future__ import annotations

import re
from pathlib import Path

from prefactory.errors import StoreError
from prefactory.folders import new_file
from prefactory.images.marks import name_of


class ImageFiles:
    """Pictures under a folder, in `<first two letters>/<name>`; safe for threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made with the first picture."""
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Write a picture, unless it is there; return its name.

        Raises:
            OSError: the disk is full, or not writable.
        """
        name = name_of(data)
        if not self.whole(name, len(data)):
            with new_file(self._path(name)) as file:
                file.write(data)
        return name

    def get(self, name: str) -> bytes:
        """Read a picture.

        Raises:
            StoreError: it is not there, or its bytes are others.
        """
        try:
            data = self._path(name).read_bytes()
        except OSError as error:
            raise StoreError(f"the picture {name} can't be read ({error}); run again") from error
        if name_of(data) != name:
            raise StoreError(f"{self._path(name)} is damaged; remove it, and run again")
        return data

    def whole(self, name: str, size: int) -> bool:
        """Tell whether a picture is there with its size and its bytes."""
        try:
            path = self._path(name)
            return path.stat().st_size == size and name_of(path.read_bytes()) == name
        except OSError:
            return False

    def _path(self, name: str) -> Path:
        if re.fullmatch("[a-p]{32}", name) is None:
            raise StoreError(f"{name!r} is no name of a picture")
        return self.folder / name[:2] / name
