# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv by itself.
# Needs git, make and Python 3.11 or newer; uses uv when it is on the path, else gets it into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo $(BIN)/uv)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test extended check lint types kernels containment benchmark constraints clean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(VENV)/ready-to-run ## run a whole market on this machine, one cheater included
	$(BIN)/tradepost demo $(DEMO)

test: $(VENV)/ready-to-develop ## run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

extended: SEED ?= $(shell date +%s)
extended: $(VENV)/ready-to-develop ## run each mutation and fuzzing property 10,000 times (again: SEED=...)
	HYPOTHESIS_PROFILE=extended $(BIN)/python -m pytest -q -n 2 --dist worksteal -m extended --hypothesis-seed=$(SEED) $(TESTS)

check: test lint types ## what must hold before a change lands

lint: $(VENV)/ready-to-develop ## style, and the layers between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/ready-to-develop ## mypy, strict
	$(BIN)/mypy

kernels: $(VENV)/ready-to-develop ## rebuild the compiled kernels from their C sources
	$(BIN)/python wasm_kernels/build.py

containment: $(VENV)/ready-to-develop ## attack this machine's sandbox, and print the figures
	$(BIN)/python -m tradepost_worker.testing.hostile

benchmark: $(VENV)/ready-to-develop ## measure, side by side in one run
	$(BIN)/python -m benchmarks

constraints: $(VENV)/ready-to-develop ## pin the newest versions that fit pyproject.toml
	$(UV) pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
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
