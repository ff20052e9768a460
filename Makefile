# Two commands matter: `make demo` and `make test`. Each sets up all it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: demo test lint bench bench-compare soak setup clean

VENV := .venv
BIN := $(VENV)/bin

setup:
	@bash .ci/setup venv

demo: setup
	@bash .ci/demo

test: setup
	@bash .ci/setup tools
	$(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

lint: setup
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

# In under 15 minutes; BENCH_MINUTES=35 repeats what aims are about, BENCH=full measures everything, for hours.
bench: setup
	@bash .ci/setup tools
	$(BIN)/python -m benchmarks $(ARGS)

# What got slower since the numbers that are committed, or between two files: ARGS="old.json new.json".
bench-compare: setup
	$(BIN)/python -m benchmarks.compare $(ARGS)

soak: setup
	@bash .ci/setup tools
	$(BIN)/python -m tests.soak $(ARGS)

clean:
	rm -rf $(VENV) dist
