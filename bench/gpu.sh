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

steps=(-m bench --device cuda --batch 32 --pairs 512 --height 360)
everything() {
  command -v nvidia-smi > /dev/null && nvidia-smi
  part versions 40 -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
  part tests 200 -m pytest -q -m gpu -p no:cacheprovider --junit-xml "$OUT/tests.xml"
  part bfloat16 90 "${steps[@]}" --precision bfloat16 --channels-last on --json "$OUT/bfloat16.json" --only student losses cached online feed
  part compiled 110 "${steps[@]}" --precision bfloat16 --channels-last on --compile on --json "$OUT/compiled.json" --only student cached
  part float32 70 "${steps[@]}" --precision float32 --json "$OUT/float32.json" --only student cached online public
  part precompute 70 -m bench --device cuda --part-pairs 512 --turns 2 --json "$OUT/precompute.json" --only precompute reading
}

everything > "$OUT/log" 2>&1
cat "$OUT/log"
exit "$failed"
