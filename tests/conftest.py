import os

from hypothesis import settings

from pipelines.cli.app import quiet_environment

# A busy machine is not a failure: nothing here is timed.
settings.register_profile("calm", deadline=None, max_examples=40)
settings.register_profile("deep", deadline=None)  # `make test-all`: --hypothesis-profile=deep
settings.load_profile("calm")

# As the command sets it: a test that calls it in this process changes no variable for those after
# it, nor for the commands of tests/pipelines/warm.py.
quiet_environment(verbose=False)
if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side: one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
