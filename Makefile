# Two targets do everything on a fresh machine (Python 3.11+, pip, git, gcc): `make plan` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# recordings of the real scheduler that `make conformance` reads
GOLDENS ?= ../shared/goldens
CORE   := $(wildcard src/headway/simulator/*.py src/headway/simulator/*.pxd)

.PHONY: blind bench-client peers plan test check lint types contracts docs nightly bench conformance equality witness witness-llama witness-vllm regret clean help
help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Reinstalled when what is installed or compiled changes; a failed compilation leaves the interpreted core.
$(STAMP): pyproject.toml setup.py $(CORE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

plan: $(STAMP) ## set up and plan the example scenario
	$(BIN)/headway plan examples/chat-70b.yaml --out out/chat-70b

test: $(STAMP) lint types contracts check docs ## set up and run everything CI runs

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

check: $(STAMP) witness-llama ## the tests, with coverage
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term -m "not nightly"

docs: $(STAMP) ## build the documentation, warnings fatal
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b doctest docs docs/_build/doctest

nightly: $(STAMP) ## the long form of the laws
	$(BIN)/python -m pytest -n 2 -m nightly

conformance: $(STAMP) ## hold the simulator to recorded schedules, field by field (GOLDENS=DIR)
	$(BIN)/python tools/conformance.py $(GOLDENS)

equality: $(STAMP) ## prove both engines equal to the naive twin, each on 10,000 cases
	$(BIN)/python -m pytest -q -m nightly tests/laws/test_simulator_equality.py tests/laws/test_simulator_mixes.py

witness: $(STAMP) witness-llama witness-vllm ## hold the simulator to real engines on this CPU
	$(BIN)/python tools/witness/witness_llama.py
	$(BIN)/python tools/witness/witness_vllm.py
	$(BIN)/python -m pytest -q tests/e2e/test_calibrate_ops.py

# Without it the tests that need a llama-server are skipped.
witness-llama: $(STAMP) ## install a real llama-server, 200 MB
	-$(BIN)/python tools/witness/environments.py llama

witness-vllm: $(STAMP) ## install a real vLLM for CPUs, 3.4 GB
	$(BIN)/python tools/witness/environments.py vllm

# ENGINE=vllm: ten minutes more for its environment, made once
ENGINE ?= llama
blind: $(STAMP) ## calibrate on a real engine, predict other loads, then measure them (ENGINE=llama|vllm)
	$(BIN)/python tools/blind/blind.py $(ENGINE) --out out/blind-$(ENGINE)

regret: $(STAMP) ## prove the planner's choice against exhaustive simulation
	$(BIN)/python benchmarks/regret.py

bench: $(STAMP) ## print the speed tables
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/core_speed.py
	$(BIN)/python benchmarks/compilers.py

bench-client: $(STAMP) ## print what the replaying client costs beside AIPerf and GuideLLM (makes their environments, 3 GB)
	$(BIN)/python benchmarks/client.py --peers aiperf,guidellm

peers: $(STAMP) ## print the speed beside other simulators and the real scheduler (makes their environments, 4 GB)
	$(BIN)/python benchmarks/peers.py

clean: ## remove what was built
	rm -rf $(VENV) build docs/_build out .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find src -name '*.so' -delete
