"""N calls through distilabel, in an environment that has it: URL WIDTH N -> one JSON line."""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

url, width, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.environ |= {"HF_HUB_OFFLINE": "1", "DISTILABEL_LOG_LEVEL": "ERROR", "DO_NOT_TRACK": "1"}
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def used() -> float:
    """CPU seconds of this process and of those that have ended below it."""
    parts = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(p.ru_utime + p.ru_stime for p in parts)


if __name__ == "__main__":
    rows = [{"instruction": f"Question {i}: " + "what do you think of it? " * 10} for i in range(n)]
    with Pipeline(name="calls", cache_dir=Path(tempfile.mkdtemp())) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=width)
        llm = OpenAILLM(
            model="m", base_url=url, api_key="none", generation_kwargs={"max_new_tokens": 64}
        )
        load >> TextGeneration(llm=llm, input_batch_size=width)
    before, started = used(), time.monotonic()
    made = pipeline.run(use_cache=False)
    wall, cpu = time.monotonic() - started, used() - before
    count = len(made["default"]["train"])
    print(json.dumps({"calls": count, "rate": count / wall, "cpu_ms": 1000 * cpu / count}))
