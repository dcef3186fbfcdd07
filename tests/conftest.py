import os

from hypothesis import settings

# A busy machine is not a failure: nothing here is timed.
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side: one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
