# Every target makes .venv first if it is missing. Needs: make and Python 3.11 or newer.
PYTHON ?= python3
# `make demo TORCH_BACKEND=cpu` hands uv's --torch-backend on (a smaller PyTorch; unverified so far)
TORCH_BACKEND ?=
STUDY ?= studies/digits.yaml
BIN := .venv/bin
UV = $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))

# the steps of check and test
.PHONY: style types unit all-tests
.PHONY: demo test check emulate study lab bench docs
demo: STUDY := studies/digits.yaml
demo: study

study: .venv/ready
	$(BIN)/kd run $(STUDY)

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

# style, types, and what can be tested without training; types and tests side by side
check: style
	$(MAKE) --no-print-directory -j2 types unit

# the same, and all tests
test: style
	$(MAKE) --no-print-directory -j2 types all-tests

style: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/basedpyright --pythonpath $(BIN)/python

unit: .venv/dev
	$(BIN)/python -m pytest -n 2 tests/unit

# two at a time: whoever is free takes the next
all-tests: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests

# the tests that rest on arithmetic, as on CPUs without AVX2, with AVX2, and as on this one
emulate: .venv/dev
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest -n 2 -m numeric tests
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2 -m numeric tests
	$(BIN)/python -m pytest -n 2 -m numeric tests

# a tiny study, killed at a hundred random instants, must produce the same results to the bit: ten minutes at most
.PHONY: soak
soak: .venv/dev
	$(BIN)/python tests/soak.py

# all tests once more with the lowest versions that pyproject.toml allows, in an environment of their own
.PHONY: lowest
lowest: .venv/ready
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest -n 2 --dist loadgroup tests

bench: .venv/ready
	$(BIN)/python benchmarks/bench.py

# are intervals and verdicts worth what they say? Studies drawn with a known truth, a minute or two
.PHONY: calibrate
calibrate: .venv/ready
	$(BIN)/python docs/calibration.py

# the tables and numbers of README.md and docs/, from their sources
docs: .venv/ready
	$(BIN)/python docs/generate.py

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
