# `make demo` and `make test` need python3 (3.11 or newer) and git; each brings the rest by itself, into .venv.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Where a machine keeps no bytecode, as many images do, each of the hundreds of Pythons that tests start would compile all it imports.
export PYTHONDONTWRITEBYTECODE :=

# apt, the two installations and the checks need not wait for each other.
MAKEFLAGS += --jobs=2

.PHONY: help setup system demo test check fuzz constraints clean

help: ## say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup: system .venv/installed .venv/tritonserver/installed ## everything that demo and test need (both call it)

.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/pip pyproject.toml constraints.txt
	@echo "Installing into .venv: a few minutes the first time, for PyTorch"
	$(INSTALL) --constraint constraints.txt --editable '.[weeks,demo,test]'
	@touch $@

.venv/tritonserver/installed: .venv/pip
	$(INSTALL) --no-deps --target .venv/tritonserver --upgrade nvidia-pytriton==0.7.0
	@touch $@

# Chromium shows the pages in tests; systemd judges the runner's units; Prometheus judges week 10's rules and scrapes its gateway.
# Without root or apt they stay missing, and the tests that need them say so.
system:
	@missing=; \
	  command -v chromium chromium-browser google-chrome >/dev/null || missing=chromium; \
	  command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	  command -v promtool >/dev/null || missing="$$missing prometheus"; \
	  [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } || \
	  echo "Some tests will be skipped. To bring what they need: sudo apt-get install -y $$missing"

demo: setup ## a GitHub on this machine: a comment becomes a posted result, in build/demo
	$(BIN)/bench demo --out build/demo

test: setup check ## linters, types, documents, and every test that needs no GPU
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term

check: .venv/installed ## linters, types, and documents that must not drift
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/bench docs --check
	$(BIN)/bench redraw --check

fuzz: setup ## ten minutes of random comments and artifacts
	$(BIN)/python -m pytest tests/test_fuzz.py --fuzz-minutes 10

constraints: .venv/installed ## pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sort --ignore-case > constraints.txt

clean: ## remove what was built
	rm -rf .venv build .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
