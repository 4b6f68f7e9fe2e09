#!/usr/bin/env bash
# A cluster of processes on one machine: a vision worker, WIDTH language ranks and a coordinator, as they would run on
# several. Stops all of them when it is stopped (Ctrl-C), or when one of them ends.
#
# Usage: deploy/one-machine.sh MODEL_DIR [WIDTH]     (INKSTONE: the binary; GRPC: where clients connect)
set -euo pipefail

model=${1:?usage: $0 MODEL_DIR [WIDTH]}
width=${2:-1}
inkstone=${INKSTONE:-inkstone}
grpc=${GRPC:-127.0.0.1:50051}
vision=127.0.0.1:7300
leader=127.0.0.1:7100
threads=$(($(nproc) / width))
[ "$threads" -ge 1 ] || threads=1

trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null || true; wait' EXIT
"$inkstone" worker --role vision --model "$model" --grpc "$vision" &
"$inkstone" worker --role language --model "$model" --threads "$threads" \
    --tensor-parallel "$width" --rank 0 --grpc "$leader" &
for rank in $(seq 1 $((width - 1))); do
    "$inkstone" worker --role language --model "$model" --threads "$threads" \
        --tensor-parallel "$width" --rank "$rank" --leader "$leader" &
done
"$inkstone" coordinator --language "$leader" --vision "$vision" --grpc "$grpc" &
wait -n
