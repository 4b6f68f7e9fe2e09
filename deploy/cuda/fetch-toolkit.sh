#!/bin/sh
# Fetches what compiling the kernels takes (nvcc and headers, about 100 MB, 270 MB unpacked) from PyPI into a cache folder, where the
# build looks for it. For machines without a CUDA toolkit. Prints the folder; does nothing if it is there.
set -eu

version=13.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/inkstone/cuda-$version
home=$cache/nvidia/cu13
if [ -x "$home/bin/nvcc" ] && [ -e "$cache/complete" ]; then
    echo "$home"
    exit 0
fi
mkdir -p "$cache/wheels"
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$cache/wheels" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
for wheel in "$cache"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$cache"
done
# Wheels keep no file modes.
chmod +x "$home"/bin/* "$home"/bin/crt/* "$home"/nvvm/bin/* 2>/dev/null || true
ln -sfn lib "$home/lib64"
"$home/bin/nvcc" --version >/dev/null
rm -r "$cache/wheels"
touch "$cache/complete"
echo "$home"
