# Each line is a command to copy; `make train` and `make test` set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-quick bench gpu lint format clean

train: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python -m sssd.train

test: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

# Without what kills runs, starts torchrun, runs sanitizers, or takes long.
test-quick: TESTS = -m "not slow"
test-quick: test

bench: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python bench/divergence.py
	$(BIN)/python bench/boxes.py

# Does it work on the GPU of this machine, and how fast is it? See docs/gpu.md.
gpu: $(VENV)/ready
	$(BIN)/python -m bench.gpu

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

# The metadata's dependencies, at the versions of constraints.txt.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt setuptools cmake ninja torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build
