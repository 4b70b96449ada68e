# The four names that people and CI use. Every target sets itself up: a clone needs Python 3.11, git, make, gcc, cmake and a package registry.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1

.PHONY: help setup repro test test-fast test-long check flow lock demo clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready .dvc/config  ## everything into .venv, from the hashed lock
$(VENV)/.ready: requirements.lock requirements-uv.lock requirements-apart.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Retune needs Python 3.11, and '$(PYTHON)' is none; name one: make setup PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements-uv.lock
	$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python --require-hashes --compile-bytecode requirements.lock requirements-uv.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --editable .
	rm -rf $(VENV)/apart
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --target $(VENV)/apart --no-deps --require-hashes -r requirements-apart.lock
	@touch $@

.dvc/config:
	@echo "this is no clone of Retune: .dvc/config is missing"; exit 1

repro: setup  ## run what changed, then print what came of it
	dvc repro
	retune summary

flow: setup  ## the same through Prefect, once, states shown
	python -m flows.pipeline

test: setup  ## every test
	pytest -n 2 --no-loadscope-reorder

test-fast: setup  ## the tests without torch and servers
	pytest -n 2 -m "not slow and not long"

test-long: setup  ## the tests that take too long for every push
	pytest -m long

check: setup  ## format, lint, types, who imports whom
	ruff format --check .
	ruff check .
	mypy
	lint-imports

lock: $(VENV)/.ready  ## pin the newest versions that pyproject.toml allows, then the stages' pin files
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header pyproject.toml --group dev --upgrade --output-file requirements.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --no-deps --group apart --upgrade --output-file requirements-apart.lock
	python -m stages.environment.pins

demo: setup  ## make the embedded demo's data again (the base model: data/demo/README.md)
	python data/demo/dataset.py

clean:  ## remove what runs have made here; the DVC cache and .venv stay
	rm -rf .retune data/.[a-z]*.partial
