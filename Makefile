# `make` alone explains the targets. Everything happens in .venv; nothing outside this folder is touched.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.ready
ARGS  ?=
SEED  ?= 0

# Nothing here downloads a model, and a forked tokenizer need not warn.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED = 1

# Threads that wait sleep, and small products need one (see nbs/00c_process.ipynb).
export OMP_WAIT_POLICY ?= PASSIVE
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help demo test test-slow faults lab docs pages export clean-nbs readme lock install install-unpinned clean

help:
	@echo 'actrep_nb: teaching a multimodal language model to count repeated actions in video'
	@echo
	@echo '  make demo      synthetic clips -> reasoning data -> SFT -> GRPO -> report, beside them film, in runs/demo (ten to twelve minutes on 2 cores)'
	@echo '                 options: make demo ARGS="--size small", or another seed: make demo SEED=1'
	@echo '                 stopped at any place, the same command goes on; to start over: make demo ARGS=--fresh'
	@echo '  make lab       JupyterLab on the chapters, nbs/'
	@echo '  make test      what CI checks: notebooks, tests, site, a short demo'
	@echo '                 a part of it: make test ARGS="ruff pytest" (see python tools/ci.py --help)'
	@echo '  make test-slow the tests that take long; CI runs them too'
	@echo '  make faults    real processes killed, disks full, files torn: what comes of it, in benchmarks/faults.md (as root; ARGS="--only sft")'
	@echo '  make docs      the site, in _site/ (opens from disk, needs no network)'
	@echo
	@echo 'When you change a chapter (nbs/NN_name.ipynb):'
	@echo '  make export    write actrep_nb/ from the notebooks'
	@echo '  make clean-nbs strip what a notebook should not carry into git'
	@echo '  make pages     run all chapters again, so that their stored outputs are fresh (then clean)'
	@echo '  make readme    write README.md from nbs/index.ipynb'
	@echo
	@echo 'Each target sets up .venv first, with the exact versions of requirements.lock.'
	@echo '  make install-unpinned   the newest versions that settings.ini allows, instead'
	@echo '  make lock               write requirements.lock from the versions in .venv'
	@echo '  make clean              remove generated pages and caches (runs/ and .venv stay)'

# ---- set-up -------------------------------------------------------------------------------------------------

# PYTHON=... picks the interpreter; otherwise the first of these that is new enough.
define find_python
	python=""; \
	for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python="$$p"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "actrep_nb needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || true). Install one, or name it: make $(or $(MAKECMDGOALS),install) PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi
endef

define make_venv
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(find_python); \
	  echo "set-up: $$($$python --version) in $(VENV)"; \
	  rm -rf $(VENV); \
	  "$$python" -m venv $(VENV) || { echo "could not create $(VENV): on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }; \
	fi
endef

# Whole gigabytes that are free in a folder.
free_gb = $$(df -Pk $(1) | awk 'NR == 2 { print int($$4 / 1048576) }')

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

$(STAMP): requirements.lock settings.ini setup.py pyproject.toml
	@$(make_venv)
	@echo "set-up: installing $$(grep -c '==' requirements.lock) packages from requirements.lock (7 GB on Linux, $(call free_gb,.) free here; minutes the first time)"
	@start=$$SECONDS; \
	$(PIP) -r requirements.lock || { \
	  echo "set-up: failed, with $(call free_gb,.) GB free here (7 are needed on Linux) and $(call free_gb,$${TMPDIR:-/tmp}) in $${TMPDIR:-/tmp} (4 are)" >&2; exit 1; }; \
	$(PIP) --no-deps --no-build-isolation -e .; \
	echo "set-up: done in $$((SECONDS - start)) s"
	@touch $@

install: $(STAMP)

install-unpinned:
	@$(make_venv)
	@echo "set-up: installing the newest versions that settings.ini allows"
	@$(PIP) --upgrade --upgrade-strategy eager -e '.[dev]'
	@touch $(STAMP)

# ---- the two commands of the README ---------------------------------------------------------------------------

demo: $(STAMP)
	@$(BIN)/actrep demo --out runs/demo --seed $(SEED) $(ARGS)

test: $(STAMP)
	@$(BIN)/python tools/ci.py $(ARGS)

test-slow: $(STAMP)
	@$(BIN)/python tools/ci.py slow

faults: $(STAMP)
	@$(BIN)/python tools/faults.py $(ARGS)

# ---- notebooks and pages --------------------------------------------------------------------------------------

lab: $(STAMP)
	@$(BIN)/python -c 'import os, sys; from actrep_nb.process import process_env; os.execvpe(sys.argv[1], sys.argv[1:], process_env())' \
	  $(BIN)/jupyter lab --notebook-dir nbs nbs/index.ipynb $(ARGS)

docs: $(STAMP)
	@$(BIN)/python tools/build_docs.py $(ARGS)

readme: $(STAMP)
	@$(BIN)/python tools/build_docs.py --readme

export: $(STAMP)
	@$(BIN)/nbdev-export

clean-nbs: $(STAMP)
	@$(BIN)/nbdev-clean

pages: $(STAMP)
	@$(BIN)/python tools/pages.py $(ARGS)
	@$(BIN)/nbdev-clean
	@$(BIN)/python tools/build_docs.py --readme

lock: $(STAMP)
	@$(BIN)/python tools/lock.py

clean:
	rm -rf _proc _site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find actrep_nb tests tools -name __pycache__ -prune -exec rm -rf {} +
