# Every target makes .venv first if it is missing. Needs: make and Python 3.11 or newer.
PYTHON ?= python3
# `make demo TORCH_BACKEND=cpu` hands uv's --torch-backend on (a smaller PyTorch; unverified so far)
TORCH_BACKEND ?=
STUDY ?= studies/digits.yaml
BIN := .venv/bin
UV = $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))

.PHONY: demo test check emulate study lab bench
demo: STUDY := studies/digits.yaml
demo: study

study: .venv/ready
	$(BIN)/kd run $(STUDY)

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

# style, and what can be tested without training
check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests/unit

test: check
	$(BIN)/python -m pytest tests/integration

# all tests once more with the lowest versions that pyproject.toml allows, in an environment of their own
.PHONY: lowest
lowest: .venv/ready
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest

bench: .venv/ready
	$(BIN)/python benchmarks/bench.py

# what is installed to run, and beside it what is installed to develop (Ray, a browser's driver, linters)
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) -e .
	touch $@

.venv/dev: .venv/ready
	$(UV) -e '.[dev]'
	touch $@
