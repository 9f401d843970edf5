# Two commands for a newcomer: `make demo` and `make test`. Each builds .venv first; nothing else need be installed.
PYTHON ?= python3
# More options for pip, for instance where your wheels lie: make demo PIP_ARGS="--find-links DIR"
PIP_ARGS ?=
DEMO_OUT ?= demo-output
# Processes of the tests, one thread each.
TEST_JOBS ?= 2

# Options of a benchmark, for instance make gpu-check ARGS=--quick
ARGS ?=

VENV := .venv
CLUE := .venv-clue
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A borrowed machine has its packages already, and no time to install others: gpu-check builds nothing. It takes the PYTHON
# that is named (make gpu-check PYTHON=python3), or else .venv where that was built, or else python3.
GPU_PYTHON = $(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON))
INSTALL := $(PIP) install --quiet --constraint constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint typecheck docs peers gpu-check clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.package ## run the model on the 6,855 PBMCs that ship with the package
	$(BIN)/indiseek demo --out $(DEMO_OUT)

test: lint typecheck ## style, types, tests: what continuous integration runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typecheck: $(VENV)/.test ## mypy
	$(BIN)/mypy

docs: $(VENV)/.doc ## build docs/_build/html, warnings are errors
	$(BIN)/python -m sphinx -b html -W --keep-going -n docs docs/_build/html

peers: $(VENV)/.bench $(CLUE)/.done ## install what benchmarks compare with, CLUE in an environment of its own

gpu-check: ## tell all of a GPU in eight minutes; small sizes where there is none (ARGS=--quick, ARGS="--only speed")
	PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) benchmarks/gpu.py $(ARGS)

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) $(CLUE) build dist demo-output docs/_build docs/api/generated .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --group needs pip 25.1 or newer, and a fresh venv brings whatever pip its Python shipped with: upgrade it first.
# An editable install, so that the tests always run against this checkout. Each stamp stands for one set of packages:
# the demo need not wait for the tools of the tests or the docs.
$(VENV)/.package: pyproject.toml constraints.txt
	rm -f $(VENV)/.package $(VENV)/.test $(VENV)/.doc $(VENV)/.bench
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) pip
	$(INSTALL) torch
	$(INSTALL) --build-constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.package
	$(INSTALL) --group test
	touch $@

$(VENV)/.doc: $(VENV)/.package
	$(INSTALL) --group doc
	touch $@

$(VENV)/.bench: $(VENV)/.package
	$(INSTALL) --group bench
	touch $@

$(CLUE)/.done: $(VENV)/.package
	$(PYTHON) -m venv $(CLUE)
	$(CLUE)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_ARGS) torch scglue==0.4.1
	touch $@
