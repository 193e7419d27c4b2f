# Everything starts here. `make serve` and `make test` set up what they need on a machine with python3, make and apt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SYSTEM := $(VENV)/.system-libraries
COMPILED := $(VENV)/.compiled
LOOPS := $(addprefix workers/compiled/,jit.py windows.py tile_transforms.py pixel_loops.py)
ARGS ?=
# More than processors: half of the time tests wait for processes that they start.
PROCESSES ?= 4

.DEFAULT_GOAL := help
.PHONY: help install serve test test-slow check format findings lint lock openapi settings bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

serve: $(COMPILED) ## run everything on this machine (flags in ARGS="--port 9000 …")
	@$(BIN)/convscope serve $(ARGS)

test: lint $(SYSTEM) $(COMPILED) ## the checks and the whole test suite (pytest's arguments in ARGS)
	$(BIN)/pytest -q --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(SYSTEM) $(COMPILED) ## the tests that take minutes each (pytest's arguments in ARGS)
	$(BIN)/pytest -q --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

# Without processes, engines and compiled loops: what an edit may break everywhere, in the time of a coffee.
QUICK := $(addprefix tests/,convscope/protocol convscope/render convscope/store workers/passes \
	contract/test_source.py contract/test_docs.py contract/test_findings.py contract/test_peers.py \
	contract/test_openapi.py contract/test_door.py)

check: lint ## the checks and the quick tests, for every edit: under two minutes
	$(BIN)/pytest -q --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(QUICK) $(ARGS)

format: $(INSTALLED) ## sort imports, mend what the linter can, lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

findings: $(INSTALLED) ## run every script of findings/ (not part of the tests; a failure is news of somebody else)
	@for script in findings/*.sh; do echo "== $$script"; PYTHON=$(CURDIR)/$(BIN)/python bash $$script || failed=1; done; \
		exit $${failed:-0}

lint: $(INSTALLED) ## style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(INSTALLED) ## the environment in .venv, with the locked versions

# With the hashes of all files, so that nobody gets another file of the same version.
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet --generate-hashes \
	--no-emit-package convscope --no-emit-package convscope-client --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

lock: $(INSTALLED) ## write requirements.lock and the images' locks from pyproject.toml (newer versions with ARGS=--upgrade)
	$(COMPILE) --extra dev --output-file requirements.lock $(ARGS)
	$(COMPILE) --constraint requirements.lock --output-file docker/service.lock
	$(COMPILE) --constraint requirements.lock --extra worker --output-file docker/worker.lock

openapi: $(INSTALLED) ## write openapi/openapi.json, and the client after it
	$(BIN)/python -m service.write_openapi > openapi/openapi.json
	$(BIN)/python client/generate.py

settings: $(INSTALLED) ## write docs/settings.md
	$(BIN)/convscope settings --markdown > docs/settings.md

# house, report, serving and the soak are no comparisons of speed; spectrum, digits and the like write what the package ships.
NO_BENCH := __init__ builds house report serving soak fit_spectrum train_digits photographs plain_cam_service method_pictures tutorials tutorial_mistakes class_sheet

bench: $(INSTALLED) ## run every comparison in bench/, or those named in ARGS="cka cam"
	@for name in $(or $(ARGS),$(filter-out $(NO_BENCH),$(sort $(basename $(notdir $(wildcard bench/*.py)))))); do \
		echo "== $$name"; $(BIN)/python -m bench.$$name || exit 1; done

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info

# --no-deps: the lock names every package; the resolver has nothing to do.
$(INSTALLED): requirements.lock pyproject.toml client/pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable . --editable client
	@touch $@

# What is compiled for this processor lies beside its source; without it the first worker would do this, and the first
# request wait for it. What was compiled from another version is removed: numba looks at one file's time only.
$(COMPILED): $(INSTALLED) $(LOOPS)
	@echo "compiling loops for this processor (half a minute, once)"
	@rm -f workers/compiled/__pycache__/*.nbi workers/compiled/__pycache__/*.nbc
	@$(BIN)/python -m workers.engine.environment
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { $(call apt,python3-venv,to make the environment); }
	$(PYTHON) -m venv $(VENV)

# OpenCV, which one of the tests' peers imports, wants two libraries that a bare machine lacks; faketime is for the tests
# that set clocks forward and back, redis-tools holds a Redis 7.0 (its server without the service), and in chromium the
# explorer is tried as a person would. nginx is installed by CI only: as a package it begins to serve on the machine.
$(SYSTEM): $(INSTALLED)
	@{ $(BIN)/python -c 'import cv2' 2> /dev/null && command -v faketime > /dev/null && \
		command -v redis-check-rdb > /dev/null && command -v chromium > /dev/null && \
		{ [ -z "$(CI)" ] || command -v nginx > /dev/null; }; } || \
		{ $(call apt,libgl1 libglib2.0-0 faketime redis-tools chromium $(if $(CI),nginx-light),for the tests); }
	@touch $@

# $(call apt,PACKAGES,WHY): install Debian packages as root or by sudo without a password, else say what to do.
define apt
	as=""; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
	if command -v apt-get > /dev/null && $$as true 2> /dev/null; then \
		$$as apt-get update -qq && $$as env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $(1); \
	else \
		echo "$(1) is needed $(2): sudo apt-get install $(1)"; exit 1; \
	fi
endef
