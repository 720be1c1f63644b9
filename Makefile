# Everything runs in .venv, made on first use. PYTHON: any interpreter from 3.11 on. WORKERS: processes of the tests.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
PATHS := src tests examples benchmarks
TREES = $(wildcard $(PATHS))

.PHONY: install demo test test-all check format bench factory clean

install: $(STAMP)

.venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brickyard needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Makes models for three requests with the bundled factory, and prints where they are.
demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check $(TREES)
	$(BIN)/mypy src

format: $(STAMP)
	$(BIN)/ruff check --fix $(TREES)
	$(BIN)/ruff format $(TREES)

# The measured comparisons; results are kept as CSV in benchmarks/results.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,bench]"
	$(BIN)/python benchmarks/customize.py

# Remakes the factory that the package bundles, in build/geometry.
factory: $(STAMP)
	$(BIN)/python -m brickyard train --data geometry --network residual_cnn_small --out build/geometry

# The page of the commands is made from their help.
docs/help.md: $(STAMP) $(wildcard src/brickyard/cli/*.py)
	$(BIN)/python -m brickyard.cli.helppage > $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
