# make demo    tune the built-in digits task for 60 seconds, into runs/demo
# make test    the whole quick test suite            (ARGS='-k budget' passes options to pytest)
# make check   format, lint, types, import contracts
# make clean   remove what the tools and the build left; runs/ and .venv stay
#
# The first three install what they need into .venv first, once; to start afresh, remove .venv. An environment of your own
# with the package and its `dev` extra in it: make test VENV=/path/to/it. Another interpreter: make test PYTHON=python3.12
# Two files of tests run at a time; one after another in the same process, for a debugger: make test JOBS=0

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 2
BIN := $(VENV)/bin
RUN := $(BIN)/python

# Only .venv is ever installed into, and again only when pyproject.toml is newer than the stamp.
ifeq ($(VENV),.venv)
ready := .venv/.installed
endif

.DEFAULT_GOAL := help
.PHONY: help demo test check clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(ready)
	$(BIN)/autoaccel tune digits --budget 60s --out runs/demo --fresh --no-library

test: $(ready)
	$(RUN) -m pytest -q --numprocesses $(JOBS) --dist loadfile $(ARGS)

check: $(ready)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(RUN) -m mypy autoaccel
	$(BIN)/lint-imports

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) not found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old, 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "Could not create .venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv; once, but torch is large"
	.venv/bin/python -m pip install --disable-pip-version-check --no-input --editable '.[dev]'
	@touch $@
