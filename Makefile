# Every target makes .venv first if it is missing. Needs: make and Python 3.11 or newer.
PYTHON ?= python3
# `make demo TORCH_BACKEND=cpu` hands uv's --torch-backend on (a smaller PyTorch; unverified so far)
TORCH_BACKEND ?=
STUDY ?= studies/digits.yaml
BIN := .venv/bin

.PHONY: demo test study lab bench
demo: STUDY := studies/digits.yaml
demo: study

study: .venv/ready
	$(BIN)/kd run $(STUDY)

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) -e '.[dev]'
	touch $@

bench: .venv/ready
	$(BIN)/python benchmarks/bench.py
