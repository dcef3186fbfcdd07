"""Runs of a recipe in forked children that meet a fault at a chosen moment.

    python -m tests.faults.driver < commands > answers

A moment is the number of a change to the file system (a file opened for writing, a folder made,
something renamed or removed) under the home of the run, which Python tells its audit hooks. The
modules are imported once, before the forks, so a run costs what it does and no start.

A command is a line of JSON: `home`, `recipe`, and perhaps `fault` with `at` and `kind`: `kill`, an
errno by name for that change (`EIO`) or with `lasting` for it and all that follow (`ENOSPC`,
`EROFS`), `slow` (seconds a change takes) or `clock` (seconds by which the clock jumps then). The
answer is `{"rc", "changes", "digest", "version", "new", "made", "error"}`.
"""

import errno
import json
import os
import signal
import sys
import time
import traceback
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
    """Let the clock of versions and provenance jump."""
    import datetime

    import catalog.publish
    import catalog.versions

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    catalog.publish.datetime = catalog.versions.datetime = Shifted


def work(command):
    """Run the recipe in this process; the answer as plain data."""
    from pipelines.build import build, check_recipe
    from pipelines.settings import Settings
    from prefactory.errors import PrefactoryError
    from prefactory.stages import thread_mapper

    faults = Faults(command["home"], command.get("fault") or {})
    settings = Settings(Path(command["home"]), 2, command.get("shard_rows", 16))
    try:
        recipe, sources, _ = check_recipe(Path(command["recipe"]), [])
        outcome = build(recipe, sources, settings, thread_mapper(2))
    except PrefactoryError as error:
        return {"rc": error.exit_code, "changes": faults.changes, "error": str(error)}
    manifest = outcome.published.version.manifest
    return {
        "rc": 0,
        "changes": faults.changes,
        "digest": manifest.content_digest,
        "version": manifest.version,
        "new": outcome.published.new,
        "made": sum(stage.made for stage in outcome.stages),
    }


def in_a_child(command):
    """The answer of a child, or how it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            answer = work(command)
        except BaseException as error:  # a bug of ours, which the test shows
            traceback.print_exc()
            answer = {"rc": 1, "error": f"{type(error).__name__}: {error}"}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"rc": -os.WTERMSIG(status)}
    return json.loads(text)


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
    assert catalog.report and pipelines.build and prefactory.engines.session  # noqa: PT018
    for line in sys.stdin:
        sys.stdout.write(json.dumps(in_a_child(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
