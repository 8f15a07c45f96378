#!/usr/bin/env bash
# Does distillation pay in video? Data, cache, students, tracking and tables in one call, without network:
#
#   OUT=folder [PYTHON=python3] [WORK=folder] [NAME=value ...] bench/proof.sh [teacher] [data] [cache] [train] [eval] [pairs]
#
# Without words all parts but the last. `teacher` before them trains the demo's teacher (setting demo_teacher) and uses it. What was done in WORK
# is not done again. OUT gets report.md, results.json, pooled.csv, log, and proof.tar.gz: plots, study, students of the first seed.
set -uo pipefail
: "${OUT:?usage: OUT=folder bench/proof.sh [teacher] [data] [cache] [train] [eval] [pairs]}"
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
WORK=${WORK:-${TMPDIR:-/tmp}/teachonce-proof}
mkdir -p "$WORK" || exit 2
WORK=$(cd "$WORK" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

python=${PYTHON:-python3}
SETTINGS=${SETTINGS:-gt ts ts_ah ts_ah_fid atom_cfkd atom_tskd}
SEEDS=${SEEDS:-0 1 2}
TRACKER_SEEDS=${TRACKER_SEEDS:-0 1 2}
SCENES=${SCENES:-600}           # training scenes
PAIRS=${PAIRS:-16384}
EPOCHS=${EPOCHS:-5}
BATCHES=${BATCHES:-400}         # steps an epoch
BATCH=${BATCH:-32}
COUNTS=${COUNTS:-256 1024 4096 16384}
COUNT_EPOCHS=${COUNT_EPOCHS:-10}
FIRST=${FIRST:-32}              # sequences to evaluate on
JOBS=${JOBS:-$(nproc)}          # tracking processes
AT_ONCE=${AT_ONCE:-6}           # runs on the GPU at a time
TEACHER=${TEACHER:-models/demo_teacher/atom_resnet18medium.safetensors}
TEACHER_SCENES=${TEACHER_SCENES:-1200}
TEACHER_PAIRS=${TEACHER_PAIRS:-65536}
TEACHER_ARGS=${TEACHER_ARGS:-}
export DEMO_ROOT=$WORK/data DEMO_EVAL_ROOT=$WORK/data-eval CACHE_DIR=$WORK/caches RUN_DIR=$WORK/runs
like=(like=demo "train.batch=$BATCH")
budget=(--epochs "$EPOCHS" --batches "$BATCHES")

part() { # NAME WORD...: runs WORD...
  local name=$1 began=$SECONDS code=0
  shift
  "$@" || code=$?
  echo "== $name: exit code $code after $((SECONDS - began)) s, at $SECONDS s"
  return "$code"
}

at_once() { # reads a line a run, and runs $python with its words, several at a time
  xargs -P "$AT_ONCE" -L 1 "$python"
}

teacher() {
  DEMO_ROOT=$WORK/data-teacher part teacher-data "$python" -m precompute demo-data --out "$WORK/data-teacher" \
    --train "$TEACHER_SCENES" --val 24 --frames 32 --every 3 --seed 1 &&
    DEMO_ROOT=$WORK/data-teacher part teacher-cache "$python" -m precompute cache --dataset demo --setting demo_teacher \
      "pairs.count=$TEACHER_PAIRS" "cache_dir=$WORK/caches-teacher" &&
    DEMO_ROOT=$WORK/data-teacher part teacher-train "$python" -m train run --setting demo_teacher \
      "pairs.count=$TEACHER_PAIRS" "cache_dir=$WORK/caches-teacher" $TEACHER_ARGS &&
    "$python" -m models convert "$RUN_DIR/demo_teacher/seed0/student.safetensors" "$WORK/teacher.safetensors" --dtype float16 --trim &&
    cp "$WORK/teacher.safetensors" "$RUN_DIR/demo_teacher/seed0/metrics.jsonl" "$OUT"
}

data() {
  "$python" -m precompute demo-data --out "$DEMO_ROOT" --train "$SCENES" --val 24 --frames 32 --every 3 --seed 2 &&
    "$python" -m precompute demo-data --out "$DEMO_EVAL_ROOT" --kind eval
}

cache() {
  "$python" -m precompute cache --dataset demo --setting atom_cfkd "${like[@]}" "pairs.count=$PAIRS" --teacher "$TEACHER" \
    --targets "iou abs_sum response"
}

train() { # every run in a process of its own, then one report of all; gt at a rate of nothing: random weights, BatchNorm's statistics
  local setting seed
  for seed in $SEEDS; do
    echo "-m train study gt --seeds $seed --epochs 1 --batches 50 --out $WORK/reports/untrained-$seed ${like[*]} pairs.count=$PAIRS \
train.lr=1e-30 train.name=untrained train.feed_threads=2"
    for setting in $SETTINGS; do
      echo "-m train study $setting --seeds $seed ${budget[*]} --out $WORK/reports/$setting-$seed ${like[*]} pairs.count=$PAIRS \
train.feed_threads=2"
    done
  done | at_once
  "$python" -m train study $SETTINGS --seeds $SEEDS "${budget[@]}" --out "$WORK/reports/study" "${like[@]}" "pairs.count=$PAIRS" \
    train.feed_threads=2
}

evaluate() { # SEED...: all networks with these seeds of the tracker
  local setting seed given=(--checkpoint "teacher=$TEACHER")
  for seed in $SEEDS; do
    given+=(--checkpoint "untrained-seed$seed=$RUN_DIR/gt/untrained-seed$seed/student.safetensors")
    for setting in $SETTINGS; do
      given+=(--checkpoint "$setting-seed$seed=$RUN_DIR/$setting/study-seed$seed/student.safetensors")
    done
  done
  "$python" -m tracking eval --dataset demo_eval --first "$FIRST" --setting demo --device cpu --jobs "$JOBS" --out "$WORK/evals" \
    --seeds "$@" "${given[@]}" && gather
}

tables() { # FOLDER PREFIX: of names with one run each there is no pooled.csv
  local name
  for name in report.md results.json pooled.csv; do
    if [[ -f $WORK/$1/demo_eval/$name ]]; then cp "$WORK/$1/demo_eval/$name" "$OUT/$2$name"; fi
  done
}

gather() { # the tables and what belongs to them, as far as they are there
  tables evals ""
  local seed=${SEEDS%% *} setting students=()
  for setting in $SETTINGS; do students+=("runs/$setting/study-seed$seed/student.safetensors"); done
  tar -C "$WORK" -czf "$OUT/proof.tar.gz" evals/demo_eval/plots evals/demo_eval/worst.jpg reports/study "${students[@]}"
}

pairs() { # how many pairs does a student need: each count a cache of its own, equal steps
  local count given=()
  for count in $COUNTS; do
    "$python" -m precompute cache --dataset demo --setting atom_cfkd "${like[@]}" "pairs.count=$count" --teacher "$TEACHER" || return 1
  done
  for count in $COUNTS; do
    echo "-m train study atom_cfkd --seeds 0 --epochs $COUNT_EPOCHS --batches $BATCHES --out $WORK/reports/pairs-$count ${like[*]} \
pairs.count=$count train.name=pairs$count train.feed_threads=2"
  done | at_once
  for count in $COUNTS; do given+=(--checkpoint "pairs$count=$RUN_DIR/atom_cfkd/pairs$count-seed0/student.safetensors"); done
  "$python" -m tracking eval --dataset demo_eval --first "$FIRST" --setting demo --device cpu --jobs "$JOBS" --out "$WORK/evals-pairs" \
    --seeds $TRACKER_SEEDS --baselines none "${given[@]}" &&
    tables evals-pairs pairs-
}

everything() {
  local word
  for word in "$@"; do
    case $word in
      teacher) part teacher teacher && TEACHER=$WORK/teacher.safetensors ;;
      data | cache | train | pairs) part "$word" "$word" ;;
      # the first seed alone before all: there is a table whenever the call is cut off
      eval) part "eval, one seed" evaluate ${TRACKER_SEEDS%% *} && part "eval, all seeds" evaluate $TRACKER_SEEDS ;;
      *) echo "expected words among teacher, data, cache, train, eval, pairs, found '$word'" >&2 && false ;;
    esac || return 1  # each part needs those before it
  done
}

(($#)) || set -- data cache train eval
everything "$@" 2>&1 | tee "$OUT/log"
exit "${PIPESTATUS[0]}"
