# Each line is a command to copy; `make train` and `make test` set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests start a hundred processes: each would compile torch's sources anew where this is set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: train test test-all mutations bench gpu lint format wheel docs hub clean

train: $(VENV)/train
	$(BIN)/python setup.py build_ext
	$(BIN)/python -m sssd.train

# test-all: also what kills runs, starts torchrun, runs sanitizers, or takes long.
test test-all: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python -m pytest -n auto --dist worksteal $(if $(filter test,$@),-m "not slow") $(TESTS)

# Faults planted one at a time: is each caught? Takes minutes.
mutations: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python -m tests.mutations

bench: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python -m bench.divergence
	$(BIN)/python -m bench.boxes

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

# Wheel and sdist in dist/, checked, and the wheel tried in an empty environment with torch alone.
wheel: $(VENV)/ready
	$(BIN)/python tools/wheel.py
	$(BIN)/python tools/try_wheel.py dist/*.whl

# The site in build/site; a dead link fails.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The operators alone in build/hub, as the Hugging Face kernels hub takes them.
hub: $(VENV)/ready
	$(BIN)/python setup.py build_ext
	$(BIN)/python tools/hub.py

# The metadata's dependencies, at the versions of constraints.txt: for training, and all others too.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
$(VENV)/train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools cmake ninja torch
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	touch $@

$(VENV)/ready: $(VENV)/train
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
