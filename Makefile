# TeachOnce: run the tracking teacher once, train every student from its cache.
# Type `make` for the list of commands.

# Values of variables are data, from the command line and from the environment alike: taken as they are written, never expanded by make, and
# handed on through the environment to recipes, which name them as "$$NAME". Word lists (ARGS, SETTINGS, SEEDS, CHECKPOINT) are split at spaces;
# a CHECKPOINT that is the path of a file is one word, spaces or not.
override INPUTS := PYTHON VENV CONSTRAINTS EXTRAS SETTING SETTINGS SEEDS CACHE_DIR RUN_DIR DEMO_ROOT DEMO_EVAL_ROOT GPUS COVERAGE ARGS DATASET PAIRS \
  VAL_PAIRS SPLIT TEACHER TARGETS EPOCHS BATCHES CACHE FRAMES HTML WORST BOX CHECKPOINT FILES JOBS VIDEO REPAIR ENGINE
override GIVEN := $(sort $(INPUTS) $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))
$(foreach name,$(filter-out INPUTS GIVEN,$(GIVEN)),$(if $(findstring undefined,$(origin $(name))),,$(eval override $(name) := $$(value $(name)))))

override SHELL := /bin/bash
# -f: a word with a * or [ is a word
override .SHELLFLAGS := -euf -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
SETTING ?= atom_cfkd
SETTINGS ?= gt ts ts_ah ts_ah_fid atom_cfkd
SEEDS ?= 0 1 2
CACHE_DIR ?= caches
RUN_DIR ?= runs
DEMO_ROOT ?= data/demo
DEMO_EVAL_ROOT ?= data/demo-eval
GPUS ?= 1
COVERAGE ?=
ARGS ?=
override comma := ,
# on Linux the feed is DALI's; elsewhere (no wheels) the PyTorch/OpenCV feed takes its place
ifeq ($(origin EXTRAS),undefined)
EXTRAS := $(if $(filter Linux,$(shell uname -s)),dev$(comma)dali,dev)
endif
export $(INPUTS)

# these two are names of files for make itself
override hash := \#
$(foreach name,VENV CONSTRAINTS,$(foreach sign,; : % = | ( ) $$ $(hash) \,$(if $(findstring $(sign),$($(name))),$(error $(name): expected a path without $(sign)))))
$(foreach name,VENV CONSTRAINTS,$(if $(word 2,$($(name))),$(error $(name): expected a path without spaces)))

override BIN := "$$VENV"/bin
override PY := $(BIN)/python
override TEACHONCE := $(BIN)/teachonce
override CHECKPOINTS = $(if $(CHECKPOINT),if [ -f "$$CHECKPOINT" ] || [ -f "$${CHECKPOINT$(hash)*=}" ]; then checkpoints=(--checkpoint "$$CHECKPOINT"); \
  else checkpoints=($$(printf -- '--checkpoint %s ' $$CHECKPOINT)); fi;)
override NUMBERED := [[ "$$GPUS" =~ ^[1-9][0-9]?$$ ]] || { echo "error: GPUS: expected a whole number from 1 to 99, found '$$GPUS'; correct it" >&2; exit 2; };
# torchrun puts a traceback below the line of a refused request, which every process prints: one is asked before
override LAUNCH := $(if $(filter-out 1,$(GPUS)),$(NUMBERED) launch() { TEACHONCE_ASK=1 WORLD_SIZE="$$GPUS" $(TEACHONCE) "$$@"; \
  $(BIN)/torchrun --standalone --nproc-per-node "$$GPUS" --no-python $(TEACHONCE) "$$@"; }; launch,$(TEACHONCE))

.PHONY: help setup demo demo-eval demo-teacher cache train study eval track test lowest lint bench bench-guard torture tensorboard verify view check clean

help: ## this list
	@echo "TeachOnce: cache a tracking teacher once, train every student from the cache."
	@echo
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  first:  make demo        then:  GOT10K_ROOT=/path make cache DATASET=got10k TEACHER=weights.pth"
	@echo "                                  make train SETTING=atom_cfkd DATASET=got10k"

# The stamp is newer than what defines the environment, or the environment is brought up to date.
setup: $(VENV)/.ready ## .venv with everything (the others depend on it)
$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	@if ! "$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "error: setup: expected Python >= 3.11, found $$("$$PYTHON" -V 2>&1); set PYTHON=python3.12" >&2; exit 2; fi
	"$$PYTHON" -m venv "$$VENV"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint "$$CONSTRAINTS" --editable ".[$$EXTRAS]"
	@touch "$$VENV/.ready"

