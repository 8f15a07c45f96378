#!/usr/bin/env bash
# The tests that need a GPU and the benchmark, in one call of less than ten minutes, without network:
#
#   OUT=folder [PYTHON=python3] bench/gpu.sh
#
# Writes $OUT/log, $OUT/tests.xml and the figures of each benchmark as JSON. Python needs torch with CUDA, and PYTHONPATH the packages that the
# machine lacks (DALI, zarr, pydantic ...). Exit code 1 where a part failed or ran out of its time; the others are run all the same.
set -uo pipefail
: "${OUT:?usage: OUT=folder bench/gpu.sh}"
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
failed=0

part() { # NAME SECONDS WORD...: runs $python WORD...
  local name=$1 most=$2 began=$SECONDS code=0
  shift 2
  echo "== $name: $*"
  timeout "$most" "$python" "$@" || code=$?
  echo "== $name: exit code $code after $((SECONDS - began)) s of $most"
  ((code == 0)) || failed=1
}

steps=(-m bench --device cuda --batch 32 --pairs 256 --height 360 --warmup 15 --steps 60)
everything() {
  command -v nvidia-smi > /dev/null && nvidia-smi
  part versions 40 -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
  # two threads: with sixteen, steps on the processor crashed in PyTorch 2.11 on one machine
  OMP_NUM_THREADS=2 part tests 180 -m pytest -q -m gpu -p no:cacheprovider --junit-xml "$OUT/tests.xml"
  part usual 75 "${steps[@]}" --compile off --json "$OUT/usual.json" --only student losses cached online public feed
  part bfloat16 75 "${steps[@]}" --compile off --precision bfloat16 --json "$OUT/bfloat16.json" --only student cached online
  part compiled 170 "${steps[@]}" --compile on --precision bfloat16 --json "$OUT/compiled.json" --only student cached
  part precompute 40 -m bench --device cuda --part-pairs 256 --parts 2 --turns 2 --json "$OUT/precompute.json" --only precompute reading
}

everything > "$OUT/log" 2>&1
cat "$OUT/log"
exit "$failed"
