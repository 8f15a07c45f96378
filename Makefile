# TeachOnce: run the tracking teacher once, train every student from its cache.
# Type `make` for the list of commands.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python

SETTING ?= atom_cfkd
SETTINGS ?= gt ts ts_ah ts_ah_fid atom_cfkd
SEEDS ?= 0 1 2
CACHE_DIR ?= caches
RUN_DIR ?= runs
DEMO_ROOT ?= data/demo
GPUS ?= 1
ARGS ?=
export CACHE_DIR RUN_DIR DEMO_ROOT

comma := ,
# on Linux the feed is DALI's; elsewhere (no wheels) the PyTorch/OpenCV feed takes its place
EXTRAS := $(if $(filter Linux,$(shell uname -s)),dev$(comma)dali,dev)
ifeq ($(GPUS),1)
LAUNCH := $(PY)
else
LAUNCH := $(BIN)/torchrun --standalone --nproc-per-node $(GPUS)
endif

.PHONY: help setup demo demo-data demo-teacher cache train study test lint bench tensorboard verify view check clean

help: ## this list
	@echo "TeachOnce: cache a tracking teacher once, train every student from the cache."
	@echo
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  first:  make demo        then:  GOT10K_ROOT=/path make cache DATASET=got10k TEACHER=weights.pth"
	@echo "                                  make train SETTING=atom_cfkd DATASET=got10k"

# The stamp is newer than what defines the environment, or the environment is brought up to date.
setup: $(VENV)/.ready ## .venv with everything (the others depend on it)
$(VENV)/.ready: pyproject.toml constraints.txt
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "error: setup: expected Python >= 3.11, found $$($(PYTHON) -V 2>&1); set PYTHON=python3.12" >&2; exit 2; fi
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: setup ## the main job on a generated data set, from nothing: frames, cache, students, report
	$(PY) -m precompute demo-data --out $(DEMO_ROOT)
	$(PY) -m precompute cache --dataset demo --setting demo $(ARGS)
	$(PY) -m train run --setting demo $(ARGS)
	$(PY) -m train report $(RUN_DIR)/demo/* --out reports/demo

demo-teacher: setup ## trains the demo's teacher again and replaces models/demo_teacher (long)
	$(PY) -m precompute demo-data --out data/demo-teacher --train 600 --val 24 --frames 32 --seed 1
	DEMO_ROOT=data/demo-teacher $(PY) -m precompute cache --dataset demo --setting demo_teacher
	$(PY) -m train run --setting demo_teacher $(ARGS)
	$(PY) -m models convert $(RUN_DIR)/demo_teacher/seed0/student.safetensors models/demo_teacher/atom_resnet18medium.safetensors --dtype float16 --trim

cache: setup ## DATASET=got10k [SETTING=atom_cfkd] [PAIRS=n] [VAL_PAIRS=n] [SPLIT=train|val] [TEACHER=weights] [TARGETS=all] [GPUS=n]
	$(LAUNCH) -m precompute cache --dataset "$(or $(DATASET),$(error cache: expected DATASET=name, see configs/datasets.yaml; e.g. make cache DATASET=got10k))" --setting $(SETTING) \
	  $(if $(PAIRS),--pairs $(PAIRS)) $(if $(VAL_PAIRS),--val-pairs $(VAL_PAIRS)) $(if $(SPLIT),--split $(SPLIT)) \
	  $(if $(TEACHER),--teacher "$(TEACHER)") $(if $(TARGETS),--targets "$(TARGETS)") $(ARGS)

train: setup ## SETTING=atom_cfkd [DATASET=got10k] [ARGS="train.epochs=2 ..."] [GPUS=n]
	$(LAUNCH) -m train run --setting $(SETTING) $(if $(DATASET),dataset="$(DATASET)") $(ARGS)

study: setup ## SETTINGS="gt ts atom_cfkd" [SEEDS="0 1 2"] [EPOCHS=n] [BATCHES=n] [ARGS="like=demo"]: equal budgets, one cache, one report
	$(PY) -m train study $(SETTINGS) --seeds $(SEEDS) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCHES),--batches $(BATCHES)) \
	  --out reports/study $(if $(DATASET),dataset="$(DATASET)") $(ARGS)

test: setup ## the tests
	$(PY) -m pytest -n 2 --dist loadfile

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## measured speed beside its baselines (no test: it only prints)
	$(PY) -m tests.bench $(ARGS)

tensorboard: setup ## curves and pictures of all runs
	$(BIN)/tensorboard --logdir $(RUN_DIR)

verify: setup ## CACHE=path: every checksum of a cache
	$(PY) -m cache verify $(or $(CACHE),$(error verify: expected CACHE=path of a cache; `make train` and `make cache` print it))

view: setup ## CACHE=path: some pairs of a cache as a picture
	$(PY) -m cache view $(or $(CACHE),$(error view: expected CACHE=path of a cache)) $(ARGS)

check: setup ## DATASET=got10k: sequences, frames and every fault of a data set, before any work
	$(PY) -m precompute check $(DATASET)

clean: ## removes what tools leave behind; caches, runs and data stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
