# Every target sets up .venv by itself; a machine needs Python >= 3.11, make and a package index.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OWN := python -m pip install --quiet --disable-pip-version-check -c constraints-optimum.txt
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test test-full test-gpu test-executorch test-pipelines pictures lint format bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

install: $(READY)  ## set up .venv (every other target does this first)

# The package itself is linked, not copied. The group `zoo` goes in without its declared needs:
# pyproject.toml says why.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "meristem needs Python 3.11 or newer (make PYTHON=...)" >&2; exit 2; }
	@echo "setting up .venv: a few minutes the first time" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --upgrade pip setuptools
	@$(PIP) --no-build-isolation --editable '.[test]'
	@$(PIP) --no-deps --group zoo
	@touch $@

demo: $(READY)  ## grow a trained model and watch it compute the same
	@$(BIN)/python -m meristem demo

test: $(READY)  ## the tests of every change
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not full and not browser" $(ARGS)

# No browser is needed for anything else.
.PHONY: test-browser chromium
test-browser: $(READY) chromium  ## the pages of reports in a real browser
	@$(PIP) --group browser
	@$(PIP) --no-deps --group axe
	@$(BIN)/pytest -m browser tests/browser $(ARGS)

# Debian's chromium and the driver that goes with it; who may not install them is told what to do.
chromium:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
	echo "the browser tests need chromium and chromedriver: apt-get install chromium chromium-driver," \
	"or name others in CHROMIUM and CHROMEDRIVER" >&2; test -n "$$CHROMIUM$$CHROMEDRIVER"; exit; }; \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
	chromium chromium-driver >/dev/null; }

# In parts, each with a record of its own, so that a run which was interrupted goes on; `make clean` starts
# anew. All but the first split what is marked as full by folders and by the names of cases, so that none is left out.
FOLDERS := backends docs passes rewrite verify
PARTS := quick rest $(FOLDERS) e2e dynamic-23 static-20 static-23
SELECT_quick := -m "not full and not browser"
$(foreach folder,$(FOLDERS),$(eval SELECT_$(folder) := -m full tests/$(folder)))
SELECT_rest := -m full $(FOLDERS:%=--ignore tests/%) --ignore tests/e2e
SELECT_e2e := -m full -k "not (True-23 or False-20 or False-23)" tests/e2e
SELECT_dynamic-23 := -m full -k True-23
SELECT_static-20 := -m full -k False-20
SELECT_static-23 := -m full -k False-23

test-full: $(READY)  ## every test, the slow ones too; its result goes to docs/test-full.md
	@mkdir -p build/full
	@$(MAKE) --no-print-directory -k $(PARTS:%=build/full/%.xml); code=$$?; \
	$(BIN)/python tests/results.py build/full $(PARTS) > docs/test-full.md; exit $$code

build/full/%.xml: $(READY)
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal $(SELECT_$*) $(ARGS) --junitxml=$@.new \
		-o junit_suite_name=$$(git describe --always --dirty)
	@mv $@.new $@

test-executorch: $(READY)  ## grown programs through to_edge and on ExecuTorch's runtime
	@$(PIP) --no-deps --group executorch
	@$(BIN)/pytest tests/integrations/test_programs.py -k executorch

# Optimum insists on an older transformers than the tests of everything else.
OPTIMUM := build/envs/optimum
$(OPTIMUM)/.ready: pyproject.toml constraints-optimum.txt
	@test -n "$(PYTHON)" || { echo "meristem needs Python 3.11 or newer (make PYTHON=...)" >&2; exit 2; }
	@echo "setting up $(OPTIMUM): a few minutes the first time" >&2
	@test -x $(OPTIMUM)/bin/python || $(PYTHON) -m venv $(OPTIMUM)
	@$(OPTIMUM)/bin/$(OWN) --upgrade pip setuptools
	@$(OPTIMUM)/bin/$(OWN) --no-build-isolation --editable '.[optimum]' pytest
	@touch $@

test-pipelines: $(OPTIMUM)/.ready  ## the tests of libraries that need an environment of their own
	@$(OPTIMUM)/bin/pytest tests/integrations/test_optimum_export.py $(ARGS)

PROVIDER ?= cuda

test-gpu: $(READY)  ## the verification suite on a card (PROVIDER=cuda), or on the CPU where there is none
	@$(BIN)/python -m tests.gpu --provider $(PROVIDER) $(ARGS)

pictures: $(READY)  ## draw the pictures of docs/ again (a quarter of an hour)
	@$(PIP) --group docs
	@$(BIN)/python -W ignore docs/methods_picture.py

lint: $(READY)  ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy -p meristem.rewrite -p meristem.passes

format: $(READY)  ## rewrite the sources as `lint` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## every benchmarks/*.py
	@for script in $(wildcard benchmarks/*.py); do $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv, caches and builds
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
