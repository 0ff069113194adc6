# make demo | test | bench: each target installs what it needs. make help lists all targets.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages
STAMP := $(VENV)/.installed
DEMO := demo-data
DEMO_LIVE := demo-live-data
# Each of these starts a cluster, so they run apart from the other tests, and beside each other: both wait much
FLINK_TESTS := tests/pipelines/test_live.py tests/runners/test_flink_runner.py

.PHONY: help setup demo demo-live test check unit bench bench-live docs lock clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## A virtual environment with locked versions; the command is then .venv/bin/clickstream

$(PACKAGES): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; name another with PYTHON="; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@# The lock is complete, so --no-deps: pip would otherwise look for extras of packages outside of it, which have no hash
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.lock
	@touch $@

$(STAMP): $(PACKAGES) pyproject.toml setup.py transforms/events/json_scan.c
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/pip check --quiet --disable-pip-version-check
	@touch $@

demo: $(STAMP)  ## Generate events, replay them into both stores, and query them as an analyst and an engineer would
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh $(DEMO)

demo-live: $(STAMP)  ## The same job on a live topic: broker, producer and Flink on this machine (needs Java, Maven)
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo-live.sh $(DEMO_LIVE)

test: check unit  ## All checks and tests

check: $(STAMP)  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(STAMP)  ## All tests
	$(BIN)/python -m pytest -q -n 3 --dist loadfile $(FLINK_TESTS:%=--ignore=%)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(FLINK_TESTS)

bench: $(STAMP)  ## The product beside plain Beam and a DuckDB script; results in benchmarks/
	$(BIN)/python benchmarks/bench.py

bench-live: $(STAMP)  ## The live job: its sustained rate, and the latency until an event is in each store
	$(BIN)/python benchmarks/live.py

docs: $(STAMP)  ## Rewrite docs/data-dictionary.md from schemas/
	$(BIN)/python -m schemas.dictionary > docs/data-dictionary.md.new
	mv docs/data-dictionary.md.new docs/data-dictionary.md

lock: ## Renew requirements.lock to the newest versions that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	{ echo '# Locked versions with hashes. Renew with: make lock'; \
	  $(VENV)-lock/bin/uv pip compile --quiet pyproject.toml --extra dev --python-version 3.11 --upgrade \
	    --generate-hashes --no-emit-index-url --no-header; } > requirements.lock
	rm -rf $(VENV)-lock

clean:  ## Remove everything that make created
	rm -rf $(VENV) $(DEMO) $(DEMO_LIVE) benchmarks/work build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
