# `make demo`, `make test`: each sets up .venv by itself; a second time nothing is set up.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/newest.txt
BIN = $(VENV)/bin

.PHONY: demo test test-all lint clean

demo: $(VENV)/ready
	$(BIN)/python -m experiments.sinusoid demo

# compiled without optimisation, which halves the time of tests that are mostly compilation; test-all optimises
test: $(VENV)/ready
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" \
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit("metalearn needs Python 3.11 or newer; set PYTHON=python3.11 or the like" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
