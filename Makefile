# `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup run test check bench chaos lock clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.complete  ## Make .venv with everything in it

.venv/.complete: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup  ## Start everything here and show one notification arriving (Ctrl-C stops)
	@$(BIN)/comms up

check: setup  ## Linters and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: check  ## The whole suite, linters and types included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -m "not chaos"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

bench: setup  ## The benchmarks, one JSON line each
	@$(BIN)/python -m bench

chaos: setup  ## The long fault runs
	@$(BIN)/python -m pytest -m chaos --timeout 1800 -s

lock: setup  ## Pin every dependency anew
	@$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --all-extras --group dev pyproject.toml -o requirements.lock
	@# The same versions for the image, without test tools and embedded servers.
	@$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --constraint requirements.lock pyproject.toml -o requirements-runtime.lock

clean:  ## Remove what make and the tests made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build *.egg-info
