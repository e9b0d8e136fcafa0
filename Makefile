# Two commands: `make demo` builds the bundled model for x86 and arm64, `make test` runs lint, types and tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installed first and by version: without it pip may choose a newer build with several GB of GPU libraries.
TORCH := torch==2.13.0
PACKAGES := edgebert edgebert_compress edgebert_targets

.PHONY: demo test test-fast lint types format clean

demo: $(VENV)/.all
	$(BIN)/edgebert build --target x86 --target arm64 --out out/home-intents --force

test: lint types
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q -m slow

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy $(foreach package,$(PACKAGES),-p $(package))

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "EdgeBERT needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 1; }
	@command -v c++ >/dev/null 2>&1 || echo "note: no C++ compiler found; nothing here needs one yet"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.all

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
