# Everything needs only Python >= 3.10 (with venv), make and a C compiler. The first target that runs
# creates .venv and installs the pinned dependencies; set PYTHON to choose the interpreter.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.einfall-ready
FOLDERS := ir frontend passes codegen runtime compiler
PYTEST_ARGS ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types format bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## compile attention, check it against the interpreter, time it
	$(BIN)/python examples/attention/demo.py

test: lint types $(READY) ## lint, type check and all tests that are not marked slow (under ten minutes)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: lint types $(READY) ## the same with the slow tests: long fuzzing, exhaustive ranges
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY) ## ruff: rules and formatting, changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy names modules by folder, so it sees the root under the name of the package whatever the clone is called.
types: $(READY) ## mypy --strict
	@mkdir -p .cache/types && ln -sfn ../.. .cache/types/einfall
	cd .cache/types && $(abspath $(BIN))/mypy --config-file einfall/pyproject.toml \
		$(addprefix einfall/,__init__.py __main__.py $(FOLDERS))

format: $(READY) ## let ruff fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure this machine against the peers that are installed
	$(BIN)/python bench/run.py

clean: ## remove caches and builds; keeps .venv
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# Made again when the dependencies change. An environment that is already there is used as it is.
$(READY): pyproject.toml
	@test -x $(BIN)/python || { \
	  for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3.10 python3; do \
	    "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    echo "creating $(VENV) with $$("$$python" --version)"; \
	    exec "$$python" -m venv $(VENV); \
	  done; \
	  echo "error: no Python >= 3.10 with the venv module; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
