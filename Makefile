# Every target sets up .venv by itself; a machine needs Python >= 3.11, make and a package index.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test test-full test-gpu pictures lint format bench clean

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
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not full" $(ARGS)

# In parts, each with a record of its own, so that a run which was interrupted goes on; `make clean` starts
# anew. The last four split what is marked as full by the names of its cases, so that none is left out.
PARTS := quick rest dynamic-23 static-20 static-23
SELECT_quick := -m "not full"
SELECT_rest := -m full -k "not (True-23 or False-20 or False-23)"
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
