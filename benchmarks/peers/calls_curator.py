"""N calls through Bespoke Curator, in an environment that has it: URL WIDTH N -> one JSON line."""

import json
import os
import resource
import sys
import tempfile
import time

url, width, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.environ |= {
    "OPENAI_API_KEY": "none",
    "CURATOR_CACHE_DIR": tempfile.mkdtemp(),
    "CURATOR_VIEWER": "0",
    "TELEMETRY_ENABLED": "false",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
import importlib.util
from pathlib import Path

found = importlib.util.find_spec("litellm")  # it carries the token table that tiktoken would fetch
if found and found.origin:
    tables = Path(found.origin).parent.rglob("9b5ad71b2ce5302211f9c61530b329a4922fc6a4")
    os.environ |= {"TIKTOKEN_CACHE_DIR": str(next(tables).parent)}
from bespokelabs import curator
from datasets import Dataset


class Ask(curator.LLM):
    """A question, an answer."""

    def prompt(self, row: dict) -> str:
        """The question."""
        return row["question"]

    def parse(self, row: dict, response: str) -> dict:
        """The answer."""
        return {"answer": response}


rows = Dataset.from_dict(
    {"question": [f"Question {i}: " + "what do you think of it? " * 10 for i in range(n)]}
)
model = Ask(
    model_name="gpt-4o-mini",
    backend="openai",
    generation_params={"max_tokens": 64},
    backend_params={
        "base_url": url,
        "max_concurrent_requests": width,
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 10_000_000_000,
        "require_all_responses": True,
    },
)
before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
answered = model(rows)
wall = time.monotonic() - started
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
count = len(getattr(answered, "dataset", answered))
print(json.dumps({"calls": count, "rate": count / wall, "cpu_ms": 1000 * cpu / count}))