demo: setup ## the main job on a generated data set, from nothing: frames, cache, students, report
	$(TEACHONCE) precompute demo-data --out "$$DEMO_ROOT"
	$(TEACHONCE) precompute cache --dataset demo --setting demo $$ARGS
	$(TEACHONCE) train run --setting demo $$ARGS
	set +f; $(TEACHONCE) train report "$$RUN_DIR"/demo/* --out reports/demo

demo-eval: setup ## 32 generated sequences of 120 frames to evaluate trackers on (DATASET=demo_eval)
	$(TEACHONCE) precompute demo-data --kind eval --out "$$DEMO_EVAL_ROOT"

demo-teacher: setup ## trains the demo's teacher again and replaces models/demo_teacher (minutes on a GPU, hours without)
	$(TEACHONCE) precompute demo-data --out data/demo-teacher --train 1200 --val 24 --frames 32 --every 3 --seed 1
	DEMO_ROOT=data/demo-teacher $(TEACHONCE) precompute cache --dataset demo --setting demo_teacher $$ARGS
	DEMO_ROOT=data/demo-teacher $(TEACHONCE) train run --setting demo_teacher $$ARGS
	$(TEACHONCE) models convert "$$RUN_DIR/demo_teacher/seed0/student.safetensors" models/demo_teacher/atom_resnet18medium.safetensors --dtype float16 --trim

cache: setup ## DATASET=got10k [SETTING=atom_cfkd] [PAIRS=n] [VAL_PAIRS=n] [SPLIT=train|val] [TEACHER=weights] [TARGETS=all] [GPUS=n] [ENGINE=ray]
	$(LAUNCH) precompute cache --dataset "$$DATASET"$(if $(DATASET),,$(error cache: expected DATASET=name, see configs/datasets.yaml; e.g. make cache DATASET=got10k)) --setting "$$SETTING" \
	  $(if $(PAIRS),--pairs "$$PAIRS") $(if $(VAL_PAIRS),--val-pairs "$$VAL_PAIRS") $(if $(SPLIT),--split "$$SPLIT") \
	  $(if $(TEACHER),--teacher "$$TEACHER") $(if $(TARGETS),--targets "$$TARGETS") $(if $(ENGINE),--engine "$$ENGINE") $$ARGS

train: setup ## SETTING=atom_cfkd [DATASET=got10k] [ARGS="train.epochs=2 ..."] [GPUS=n]
	$(LAUNCH) train run --setting "$$SETTING" $(if $(DATASET),dataset="$$DATASET") $$ARGS

study: setup ## SETTINGS="gt ts atom_cfkd" [SEEDS="0 1 2"] [EPOCHS=n] [BATCHES=n] [ARGS="like=demo"]: equal budgets, one cache, one report
	$(TEACHONCE) train study $$SETTINGS --seeds $$SEEDS $(if $(EPOCHS),--epochs "$$EPOCHS") $(if $(BATCHES),--batches "$$BATCHES") \
	  --out reports/study $(if $(DATASET),dataset="$$DATASET") $$ARGS

eval: setup ## CHECKPOINT="student.safetensors teacher=t.pth" DATASET=got10k|otb|lasot|uav123|trackingnet|demo|FOLDER [JOBS=n] [FILES=1]
	$(CHECKPOINTS) $(TEACHONCE) tracking eval --dataset "$$DATASET"$(if $(DATASET),,$(error eval: expected DATASET=name of a data set, folder or video)) \
	  $(if $(CHECKPOINT),"$${checkpoints[@]}") $(if $(JOBS),--jobs "$$JOBS") $(if $(FILES),--files) $$ARGS

track: setup ## CHECKPOINT=student.safetensors VIDEO=clip.mp4 [BOX=x,y,w,h]: boxes and a video with them, of a video, a folder or a camera
	$(CHECKPOINTS) $(TEACHONCE) tracking track --video "$$VIDEO"$(if $(VIDEO),,$(error track: expected VIDEO=clip.mp4, a folder of images or the number of a camera)) \
	  $(if $(CHECKPOINT),"$${checkpoints[@]}") $(if $(BOX),"--box=$$BOX") $$ARGS

# two processes of one thread each: threads of both would wait for one another. Counting covered lines costs a good part of the time where
# Python lacks sys.monitoring (3.12)
test: export OMP_NUM_THREADS ?= 1
test: setup ## the tests; COVERAGE=1 says how many lines of each room they run
	$(if $(COVERAGE),COVERAGE_CORE=$$($(PY) -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')) \
	  $(PY) -m pytest -n 2 --dist loadfile $(if $(COVERAGE),--cov --cov-report=term)

lowest: ## the tests with the lowest versions that pyproject.toml allows, in .venv-lowest (PYTHON=python3.12)
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

lint: setup ## ruff and mypy, tests included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## measured speed beside its baselines (no test: it only prints)
	$(TEACHONCE) bench $$ARGS

bench-guard: setup ## what got slower since bench/reference.json was measured, by ratios within one run (minutes)
	$(TEACHONCE) bench --compile off --warmup 6 --steps 12 --pairs 64 --height 360 --only student losses cached online --json reports/bench.json $$ARGS
	$(TEACHONCE) bench guard reports/bench.json --reference bench/reference.json

torture: setup ## caches and runs damaged and killed at random (an hour; ARGS="--bucket s3://... --log FILE --minutes 5" in slices)
	$(PY) -m bench.torture $$ARGS

tensorboard: setup ## curves and pictures of all runs
	$(BIN)/tensorboard --logdir "$$RUN_DIR"

verify: setup ## CACHE=path: every checksum of a cache; FRAMES=1: cuts every pair again; REPAIR=1 [TEACHER=weights]: computes again what is damaged
	$(TEACHONCE) cache verify "$$CACHE"$(if $(CACHE),,$(error verify: expected CACHE=path of a cache; make train and make cache print it)) \
	  $(if $(FRAMES),--frames) $(if $(REPAIR),--repair) $(if $(TEACHER),--teacher "$$TEACHER") $$ARGS

view: setup ## CACHE=path: pairs as a picture; HTML=page.html: one page with the teacher's numbers and maps [WORST=n]
	$(TEACHONCE) cache view "$$CACHE"$(if $(CACHE),,$(error view: expected CACHE=path of a cache)) $(if $(HTML),--html "$$HTML") $(if $(WORST),--worst "$$WORST") $$ARGS

check: setup ## DATASET=got10k: sequences, frames and every fault of a data set, before any work
	$(TEACHONCE) precompute check "$$DATASET"$(if $(DATASET),,$(error check: expected DATASET=name, see configs/datasets.yaml)) $$ARGS

clean: ## removes what tools leave behind; caches, runs and data stay
	set +f; rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -type d -not -path "./$$VENV/*" -prune -exec rm -rf {} +
