# Each target makes .venv by itself; PYTHON names the interpreter (3.11 or newer) to start from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Nothing leaves the machine unasked.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: quickstart test test-all check lint types format bench clean

quickstart: $(VENV)/ready
	$(BIN)/prefactory run recipes/quickstart.yaml

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow" -n auto

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n auto

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

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
