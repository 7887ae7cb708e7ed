#!/usr/bin/env bash
# Builds and tests Vitrine.
#   tools/test.sh          format check, build with warnings as errors, all tests; among them every
#                          CUDA kernel, executed on the CPU
#   tools/test.sh --full   also the program and all kernels with nvcc, everything again with clang and
#                          address and undefined-behaviour checks, and the kernels with thread checks
set -euo pipefail
cd "$(dirname "$0")/.."
# ccache, where it is there, finds an object again in a clone at another path.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=true

step() { printf '\n== %s\n' "$*"; }

# configure DIRECTORY [OPTION...]: with warnings as errors; Ninja for a new directory.
configure() {
  local directory=$1 generator=()
  shift
  [[ -f $directory/CMakeCache.txt ]] || generator=(-G Ninja)
  cmake -S . -B "$directory" "${generator[@]}" -DVITRINE_TESTS=ON -DVITRINE_WERROR=ON "$@" \
    | grep -e 'NOT tested' || true
}

step "Packages"
tools/setup.sh --tests

step "Format"
tools/format.sh --check

step "Build"
configure build-test -DVITRINE_BENCH=ON -DVITRINE_CUDA=OFF
cmake --build build-test

step "Tests"
ctest --test-dir build-test -j "$(nproc)" --output-on-failure --no-tests=error

[[ "${1:-}" == "--full" ]] || exit 0

step "The CUDA device and its kernels with nvcc"
export PATH="$PATH:/usr/local/cuda/bin"
if command -v nvcc > /dev/null; then
  configure build-cuda -DVITRINE_BENCH=ON -DVITRINE_CUDA=ON
  cmake --build build-cuda --target vitrine_program cuda_tests benches
  tools/kernel_report.py build-cuda
  build-cuda/vitrine inspect --preset vit_base_patch16_224  # links, loads, and says if it has no GPU
  ctest --test-dir build-cuda -L cuda --output-on-failure --no-tests=error
else
  echo "NOT DONE: there is no nvcc on this machine"
fi

step "AddressSanitizer and UndefinedBehaviorSanitizer, with clang"
configure build-sanitize -DVITRINE_BENCH=OFF -DVITRINE_CUDA=OFF -DVITRINE_SANITIZE=address,undefined \
  -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_FLAGS_RELEASE=-O1
cmake --build build-sanitize
ctest --test-dir build-sanitize -j "$(nproc)" --output-on-failure --no-tests=error

step "ThreadSanitizer: the CUDA kernels"
configure build-threads -DVITRINE_BENCH=OFF -DVITRINE_CUDA=OFF -DVITRINE_SANITIZE=thread \
  -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_FLAGS_RELEASE=-O1
cmake --build build-threads --target simt_tests
if compgen -G 'build-threads/tests/simt/simt_*_test' > /dev/null; then
  ctest --test-dir build-threads -j "$(nproc)" -L simt --output-on-failure --no-tests=error
else
  echo "NOT DONE: the kernels cannot be compiled here"
fi
