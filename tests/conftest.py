import gc
import logging
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings

from pipelines.cli.app import PACKAGES, quiet_environment

gc.disable()  # while all is imported and collected

# A busy machine is not a failure: nothing here is timed.
settings.register_profile("calm", deadline=None, max_examples=40)
settings.register_profile("deep", deadline=None)  # `make test-all`: --hypothesis-profile=deep
settings.load_profile("calm")

# As the command sets it: a test that calls it in this process changes no variable for those after
# it, nor for the commands of tests/pipelines/warm.py.
quiet_environment(verbose=True)
if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side: one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

MEMORY, ROOM = Path("/dev/shm"), 4 << 30
"""A file system in memory, and the bytes that must be free there: a run takes less than one GB."""


def pytest_configure(config):
    """Several workers write to memory where they can: they wait for a disk at every fsync."""
    if config.getoption("numprocesses", None) and "TMPDIR" not in os.environ and _in_memory():
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def pytest_collection_finish():
    """The garbage collector looks no more at what is imported by now: a seventh of the CPU."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup():
    """How much is logged is as at the start, whatever a command or Prefect's import has set."""
    logging.getLogger().setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


def _in_memory():
    if not MEMORY.is_mount() or not os.access(MEMORY, os.W_OK):
        return False
    programs_run = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    return programs_run and shutil.disk_usage(MEMORY).free >= ROOM
