#!/bin/sh
# On a machine with a GPU, in the folder that pack.sh made: tests of all ops and goldens on the GPU, compute-sanitizer over the op
# tests, then the measurements of `inkstone bench device` beside PyTorch on the same weights. Written for ten minutes: each part has a
# time limit, and what one part finds does not stop the next. Usage: run.sh [RESULTS]
set -u

here=$(cd "$(dirname "$0")" && pwd)
results=${1:-$here/results}
mkdir -p "$results"
log() { printf '\n== %s (%s s)\n' "$1" "$(($(date +%s) - began))" | tee -a "$results/summary.txt"; }
began=$(date +%s)
for program in inkstone model-tests; do
    [ -x "$here/$program" ] || { gunzip -k "$here/$program.gz" && chmod +x "$here/$program"; }
done

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv | tee "$results/summary.txt"

# cuBLASLt and NCCL come with PyTorch's wheels where no toolkit is installed.
site=$(python3 -c 'import nvidia, os; print(list(nvidia.__path__)[0])' 2>/dev/null || true)
libraries=$here/libraries
mkdir -p "$libraries"
if [ -n "$site" ]; then
    for library in $(find "$site" -name 'libcublasLt.so*' -o -name 'libcublas.so*' -o -name 'libnccl.so*' -o -name 'libnvrtc.so*'); do
        ln -sf "$library" "$libraries/"
    done
fi
# The loader is asked for libnccl.so and libcublasLt.so; wheels have the numbered names only.
for name in libnccl libcublasLt libcublas; do
    [ -e "$libraries/$name.so" ] || ln -sf "$(ls "$libraries/$name".so.* 2>/dev/null | head -1)" "$libraries/$name.so" 2>/dev/null
done
export LD_LIBRARY_PATH="$libraries:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}"

# Tests look for goldens above the place they were built at.
built_at=$(cat "$here/built-at")
if [ ! -d "$built_at" ]; then
    mkdir -p "$built_at" && ln -sfn "$here" "$(dirname "$built_at")/shared"
fi

log 'op tests and goldens on the GPU'
INKSTONE_TEST_GPU_ONLY=1 timeout 150 "$here/model-tests" --test-threads 4 --nocapture ops::cuda decode_graphs on_gpus profile >"$results/tests.txt" 2>&1
echo "exit $?" | tee -a "$results/summary.txt"
grep -E '^test |test result|panicked|skipped|largest' "$results/tests.txt" | tail -60 | tee -a "$results/summary.txt"

log 'compute-sanitizer over the op tests'
INKSTONE_TEST_GPU_ONLY=1 timeout 120 compute-sanitizer --error-exitcode 9 "$here/model-tests" --test-threads 1 ops::cuda::tests \
    >"$results/sanitizer.txt" 2>&1
echo "exit $?" | tee -a "$results/summary.txt"
grep -E 'ERROR SUMMARY|Invalid|test result' "$results/sanitizer.txt" | tail -8 | tee -a "$results/summary.txt"

log 'the network on one GPU'
work=${INKSTONE_BENCH_WORK:-/tmp/inkstone-bench}
timeout 240 "$here/inkstone" bench device --device cuda --work "$work" 2>&1 | tee "$results/device.txt" | tee -a "$results/summary.txt"

log 'a whole server on one GPU: first tokens with and without a picture, batching'
timeout 120 "$here/inkstone" bench engine --device cuda --model "$work/vl-7b" 2>&1 | tee "$results/engine.txt" | tee -a "$results/summary.txt"

log 'PyTorch on the same weights'
timeout 120 python3 "$here/reference.py" "$work/vl-7b" 2>&1 | tee "$results/pytorch.txt" | tee -a "$results/summary.txt"
log 'done'
