# Never calls sudo or a package manager of the system; .ci/run does that for CI.
#   make setup PIP_ARGS='--extra-index-url ...'   options for pip, e.g. the index of CPU builds of torch
#   make setup PYTHON=/path/to/python3.11         another interpreter
#   make gpu-check KIT_PYTHON=python3             the Python that has Transformer Engine (docs/environment.md)
#   make gpu-bench KIT_ARGS='--budget-minutes 60' flags of the kit for GPUs (docs/gpu_kit.md)
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test acceptance results lint bench rl-demo gpu-check gpu-bench clean

SHELL := /bin/bash
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.ready
PIP_ARGS ?=
PYTHON ?=
PYTEST_ARGS ?=
KIT_ARGS ?=
KIT_PYTHON ?= $(RUN)
export OMP_NUM_THREADS ?= 1

help:
	@echo "make setup | quickstart | test | acceptance | results | lint | bench | rl-demo | gpu-check | gpu-bench | clean"

setup: $(STAMP)

$(STAMP): requirements/lock.txt setup.py
	@tools/setup_environment.sh "$(VENV)" "$(PYTHON)" $(PIP_ARGS)
	@touch $@

quickstart: setup
	$(RUN) examples/tiny/quickstart.py

# Units side by side; tests that start processes of their own, or measure memory, one after the other.
# 5 means that none was selected: right where PYTEST_ARGS selects.
test: setup
	@rc=0; \
	for tests in "tests/unit -n 2 --dist loadfile" "tests/parallel tests/system"; do \
		$(RUN) -m pytest $$tests -m "not slow and not acceptance" -rs $(PYTEST_ARGS) || \
			{ code=$$?; $(if $(PYTEST_ARGS),[ $$code = 5 ],false) || rc=$$code; }; \
	done; exit $$rc

acceptance: setup
	$(RUN) tests/acceptance/run.py

# What was measured: docs/results.md and the report beside the figures, as they are committed, and the report
# as one file with its pictures inside, which can be sent.
results: setup
	$(RUN) tools/results_page.py --whole build/results.html

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell
	$(VENV)/bin/shellcheck -x slurm/*.sh slurm/*.sbatch tests/system/*.sh tools/*.sh examples/*/*.sh .ci/run

bench: setup
	$(RUN) benchmarks/run.py

gpu-check: $(if $(filter $(RUN),$(KIT_PYTHON)),setup)
	$(KIT_PYTHON) -m benchmarks.gpu_kit.check $(KIT_ARGS)

rl-demo: setup
	$(RUN) examples/tiny/rl_demo.py

gpu-bench: $(if $(filter $(RUN),$(KIT_PYTHON)),setup)
	$(KIT_PYTHON) -m benchmarks.gpu_kit.bench $(KIT_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
