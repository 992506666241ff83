# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv by itself.
# Needs git, make and Python 3.11 or newer; uses uv when it is on the path, else gets it into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo $(BIN)/uv)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt
# One worker more than there are processors: many tests wait for a process or for a limit.
PYTEST = $(BIN)/python -m pytest -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --dist worksteal
# Alone it finds what is declared and unused; with extras named as absent, what a package imports and may not have.
DEPTRY := $(BIN)/deptry --no-ansi

.DEFAULT_GOAL := help
.PHONY: help demo test long quick extended restarts check format lint types coverage docs kernels containment benchmark constraints clean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(VENV)/ready-to-run ## run a whole market on this machine, one cheater included
	$(BIN)/tradepost demo $(DEMO)

test: $(VENV)/ready-to-develop ## run every test but the long ones
	$(PYTEST) -m "not long" $(TESTS)

long: $(VENV)/ready-to-develop ## run the tests that take minutes each, and print the slowest
	$(PYTEST) -m long --durations=10 $(TESTS)

quick: $(VENV)/ready-to-develop ## lint, types, and the unit tests that start no process: under 90 seconds on two cores
	$(MAKE) --no-print-directory -j 2 lint types
	$(PYTEST) -q -m "not process and not slow" $(or $(TESTS),tests/unit)

extended: SEED ?= $(shell date +%s)
extended: $(VENV)/ready-to-develop ## run each mutation and fuzzing property 10,000 times (again: SEED=...)
	HYPOTHESIS_PROFILE=extended $(PYTEST) -q -m extended --hypothesis-seed=$(SEED) $(TESTS)

restarts: SEED ?= $(shell date +%s)
restarts: $(VENV)/ready-to-develop ## restart a broker and its workers twenty times under load (again: SEED=...)
	ROUNDS=20 SEED=$(SEED) $(BIN)/python -m pytest -q tests/acceptance/test_restarts_under_load.py

check: test long lint types ## what must hold before a change lands

format: $(VENV)/ready-to-develop ## lay the code out, and fix what ruff can fix by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/ready-to-develop ## style, spelling, dead code, dependencies, and the layers between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/vulture
	$(DEPTRY) sdk signing reputation wasm_kernels/tradepost_kernels broker worker
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups signing,broker,worker sdk wasm_kernels/tradepost_kernels
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups broker,worker,ipfs signing
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups worker,ipfs broker reputation
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups broker,ipfs worker

types: $(VENV)/ready-to-develop ## mypy, strict
	$(BIN)/mypy

coverage: $(VENV)/ready-to-develop ## run every test, and print how much of each package they run
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(TESTS)

docs: $(VENV)/ready-to-document ## build the documentation into build/docs, with the API reference
	$(BIN)/zensical build --clean --strict

kernels: $(VENV)/ready-to-develop ## rebuild the compiled kernels from their C sources
	$(BIN)/python wasm_kernels/build.py

containment: $(VENV)/ready-to-develop ## attack this machine's sandbox, and print the figures
	$(BIN)/python -m tradepost_worker.testing.hostile

benchmark: $(VENV)/ready-to-develop ## measure, side by side in one run
	$(BIN)/python -m benchmarks

constraints: $(VENV)/ready-to-develop ## pin the newest versions that fit pyproject.toml
	$(UV) pip compile pyproject.toml --all-extras --group dev --group docs --universal --python-version 3.11 \
	  --upgrade --no-annotate --no-header --quiet --output-file constraints.txt

clean: ## remove what these commands made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tradepost needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/ready-to-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Tradepost into $(VENV)"
	$(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/ready-to-develop: $(VENV)/ready-to-run
	@echo "Installing what the tests need into $(VENV)"
	$(INSTALL) --group dev
	@touch $@

$(VENV)/ready-to-document: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the documentation needs into $(VENV)"
	$(INSTALL) --group docs
	@touch $@
