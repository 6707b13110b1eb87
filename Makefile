# `make compare` and `make test` do all the set-up: a virtual environment from requirements.lock, nothing system-wide.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: env compare quick up doctor test test-e2e lint format lock clean

compare: $(READY) ## measure latency, throughput and failure of the contenders; ARGS="--help" shows the options
	$(BIN)/lab compare $(ARGS)

quick: $(READY) ## a first look in 90 seconds: one round, no verdicts
	$(BIN)/lab compare --quick $(ARGS)

up: $(READY) ## keep both apps and the Locust web UI running to play with
	$(BIN)/lab up $(ARGS)

doctor: $(READY) ## say whether this machine can be trusted to measure
	$(BIN)/lab doctor

test: $(READY) ## every test that needs no container engine and no browser
	$(BIN)/pytest -m alone $(ARGS)
	$(BIN)/pytest -m "not alone and not e2e" --numprocesses 3 --dist loadscope $(ARGS)

test-e2e: $(READY) ## the tests that need a browser or a container engine
	$(BIN)/pytest -m e2e $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--no-header --quiet pyproject.toml

lock: $(READY) ## resolve the dependencies again
	$(COMPILE) --extra dev --extra local --upgrade -o requirements.lock
	rm -f requirements-image.lock
	$(COMPILE) --extra monitor --constraint requirements.lock -o requirements-image.lock

env: ## write .env with generated passwords for docker compose; one that is there stays as it is
	@sh docker/env.sh

clean: ## remove the virtual environment; runs/ is yours and stays
	rm -rf $(VENV)

# uv is quicker than pip. It asks PyPI, or what UV_DEFAULT_INDEX says, whatever pip's configuration says: where that fails,
# pip does it. The hashes hold in any case.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV_BLOCK := sed -n '/^uv==/,/[^\\]$$/p' requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) must be Python 3.11 or newer, with venv; set PYTHON=… to use another." >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock: a minute or two, once."
	$(PYTHON) -m venv $(VENV)
	$(UV_BLOCK) | $(PIP) --require-hashes -r /dev/stdin
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock \
		|| $(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(READY)
