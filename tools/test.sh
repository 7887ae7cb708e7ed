#!/usr/bin/env bash
# Builds and tests Vitrine in build/.
#   tools/test.sh          build with warnings as errors, format check, all tests
#   tools/test.sh --full   also clang and, with address and undefined-behaviour checks, all tests again
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "Packages"
tools/setup.sh --tests

step "Format"
tools/format.sh --check

step "Build"
generator=()
[[ -f build/CMakeCache.txt ]] || generator=(-G Ninja)
cmake -S . -B build "${generator[@]}" -DVITRINE_TESTS=ON -DVITRINE_BENCH=ON -DVITRINE_WERROR=ON \
  > /dev/null
cmake --build build

step "Tests"
ctest --test-dir build --output-on-failure --no-tests=error

[[ "${1:-}" == "--full" ]] || exit 0

step "AddressSanitizer and UndefinedBehaviorSanitizer, with clang"
generator=()
[[ -f build-sanitize/CMakeCache.txt ]] || generator=(-G Ninja -DCMAKE_CXX_COMPILER=clang++)
cmake -S . -B build-sanitize "${generator[@]}" -DVITRINE_WERROR=ON -DVITRINE_BENCH=OFF \
  -DVITRINE_SANITIZE=address,undefined -DCMAKE_CXX_FLAGS_RELEASE=-O1 > /dev/null
cmake --build build-sanitize
ctest --test-dir build-sanitize --output-on-failure --no-tests=error
