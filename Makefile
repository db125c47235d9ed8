# `make demo`, `make test`: each sets up .venv by itself; a second time nothing is set up.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/newest.txt
BIN = $(VENV)/bin

.PHONY: demo test test-all lint clean

demo: $(VENV)/ready
	$(BIN)/python -m experiments.sinusoid demo

# Most of a test is compilation, which takes less than half the time without optimisation, with XLA's older fusion
# emitters and one piece of code at a time; what optimised code alone shows is marked so.
QUICKLY = XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
	--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

test: $(VENV)/ready
	$(QUICKLY) $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: test
	$(QUICKLY) $(BIN)/python -m pytest -n 2 -m "slow and not optimised"
	$(BIN)/python -m pytest -m optimised

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
