# The commands of this repository; each installs what it needs first and installs nothing when nothing changed.
# Another interpreter: make PYTHON=python3.12 ...    Overrides for a run: make simulate ARGS="run.rounds=3"

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# A second environment, laid over the first: the lowest release of Flower that is supported.
LOWEST := $(VENV)/lowest-flower
LOWEST_INSTALLED := $(LOWEST)/installed
FLOWER_SUITES := tests/security tests/strategies tests/faults tests/client/node tests/server/orchestrator
TWO_RELEASES := tests/faults/test_interoperation.py tests/faults/test_releases.py
PACKAGES := conf strategies client server azureml_jobs
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input

export FLWR_TELEMETRY_ENABLED := 0
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help install simulate test test-fast test-flower nightly mutation chaos check format benchmarks clean lock audit

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

install: $(INSTALLED) ## only install, into .venv

simulate: $(INSTALLED) ## a federated training on this machine; ARGS="key=value ..." changes it
	@$(BIN)/meadow simulate experiment=quickstart $(ARGS)

test: $(INSTALLED) ## every test that is not marked slow, in parallel
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --dist worksteal $(ARGS)

test-fast: $(INSTALLED) ## stop at the first failure, integration tests left out
	@$(BIN)/python -m pytest -q -x -m "not slow" --ignore=tests/integration $(ARGS)

test-flower: $(LOWEST_INSTALLED) ## with the lowest release of Flower, and with both releases in one federation
	@$(LOWEST)/bin/python -m pytest -q -m "not slow" -n auto --dist worksteal $(FLOWER_SUITES) $(ARGS)
	@MEADOW_OTHER_FLOWER=$(CURDIR)/$(BIN)/python $(LOWEST)/bin/python -m pytest -q $(TWO_RELEASES) $(ARGS)
	@MEADOW_OTHER_FLOWER=$(CURDIR)/$(LOWEST)/bin/python $(BIN)/python -m pytest -q $(TWO_RELEASES) $(ARGS)

nightly: $(INSTALLED) mutation chaos ## the tests marked slow, ten minutes of mutants, an hour of chaos, and the audit
	@$(BIN)/python -m pytest -q -m slow $(ARGS)
	@$(BIN)/python supply/audit.py || test $$? -eq 75

audit: $(INSTALLED) ## known weaknesses of what is installed, a bill of materials, the Dockerfiles; 75 = not all asked
	@$(BIN)/python supply/audit.py $(ARGS)

chaos: $(INSTALLED) ## a federation that is killed, paused and cut off at random for an hour; ARGS="--seconds 900 --seed 7"
	@$(BIN)/python -m tests.chaos $(ARGS)

# Cosmic Ray lives beside the project's environment, not in it: nothing of Meadow needs it.
mutation: $(INSTALLED) ## do the tests of the core notice a change? ARGS="--seconds 3600"
	@test -x $(VENV)-mutation/bin/cosmic-ray || { $(PYTHON) -m venv $(VENV)-mutation && $(VENV)-mutation/bin/python -m pip -qq --disable-pip-version-check install "cosmic-ray==8.7.0"; }
	@$(VENV)-mutation/bin/python tests/mutation.py --python $(BIN)/python $(ARGS)

check: $(INSTALLED) ## lint, format and types; how densely the code is written, a gate for nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python benchmarks/density.py --brief

format: $(INSTALLED) ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

benchmarks: $(INSTALLED) ## the tables of docs/benchmarks.md (minutes to hours)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; done

clean: ## remove caches and build output; .venv and outputs/ stay
	@rm -rf build dist ./*.egg-info ./*.fab .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find $(PACKAGES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Every package is one of the lock, by its version and one of its hashes; what comes as source is built by what
# requirements-build.lock holds, and Meadow itself, which nobody publishes, is installed last and alone.
HASHED := install --require-hashes --no-deps --no-build-isolation
$(INSTALLED): pyproject.toml requirements.lock requirements-build.lock
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else "Meadow needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(PIP) $(HASHED) --requirement requirements-build.lock
	@echo "Installing Meadow and its dependencies into $(VENV) (minutes the first time)"
	@$(PIP) $(HASHED) --requirement requirements.lock
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@

# Its own packages come first on the path, and those of the first environment after them: pip of the first installs here.
$(LOWEST_INSTALLED): $(INSTALLED) requirements-lowest-flower.txt
	@echo "Installing the lowest supported release of Flower into $(LOWEST)"
	@$(BIN)/python -m venv --clear --without-pip $(LOWEST)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > "$$($(LOWEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first-environment.pth"
	@$(LOWEST)/bin/python -m pip -qq --disable-pip-version-check --no-input $(HASHED) --requirement requirements-lowest-flower.txt
	@touch $@

lock: $(INSTALLED) ## write the locks anew, with the same versions; ARGS=--upgrade takes the newest
	@$(BIN)/python supply/lock.py $(ARGS)
