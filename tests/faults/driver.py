"""Runs of a recipe, and changes of a catalog, in forked children that meet a fault at a moment.

    python -m tests.faults.driver [MODULE ...] < commands > answers

A moment is the number of a change to the file system (a file opened for writing, a folder made,
something renamed or removed) under the home of the run, which Python tells its audit hooks. The
modules, and what a run imports beside them, are imported once, before the next fork, so a run
costs what it does and no start.

A command is a line of JSON: `home`, `tally` (a file that gets the key of each answer written),
`recipe` or `verb` (of `VERBS`), perhaps `clock` (seconds by which the clock is wrong from the
beginning), `bucket` with the `env` that leads there, and perhaps `fault` with `at` and `kind`:
`kill`, an errno by name for that change (`EIO`) or with `lasting` for it and all that follow
(`ENOSPC`, `EROFS`), `slow` (seconds a change takes) or `clock` (seconds by which the clock jumps
then). The answer is
`{"rc", "changes", "digest", "version", "new", "made", "error"}`.
"""

import errno
import importlib
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NEED_SPACE = ("os.rename", "os.mkdir", "os.link")
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link")


class Faults:
    """Counts changes under a home, and lets the one that is asked for go wrong."""

    def __init__(self, home, fault):
        self.home = os.path.realpath(home)
        self.at = fault.get("at", 0)
        self.kind = fault.get("kind")
        self.lasting = fault.get("lasting", False)
        self.seconds = fault.get("seconds", 0)
        self.changes = 0
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        """See what is about to be done."""
        if event == "open":
            path, _, flags = args
            if not flags & WRITES:
                return
        elif event in EVENTS and (self.kind != "ENOSPC" or event in NEED_SPACE):
            path = args[0]
        else:
            return
        if isinstance(path, int) or not str(path).startswith(self.home):
            return
        self.changes += 1
        if self.kind == "slow":
            time.sleep(self.seconds)
        elif self.changes == self.at or (self.lasting and self.changes > self.at > 0):
            self.happen()

    def happen(self):
        """Let it happen."""
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "clock":
            shift_clock(self.seconds)
        elif self.kind is not None:
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code))


def shift_clock(seconds):
    """Let the clock jump: what Python asks it, not the times of files."""
    import datetime

    import catalog.publish
    import catalog.versions

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    catalog.publish.datetime = catalog.versions.datetime = Shifted
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + round(1e9 * seconds)


def tally(path):
    """Append the key of each answer to a file, before it is written into the journal."""
    from prefactory.engines.journal import Journal

    put, file = Journal.put, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def counted(self, key, value):
        if "text" in value:
            os.write(file, f"{key}\n".encode())
        return put(self, key, value)

    Journal.put = counted


def work(command):
    """Do what is asked in this process; the answer as plain data."""
    from prefactory.errors import PrefactoryError

    if command.get("tally"):
        tally(command["tally"])
    if command.get("clock"):
        shift_clock(command["clock"])
    faults = Faults(command["home"], command.get("fault") or {})
    try:
        told = run(command) if "recipe" in command else VERBS[command["verb"]](command["home"])
    except PrefactoryError as error:
        return {"rc": error.exit_code, "changes": faults.changes, "error": str(error)}
    return {"rc": 0, "changes": faults.changes, **(told or {})}


def run(command):
    """Run a recipe, with its trainings."""
    from pipelines.build import build, check_recipe
    from pipelines.settings import Settings
    from prefactory.stages import thread_mapper

    os.environ.update(command.get("env", {}))
    bucket = command.get("bucket")
    settings = Settings(Path(command["home"]), 2, 16, bucket=bucket, catalog_bucket=bucket)
    recipe, sources, _ = check_recipe(Path(command["recipe"]), [])
    outcome = build(recipe, sources, settings, thread_mapper(2))
    manifest = outcome.published.version.manifest
    return {
        "digest": manifest.content_digest,
        "version": manifest.version,
        "new": outcome.published.new,
        "made": sum(stage.made for stage in outcome.stages),
    }


# -- what changes a catalog ------------------------------------------------------------------------


def _tag(home):
    from catalog.history.tags import tag
    from catalog.versions import Catalog

    tag(Catalog(home), "kept@1", "best")


def _untag(home):
    from catalog.history.tags import untag
    from catalog.versions import Catalog

    untag(Catalog(home), "kept", "good")


def _rollback(home):
    from catalog.history.tags import rollback
    from catalog.versions import Catalog

    rollback(Catalog(home), "kept@2")


def _rm(home):
    from catalog.history.removal import alone, removable, remove
    from catalog.versions import Catalog
    from pipelines.needs import needs
    from pipelines.settings import Settings

    catalog = Catalog(home)
    with alone(catalog, Settings(Path(home)).store):
        remove(catalog, removable(catalog, "kept@2", needs(Path(home))))


def _gc(home):
    from catalog.history.removal import alone, collect, garbage
    from catalog.versions import Catalog
    from pipelines.needs import needs
    from pipelines.settings import Settings

    settings = Settings(Path(home))
    with alone(settings.catalog, settings.store):
        found = garbage(Catalog(home), settings.store, needs(Path(home)), keep=1, days=-1)
        collect(Catalog(home), settings.store, found)


def _push(home):
    from catalog.history.exchange import push
    from catalog.versions import Catalog

    push(Catalog(home).get("kept@3"), f"{home}/away")


def _pull(home):
    from catalog.history.exchange import pull
    from catalog.versions import Catalog

    pull(Catalog(home), f"{home}/there/far/1")


VERBS = {
    "tag": _tag, "untag": _untag, "rollback": _rollback, "rm": _rm, "gc": _gc, "push": _push,
    "pull": _pull,
}  # fmt: skip


def in_a_child(command):
    """The answer of a child, or how it ended."""
    known = set(sys.modules)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.setpgid(0, 0)
        try:
            answer = work(command)
            answer["imported"] = [name for name in sys.modules if name not in known]
        except BaseException as error:  # a bug of ours, which the test shows
            answer = {"rc": 1, "error": "".join(traceback.format_exception(error))}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)  # helpers of a killed child may hold the pipe for a moment
    if os.WIFSIGNALED(status):
        os.close(read)
        return {"rc": -os.WTERMSIG(status)}
    with os.fdopen(read, "rb") as told:
        answer = json.loads(os.read(told.fileno(), 1 << 20))
    for name in answer.pop("imported", ()):
        with suppress(Exception):
            importlib.import_module(name)
    return answer


def main():
    """Answer commands until there are none."""
    import catalog.report
    import filters
    import generators
    import labelers
    import pipelines.build
    import prefactory.engines.server
    import prefactory.engines.session
    import trainers

    for module in (filters, generators, labelers, trainers):  # what they load lazily
        for name in ("Length", "Responses", "TextStatistics", "Pairs"):
            getattr(module, name, None)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    assert catalog.report and pipelines.build and prefactory.engines.session  # noqa: PT018
    for line in sys.stdin:
        sys.stdout.write(json.dumps(in_a_child(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
