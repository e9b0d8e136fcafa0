# Two commands: `make demo` builds the bundled model for x86 and arm64, `make test` runs lint, types and tests.
# `make android` builds the demo app.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installed first and by version: without it pip may choose a newer build with several GB of GPU libraries.
TORCH := torch==2.13.0
PACKAGES := edgebert edgebert_compress edgebert_targets
ENGINE := targets/edgebert_targets/int8_sparse/engine
ENGINE_SOURCES := $(ENGINE)/CMakeLists.txt $(ENGINE)/exports.map $(shell find $(ENGINE)/include $(ENGINE)/src -type f)
CPP := $(shell find $(ENGINE) apps -name '*.cpp' -o -name '*.h' -o -name '*.c')

.PHONY: demo android devices test test-fast lint types format engine clean

demo: $(VENV)/.all
	$(BIN)/edgebert build --target x86 --target arm64 --out out/home-intents --force

# The demo app with the bundled model: out/edgebert-demo.apk.
android: $(VENV)/.all
	$(BIN)/edgebert build --target int8-sparse --out out/home-intents-android --force
	$(BIN)/python apps/android_demo/build_apk.py --model home_intents=out/home-intents-android/int8-sparse \
	  --out out/edgebert-demo.apk --force

# What the tests of the emulator need: a folder with ARM64 programs, built once into the user's cache.
devices: $(VENV)/.engine
	@if command -v qemu-aarch64 >/dev/null && command -v apt-get >/dev/null; then \
	  $(BIN)/edgebert devices --prepare qemu:arm64; \
	else echo "no qemu-aarch64 or apt-get: tests of the emulator are skipped (apt-get install qemu-user)"; fi

test: lint types devices
	$(BIN)/python -m pytest -q -m "not slow"
	$(BIN)/python -m pytest -q -m slow

test-fast: $(VENV)/.engine
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/.engine
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

types: $(VENV)/.engine
	$(BIN)/mypy $(foreach package,$(PACKAGES),-p $(package))

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CPP)

engine: $(VENV)/.engine

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "EdgeBERT needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null 2>&1 \
	  || { echo "EdgeBERT builds its engine with a C++ compiler, and none is here: apt-get install g++, or set CXX"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: pyproject.toml $(ENGINE_SOURCES) | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.all

# Builds again what was changed since the installation above.
$(VENV)/.engine: $(ENGINE_SOURCES) | $(VENV)/.dev
	@test -z "$$(find $(ENGINE_SOURCES) -newer $(VENV)/.dev)" || $(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.all

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
