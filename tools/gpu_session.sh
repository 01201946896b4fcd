#!/usr/bin/env bash
# All that is worth asking of a machine with a GPU, in one command of a few minutes, for when there is one seldom:
# builds for the GPU that is here, runs the tests that need one, the sanitizer, and the benchmark. Needs torch with
# CUDA, nvcc, pytest and numpy, but no network.
#
#     OUT=results tools/gpu_session.sh [build] [tests] [bench] [survey] [sanitize]      (the first three by default)
#
# $OUT gets session.log, what is printed here, and results.tar.gz, all logs and tables. MINUTES=9 is how long all of it
# may take: tests end after a seventh of it each, the sanitizer after a third, and the benchmark, or the survey of every
# algorithm beside the choice, fills what is left; of each class of layers it takes every EVERY-th (4). Each part goes on whatever became of the one before, so that a failure
# does not cost the rest. What was built stays, so a second call can go on:
#
#     OUT=results MINUTES=3 EVERY=3 tools/gpu_session.sh sanitize bench
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${OUT:-out}" && cd "${OUT:-out}" && pwd)
LOGS=$(mktemp -d)
MINUTES=${MINUTES:-9}
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
[ $# -gt 0 ] || set -- build tests bench
exec > >(tee "$OUT/session.log") 2>&1
failed=0

left() { echo $((MINUTES * 60 - SECONDS)); }

# part NAME SECONDS COMMAND...: runs the command so long at most, its output in a log of that name.
part() {
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout --signal=INT --kill-after=20 "$limit" "$@" >"$LOGS/$name.log" 2>&1
  local status=$?
  tail -n 4 "$LOGS/$name.log"
  echo "gpu-session: $name: exit status $status after $((SECONDS - began)) s, $(left) s left"
  [ $status -eq 0 ] || failed=1
  find benchmarks/results -name '*.json' -newer "$LOGS/machine.log" -exec cp {} "$LOGS" \;
  tar -czf "$OUT/results.tar.gz" -C "$LOGS" .  # again after each part, should the next one be the last
}

if ! $PYTHON -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu-session: no GPU that torch can use"
  exit 1
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv |
  tee "$LOGS/machine.log"
$PYTHON -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
capability='import torch; a, b = torch.cuda.get_device_capability(); print(f"{a}.{b}" + "a" * (a == 9))'
TORCH_CUDA_ARCH_LIST=$($PYTHON -c "$capability")
export TORCH_CUDA_ARCH_LIST
if ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] && ! command -v nvcc >/dev/null; then
  echo "gpu-session: no nvcc here (set CUDA_HOME)"
  exit 1
fi

for step in "$@"; do
  case $step in
    build) CONVX_CUDA=1 part build "$(left)" "$PYTHON" setup.py -q build_ext --inplace ;;
    tests)
      share=$((MINUTES * 60 / 7))
      # Expected results are computed by the CPU, whose cores share the GPU.
      $PYTHON -c 'import xdist' 2>/dev/null && parallel=(-n 8) || parallel=()
      # First what only a GPU can show; then the rest of the suite's CUDA cases, as far as the time goes. Each of the
      # first two files compiles something once, for one process.
      part gpu_tests "$share" "$PYTHON" -m pytest -q "${parallel[@]}" "${parallel[@]:+--dist=loadfile}" --maxfail=20 \
        tests/test_cuda_device.py tests/test_ptx.py
      part exact_tests "$share" "$PYTHON" -m pytest -q "${parallel[@]}" --maxfail=20 -k cuda \
        tests/test_exact.py tests/test_propagation.py tests/test_accuracy.py tests/test_determinism.py
      ;;
    sanitize) part sanitize $((MINUTES * 20)) "$PYTHON" tools/cuda_sanitize.py --tool memcheck --tool racecheck ;;
    bench)
      kinds=("float16" "bfloat16" "float32 --tf32" "float32" "float64")
      for i in "${!kinds[@]}"; do
        share=$(($(left) / (${#kinds[@]} - i)))
        [ "$share" -gt 20 ] || break
        minutes=$(awk "BEGIN { print ($share - 15) / 60 }")
        # shellcheck disable=SC2086  # a kind is a dtype and perhaps an option
        part "bench_${kinds[i]// --/_}" "$share" "$PYTHON" -m benchmarks.run --device cuda --layout best --save \
          --dtype ${kinds[i]} --seconds 0.02 --max-gflop 100 --every "${EVERY:-4}" --minutes "$minutes"
      done
      ;;
    survey)
      for dtype in float16 float32; do
        minutes=$(awk "BEGIN { print ($(left) / 2 - 15) / 60 }")
        part "survey_$dtype" "$(left)" "$PYTHON" -m benchmarks.algorithms --device cuda --dtype "$dtype" --seconds 0.01 \
          --max-gflop 100 --every "${EVERY:-4}" --minutes "$minutes" --save "$LOGS/survey_$dtype.json"
      done
      ;;
    *)
      echo "gpu-session: expected build, tests, bench, survey or sanitize, but got $step"
      exit 2
      ;;
  esac
done
exit $failed
