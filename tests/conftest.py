import os

from hypothesis import settings

# A busy machine is not a failure: nothing here is timed.
settings.register_profile("calm", deadline=None, max_examples=40)
settings.register_profile("deep", deadline=None)  # `make test-all`: --hypothesis-profile=deep
settings.load_profile("calm")

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it, see pipelines/warm.py
if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side: one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
