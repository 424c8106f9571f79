# Every target makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench clean

demo: .venv/installed
	$(BIN)/stochcon demo

test: check
	$(BIN)/python -m pytest

check: .venv/installed-test
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks.views
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.whole
	$(BIN)/python -m benchmarks.report

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/pip install --quiet --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
