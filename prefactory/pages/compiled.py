"""Templates that are compiled once, as Python's own modules are."""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import sys
import tempfile
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

FOLDER = Path(__file__).parent / "__pycache__"


class Compiled(BytecodeCache):
    """Code of our templates, kept beside Python's and trusted like it.

    What another text, Jinja or Python made, or is damaged, is compiled anew; nothing is kept where
    Python keeps nothing (`PYTHONDONTWRITEBYTECODE`) or the folder can't be written.
    """

    def load_bytecode(self, bucket: Bucket) -> None:
        """Take the kept code, if it is whole and of this text."""
        with contextlib.suppress(OSError):
            kept = _file(bucket).read_bytes()
            if kept[:32] == _seal(bucket, kept[32:]):
                bucket.code = marshal.loads(kept[32:])  # noqa: S302 - as Python reads its own

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code, whole or not at all."""
        if sys.dont_write_bytecode or bucket.code is None:
            return
        code = marshal.dumps(bucket.code)
        with contextlib.suppress(OSError):
            FOLDER.mkdir(exist_ok=True)
            number, name = tempfile.mkstemp(dir=FOLDER)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(_seal(bucket, code) + code)
                Path(name).replace(_file(bucket))
            finally:
                Path(name).unlink(missing_ok=True)


def _file(bucket: Bucket) -> Path:
    return FOLDER / f"{bucket.key}.{sys.implementation.cache_tag}.template"


def _seal(bucket: Bucket, code: bytes) -> bytes:
    """Digest of the code and of what it was made from and by."""
    made = f"{bucket.checksum} {jinja2.__version__} {sys.version}\n".encode()
    return hashlib.sha256(made + code).digest()
