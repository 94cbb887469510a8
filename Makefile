# `make help` lists what there is to do.

PYTHON ?= python3
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check
READY = .venv/ready
# Most of a test is waiting for processes; each of the two has a PostgreSQL of its own.
AT_ONCE = --numprocesses 2 --dist loadfile

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(READY) ## Make or update .venv, where requirements changed (by another interpreter: make clean setup PYTHON=python3.12)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "guestledger needs Python 3.11 or newer, this is %d.%d: name another as in make setup PYTHON=python3.12" % sys.version_info[:2])'
	@echo "installing into .venv"
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: demo
demo: $(READY) ## See guest sessions opened, throttled, replayed and audited against a simulator
	@.venv/bin/guestledger demo

.PHONY: test
test: $(READY) ## Run the tests (all but the slow ones)
	@.venv/bin/python -m pytest $(AT_ONCE)

.PHONY: test-all
test-all: $(READY) ## Run every test
	@.venv/bin/python -m pytest $(AT_ONCE) -m ""

.PHONY: check
check: $(READY) ## Check style, types and the direction of imports
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy -p guestledger
	.venv/bin/lint-imports --no-logo

.PHONY: bench
bench: $(READY) .venv-bench/ready ## Measure, beside the peers; JSON=FILE keeps the figures
	@.venv/bin/python -m tests.bench

.venv-bench/ready: tests/bench/requirements.txt $(READY)
	@echo "installing the peers into .venv-bench"
	@.venv/bin/python -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r tests/bench/requirements.txt
	@touch $@

.PHONY: requirements
requirements: ## Pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade --extra dev --output-file requirements.txt \
		--no-emit-index-url --no-emit-find-links --no-header pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade --output-file tests/bench/requirements.txt \
		--no-emit-index-url --no-emit-find-links --no-header tests/bench/requirements.in

.PHONY: clean
clean: ## Remove everything that was made here, .venv too
	rm -rf .venv .venv-bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
