#!/bin/sh
# Builds what a GPU machine is to run and packs it, stripped, into one folder of less than 64 MiB: the binary, the tests of the network as
# one program, their goldens and the scripts. Needs no GPU. Usage: deploy/cuda/pack.sh FOLDER [GOLDENS]
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
out=$1
goldens=${2:-$root/../../shared/goldens}
cd "$root"
deploy/cuda/fetch-toolkit.sh >/dev/null
mkdir -p "$out"
cargo build --release -p inkstone --features cuda
target=$(cargo metadata --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
cp "$target/release/inkstone" "$out/inkstone"
# Tests find their goldens by the place they were built at, which run.sh makes a link for.
cargo test -p inkstone-model --features cuda --lib --no-run --message-format json |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["executable"])' | tail -1 | xargs -I{} cp {} "$out/model-tests"
strip "$out/inkstone" "$out/model-tests"
# Together they would be more than many lenders of GPUs carry.
gzip -f "$out/inkstone" "$out/model-tests"
for name in units xc2-vl-tiny xc2-rope-tiny; do
    [ -d "$goldens/$name" ] && mkdir -p "$out/goldens" && cp -r "$goldens/$name" "$out/goldens/"
done
cp deploy/cuda/run.sh deploy/cuda/reference.py "$out/"
printf '%s\n' "$root/model/network" >"$out/built-at"
du -sh "$out"
