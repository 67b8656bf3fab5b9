# Every target makes the environment it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

# Processes that run tests side by side, each with a Redis of its own: one more than there are
# cores, since many tests wait for processes; four at most.
JOBS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal

.PHONY: install demo test test-slow test-all test-cluster chaos lint bench bench-fused clean

install: $(DONE)

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed (found $$($(PYTHON) --version)); try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(DONE)
	$(BIN)/scattershot run examples/digits.toml --workers 2 --fresh

# the fast tier: under five minutes on two cores
test: $(DONE)
	$(PYTEST) -m "not slow"

# the longer tier: end-to-end runs, many seeds, real time-outs
test-slow: $(DONE)
	$(PYTEST) -m slow

test-all: $(DONE)
	$(PYTEST)

# needs a docker engine with compose; skipped with a message where none answers
test-cluster: $(DONE)
	$(BIN)/python -m pytest -rs tests/cluster/test_compose.py

# a study under over 60 faults must end as it does undisturbed; about eight minutes
# (SEED=N for the faults of an earlier run)
chaos: $(DONE)
	cd tests && ../$(BIN)/python -m chaos.chaos $(if $(SEED),--seed $(SEED))

lint: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.bench: $(DONE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(VENV)/.bench
	PYTHONPATH=tests $(BIN)/python -m bench.run_all

bench-fused: $(VENV)/.bench
	PYTHONPATH=tests $(BIN)/python -m bench.fused

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
