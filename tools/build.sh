#!/usr/bin/env bash
# Makes build/vitrine. Arguments go to CMake, for example -DVITRINE_NATIVE=ON.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh
generator=()
[[ -f build/CMakeCache.txt ]] || generator=(-G Ninja -DVITRINE_TESTS=OFF -DVITRINE_BENCH=OFF)
cmake -S . -B build "${generator[@]}" -DVITRINE_CUDA=AUTO "$@" | sed -n "s/^-- Vitrine: /Vitrine: /p"
cmake --build build --target vitrine_program
