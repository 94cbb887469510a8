# `make help` lists the targets.

PYTHON ?= python3
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check
READY = .venv/ready
# Each process has a PostgreSQL server of its own. Three, since tests also wait. In the order of collection: the longest come first.
PARALLEL = --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(READY) ## Install everything into .venv (another interpreter: make clean setup PYTHON=python3.12)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "guestledger needs Python 3.11 or newer, and this is %d.%d. Name another: make setup PYTHON=python3.12" % sys.version_info[:2])'
	@echo "installing into .venv"
	@# An install that was interrupted starts over: pip takes a half-installed package for a whole one.
	@test -e $@ && $(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: demo
demo: $(READY) ## Watch sessions being opened, throttled, replayed and audited, against a simulator
	@.venv/bin/guestledger demo

.PHONY: test
test: $(READY) ## Run the tests, without the slow ones
	@.venv/bin/python -m pytest $(PARALLEL)

.PHONY: test-all
test-all: $(READY) ## Run all tests
	@.venv/bin/python -m pytest $(PARALLEL) -m ""

.PHONY: check
check: $(READY) ## Check style, types and import directions
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy -p guestledger
	.venv/bin/lint-imports --no-logo

.PHONY: bench
bench: $(READY) .venv-bench/ready ## Measure speed beside peers (ONLY=store,opening: some; JSON=FILE: keep the figures)
	@.venv/bin/python -m tests.bench

.venv-bench/ready: tests/bench/requirements.txt $(READY)
	@echo "installing the peers into .venv-bench"
	@.venv/bin/python -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r tests/bench/requirements.txt
	@touch $@

UV_COMPILE = uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-emit-index-url --no-emit-find-links --no-header

.PHONY: docs
docs: $(READY) ## Write the pages that come from the code, and build the site into build/site
	@.venv/bin/python -m tests.docs.generate

MERMAID = mermaid@12.3.0

.PHONY: drawings
drawings: $(READY) ## Draw the diagrams of docs/ again after a change (needs npm and Chromium)
	@npm install --silent --no-save --prefix build/mermaid $(MERMAID)
	@.venv/bin/python -m tests.docs.drawings build/mermaid/node_modules/mermaid/dist/mermaid.min.js

.PHONY: screenshots
screenshots: $(READY) ## Take the pictures in docs/images again (needs Chromium)
	@UPDATE_SCREENSHOTS=1 .venv/bin/python -m pytest --quiet -m "" tests/e2e/test_screenshots.py tests/e2e/test_console_pictures.py

.PHONY: requirements
requirements: ## Pin the newest versions that pyproject.toml allows (needs uv)
	$(UV_COMPILE) --extra dev --output-file requirements.txt pyproject.toml
	$(UV_COMPILE) --output-file tests/bench/requirements.txt tests/bench/requirements.in

.PHONY: clean
clean: ## Remove everything that was built here, including .venv
	rm -rf .venv .venv-bench build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
