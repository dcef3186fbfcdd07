"""The command in a process of its own that has its imports already: forks of one that is warm.

A command of a second spends most of it on imports, and the tests run hundreds of them. A server
imports once what most commands do, what a trainer does with the first command that trains, and what
an encoder does after the first command that embedded, and forks for each; the fork has the folder,
the environment and the files that a new process would have. What an import reads (PREFECT_*,
PYTHONHASHSEED, threads) it can't change: such a command, and one whose imports matter, is started
anew (`fits`).

A fork has none of the threads of its server. Those that the imports start are the allocator's and
OpenBLAS's, which look after themselves at a fork, and one of Polars that cleans up after spills;
Polars' and Arrow's pools start with their first work, so in the fork.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TextIO

MODULES = ("catalog.versions", "datasets", "pipelines.build", "pipelines.settings", "pipelines.cli")
EMBEDDING = ("prefactory.engines.embedding", "transformers.models.bert.modeling_bert")
"""What some commands import beside them, which only they know: four seconds."""
TRAINING = ("pipelines.training.launch", "trainers.training", "trl.trainer.dpo_trainer")
"""What `train` imports beside them: ten seconds."""
FREE = {"CUDA_VISIBLE_DEVICES", "PREFACTORY_HOME", "PYTHONPATH"}
"""What a test may say of the environment: no import reads it; a fork sees to PYTHONPATH itself."""
NOISE = (
    *("KMP_", "PREFECT_LOGGING_", "PREFECT_SERVER_LOGGING_", "PYTEST_", "PYTHONPATH", "RAY_"),
    *("TOKENIZERS_", "TORCHINDUCTOR_", "TRANSFORMERS_", "TRL_", "_RJEM_"),
)
"""What libraries write into the environment when this process imports them."""


class Warm:
    """A server of warm forks; it ends with the process that holds it."""

    def __init__(self) -> None:
        self._env = dict(os.environ)
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._path = str(Path(self._folder.name) / "socket")
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def fits(self, env: dict[str, str]) -> bool:
        """Whether a command may be a fork: of this environment, and what a test says beyond it."""
        now = os.environ
        moved = {k for k in {*now, *self._env} if now.get(k) != self._env.get(k)}
        told = {k for k, value in env.items() if value != self._env.get(k)}
        told |= {k for k in moved if not k.startswith(NOISE)}
        return told <= FREE and self._process.poll() is None

    def run(
        self, words: tuple[str, ...], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run the command and give back what it printed and its exit status."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            files = [Path(folder) / name for name in ("out", "err")]
            asked = {"words": words, "cwd": str(cwd), "env": env, "files": [str(f) for f in files]}
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(timeout)
                link.connect(self._path)
                with link.makefile("rw", encoding="utf-8") as stream:
                    print(json.dumps(asked), file=stream, flush=True)
                    pid = int(stream.readline())
                    try:
                        code = int(stream.readline())
                    except TimeoutError:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                        raise subprocess.TimeoutExpired(words, timeout) from None
            out, err = (f.read_text("utf-8") for f in files)
        return subprocess.CompletedProcess(["prefactory", *words], code, out, err)


def _command(asked: dict) -> None:
    """Be the command: never returns."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for number, path in zip((1, 2), asked["files"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["prefactory", *asked["words"]]
    own = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:1] = [str(Path(sys.executable).parent), *own]  # as of the installed command
    from pipelines.cli import main

    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if "torch" in sys.modules:
        Path(asked["embeds"]).touch()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # as the interpreter does: waits for threads that are no daemons
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _handle(link: socket.socket, asked: dict) -> None:
    """Fork the command, tell its number and, at its end, its exit status."""
    with link.makefile("w", encoding="utf-8") as stream:
        pid = os.fork()
        if pid == 0:
            link.close()
            _command(asked)
        print(pid, file=stream, flush=True)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):
            print(os.waitstatus_to_exitcode(status), file=stream, flush=True)


def _end_with(stream: TextIO) -> None:
    """End this process when the one that holds the other end of the stream has ended."""
    stream.read()
    os._exit(0)


def _serve(path: str) -> None:
    from pipelines.cli.app import quiet_environment

    quiet_environment(verbose=False)  # as the command does before its imports
    for module in MODULES:
        __import__(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    while True:
        link, _ = listener.accept()
        with link.makefile("r", encoding="utf-8") as stream:
            asked = json.loads(stream.readline())
        asked["embeds"] = f"{path}.embeds"
        late = TRAINING if "train" in asked["words"] else ()
        for module in (*late, *(EMBEDDING if Path(asked["embeds"]).exists() else ())):
            __import__(module)
        gc.freeze()  # a fork looks at what it has made itself
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _handle(link, asked)
            os._exit(0)
        link.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
