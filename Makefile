# Shoal. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# two cores are enough; more threads than that only get in each other's way
export OMP_NUM_THREADS ?= 2
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help install demo test check lint unit format proto bench bench-% clean

help:  ## what each target does
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP)  ## environment in .venv, pinned

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Shoal needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[server,dev,bases]'
	@touch $(STAMP)

demo: install  ## the whole story on this machine: log, learn, serve (ends with where to look next)
	$(BIN)/shoal demo

test: install  ## all tests, with a local Ray; gpu tests skip themselves
	$(BIN)/python -m pytest

check: lint unit  ## format, lint, strict types, import contracts, unit tests

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: install
	$(BIN)/python -m pytest tests/unit

format: install  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: install  ## generate the gRPC code from serve/proto/shoal/v1/shoal.proto
	$(BIN)/python -m shoal.serve.proto.generate

bench: install  ## all measurements that need no other data than their own
	@for file in bench/*.py; do case $$file in bench/_*) ;; *) $(BIN)/python $$file;; esac; done

bench-%: install  ## one measurement: make bench-loop ARGS="--quick"
	$(BIN)/python bench/$*.py $(ARGS)

clean:  ## remove the environment and caches
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
