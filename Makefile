# One command a task, the same here and in CI. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATASETS := $(VENV)/share/postgrad/datasets
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?= data

# One process a core; the tests of a file share its servers.
ON_EVERY_CORE := --numprocesses auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-long check bench catalog table clean

help: ## list the tasks
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) $(DATASETS)/.prepared ## make .venv with everything in it, postgrad's command included

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(DATASETS)/.prepared: $(STAMP) workers/trainer/ingest.py
	$(BIN)/python -m workers.trainer.ingest builtins $(DATASETS)
	touch $@

serve: setup ## run the API, one worker and SQLite on http://$(HOST):$(PORT)
	$(BIN)/postgrad serve --host $(HOST) --port $(PORT) --data-dir $(DATA_DIR)

test: setup ## the default test suite (under 5 minutes on two cores)
	$(BIN)/python -m pytest $(ON_EVERY_CORE)

test-long: setup ## the longer tests: a browser, every class, real trainings, kills, made-up files and requests (under 20 minutes)
	$(BIN)/python -m pytest $(ON_EVERY_CORE) -m 'browser or slow'

check: setup ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## the side-by-side measurements, one JSON line each
	$(BIN)/python -m benchmarks

catalog: setup ## regenerate jobs/catalog.json from the installed torch, and docs/reference.md from it
	$(BIN)/python -m workers.trainer.introspect
	$(BIN)/python -m jobs.reference

table: setup ## train every class on a live service and write docs/every-class.md
	POSTGRAD_TABLE=docs/every-class.md $(BIN)/python -m pytest tests/e2e/test_every_class.py -m slow -s

clean: ## remove the virtual environment and caches (never data/)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
