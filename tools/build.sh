#!/usr/bin/env bash
# Makes build/vitrine. Arguments go to CMake, for example -DVITRINE_NATIVE=ON.
# With the CUDA device where this machine has a GPU; -DVITRINE_CUDA=ON builds it anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh
cuda=AUTO
if ! nvidia-smi -L > /dev/null 2>&1; then
  cuda=OFF
  echo "No NVIDIA GPU here: building for the CPU (-DVITRINE_CUDA=ON builds for CUDA too)"
fi
generator=()
[[ -f build/CMakeCache.txt ]] || generator=(-G Ninja -DVITRINE_TESTS=OFF -DVITRINE_BENCH=OFF)
cmake -S . -B build "${generator[@]}" -DVITRINE_CUDA=$cuda "$@" | sed -n 's/^-- Vitrine: /Vitrine: /p'
cmake --build build --target vitrine_program
