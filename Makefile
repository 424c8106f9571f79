# Every target makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
# The library takes a range of versions; here it is built and tested with this pair.
PAIR := torch==2.14.1 torchvision==0.29.1
INSTALL := $(BIN)/pip install --quiet $(PAIR) --editable

.PHONY: demo test quick check docs bench gpu clean

demo: .venv/installed
	$(BIN)/stochcon demo

test: check
	$(PYTEST)

quick: check
	$(PYTEST) -m 'not slow'

check: .venv/installed-test
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks.views
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.encode
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.whole
	$(BIN)/python -m benchmarks.report

gpu: .venv/installed-bench
	$(BIN)/python -m benchmarks.gpu

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml
	$(INSTALL) .
	@touch $@

.venv/installed-%: .venv/installed
	$(INSTALL) '.[$*]'
	@touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
