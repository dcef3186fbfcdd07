"""Reviews on both databases, and the servers and people that the tests of the app need."""

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import pytest

from prefactory.testing import pairs
from review.settings import Settings
from review.store import create
from tests.servers import free_port


def postgres_binaries():
    """Where initdb and pg_ctl are; Debian does not put them on PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((f for f in reversed(folders) if (f / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres():
    """URL of a real PostgreSQL server of its own, under a user that is not root."""
    binaries = postgres_binaries()
    if binaries is None:
        reason = (
            "PostgreSQL is not installed: reviews on it are NOT tested (apt install postgresql)"
        )
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    folder, port = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")), free_port()
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")

    def run(*words):
        subprocess.run([*user, *words], check=True, capture_output=True, cwd=folder)

    data = str(folder / "data")
    words = ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    run(str(binaries / "initdb"), "-D", data, *words)
    listens = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    options = f"-p {port} -c fsync=off {listens}"
    run(
        str(binaries / "pg_ctl"), "-D", data, "-o", options, "-w", "-l", f"{folder}/log", "start"
    )  # fmt: skip
    yield f"postgresql://{'postgres' if user else os.environ['USER']}@127.0.0.1:{port}/postgres"
    run(str(binaries / "pg_ctl"), "-D", data, "-m", "fast", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request):
    """None for a SQLite file, or the URL of a PostgreSQL server."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")


def some_pairs(n=12, **columns):
    table = pairs(*[(f"Question {i}?", f"Good answer {i}.", f"Bad answer {i}.") for i in range(n)])
    return table.with_columns(**columns)


@pytest.fixture
def make(tmp_path, url, request):
    """Make a review: `make(table, people=2)`."""
    made = []

    def of(table=None, name=None, **settings):
        table = some_pairs() if table is None else table
        name = name or f"r{abs(hash(request.node.nodeid)) % 10**9}"
        review = create(
            tmp_path, name, table, Settings(**settings), {"name": "test", "path": "x"}, url=url
        )
        made.append(review)
        return review

    yield of
    for review in made:
        if review.db.postgres:
            with review.db.write() as work:
                work.run(f"drop schema {review.db._schema} cascade")
        review.db.close()
