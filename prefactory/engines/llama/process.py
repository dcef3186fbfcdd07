"""The process in which llama.cpp runs: a script that knows nothing of prefactory.

It reads one line of JSON from its input, loads the model, writes one line of JSON, `{"addresses":
[...]}` or `{"error": "..."}`, and ends when its input ends, which is when whoever started it does.
What llama.cpp itself has to say goes to the error output.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until the input ends."""
    asked = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp writes there, too
    try:
        servers = [_server(asked) for _ in range(asked["places"])]
        said: dict[str, Any] = {"addresses": [s.listening_address for s in servers]}
    except Exception as error:  # whatever llama.cpp has against the model
        said = {"error": str(error) or type(error).__name__}
    out.write(json.dumps(said) + "\n")
    out.flush()
    while "error" not in said and sys.stdin.readline():
        pass
    os._exit(0)  # at once, whatever is being written


def _server(asked: dict[str, Any]) -> Any:  # noqa: ANN401 - xllamacpp's own class
    """A copy of the model with one place and one thread, so that an answer depends on no other.

    The weights are mapped from the file: all copies share them.
    """
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path = asked["file"]
    wanted.chat_template = asked["chat_template"] or ""
    wanted.n_ctx, wanted.n_parallel = asked["context"], 1
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
    wanted.n_threads_http = 2
    wanted.n_gpu_layers = 0
    wanted.api_keys = [asked["key"]]
    wanted.hostnames, wanted.port = ["127.0.0.1"], 0
    wanted.verbosity, wanted.cache_ram_mib = 0, 0
    wanted.fit_params = wanted.warmup = wanted.ui = wanted.endpoint_slots = False
    wanted.prefill_assistant = False  # an answer at the end is a turn, as for other engines
    wanted.reasoning_format = 0  # thoughts stay where the model wrote them
    return xllamacpp.Server(wanted)


if __name__ == "__main__":
    main()
