# Every target works on a fresh machine with python3 (>= 3.11), its venv module and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo run test lint lock schemas clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## start the service, drop sample files, keep serving until Ctrl-C
	$(BIN)/dicomlake demo

run: $(VENV)/.run ## start the service on ./lake
	$(BIN)/dicomlake serve

test: $(VENV)/.test ## run the whole test suite
	$(BIN)/pytest -n 2 --dist loadgroup

lint: $(VENV)/.test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

schemas: $(VENV)/.test ## write again what is generated: settings schema, table schemas, docs
	$(BIN)/python -m app.generate

lock: $(VENV)/.test ## pin every dependency again, with hashes
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate pyproject.toml requirements.build.in -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate --extra test --extra gcp pyproject.toml requirements.build.in -c requirements.lock \
	    -o requirements.test.lock

clean: ## remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test: requirements.test.lock $(VENV)/.run
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.test.lock
	touch $@
