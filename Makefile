# Two commands do all the set-up: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Number of test processes; two cores and 24 GB are enough for two.
JOBS ?= 2

.PHONY: demo test lint slow crash-states disk-faults clean

demo: $(VENV)/.installed
	$(BIN)/sppnet experiment=table2 preset=mini
	$(BIN)/sppnet experiment=table9 preset=mini detection=pool,ftfc7_bb windows=spp_one

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m slow $(PYTEST_ARGS)

# Every state in which a crash can leave the disk: needs strace.
crash-states: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m crash.states $(CRASH_ARGS)

# Whichever call to the disk fails (FAULT_ARGS=--sample=0: each of them): needs strace.
disk-faults: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m crash.faults $(FAULT_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Every marker depends on the files that name the packages: a changed bound installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(VENV)/.installed $(VENV)/.installed-test $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
