#!/usr/bin/env bash
# Shows on a machine with a GPU that the CUDA device computes what it should, and how fast.
#
#   tools/gpu_check.sh [--quick] OUT [PART...]     all parts, or these
#
#   machine    GPU, driver, libraries, processor, commit; changes no setting
#   build      takes the programs in VITRINE_BUILD [build-gpu] if they start, else builds them there
#   test       cuda_ptx_test, then every other cuda_*_test
#   steps      training steps on cuda against cpu in fp32, tf32 and bf16; recorded against launch by
#              launch, run against run, and stop and resume against uninterrupted: equal bits
#   sanitizer  memcheck, racecheck, initcheck and synccheck of compute-sanitizer on one test a suite
#   train      short trainings, loss curves against the CPU, the time to the first step
#   bench      train_step_bench: images/s and FLOP/s of the presets
#   profile    vitrine profile of three presets, recorded and launch by launch: its times add up
#   kernels    every other *_bench: each operation against the roof and its peers; the programs' own
#              JSON goes to OUT/kernels
#   pytorch    tools/compare_pytorch.py on the same GPU, few variants; its own file is
#              OUT/compare_pytorch.json
#   pack       (only when named) makes the build small and complete enough to travel
#
# Every part writes OUT/PART.txt, its whole log, and OUT/PART.json: status "passed", "incomplete"
# (what was run passed, something was refused or out of time), "failed" or "not run", why, and all
# figures. A part that does not end stays "failed: did not finish".
# Exit status: 0; 1 when a part failed; 3 when none failed but nothing was run on a GPU.
#
# No part takes more than ten minutes. Where a command has ten in all:
#   machine build test steps | sanitizer train | bench | profile | kernels | pytorch
# --quick makes everything small, for a first look or an emulated GPU (see tests/simt).
#
# VITRINE_DATA [data]: `mnist` and `cifar10` in it are trained on; without them, synthetic images.
#
# A build that comes along, for a machine without compiler or libraries. Here:
#   cmake -S . -B build-gpu -G Ninja -DVITRINE_CUDA=ON -DVITRINE_TESTS=ON -DVITRINE_BENCH=ON \
#     -DVITRINE_CUDA_ARCHITECTURES=90a-real \
#     -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH='$ORIGIN/lib' \
#     -DCMAKE_INSTALL_RPATH_USE_LINK_PATH=OFF -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags
#   cmake --build build-gpu --target vitrine_program cuda_tests benches
#   tools/gpu_check.sh out pack
# which writes build-gpu/carry/carry.tar.xz: the programs, stripped, and in lib/ the shared
# libraries that a plain machine lacks. CUDA's are not among them: they come from the CUDA Toolkit
# and cuDNN or from Python's `nvidia` packages. Over there:
#   VITRINE_BUILD=build-gpu/carry tools/gpu_check.sh out
set -euo pipefail

usage() {
  sed -n '3,20p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
}

options=()
if [[ "${1:-}" == --quick ]]; then
  options=(--quick)
  shift
fi
[[ $# -gt 0 && "$1" != -* ]] || usage
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "gpu_check.sh needs python3 3.11 or newer" >&2
  exit 2
fi

out=$(realpath -m "$1")
shift
[[ -z "${VITRINE_BUILD:-}" ]] || VITRINE_BUILD=$(realpath -m "$VITRINE_BUILD")
[[ -z "${VITRINE_DATA:-}" ]] || VITRINE_DATA=$(realpath -m "$VITRINE_DATA")
cd "$(dirname "$0")/.."
export VITRINE_BUILD="${VITRINE_BUILD:-$PWD/build-gpu}"
export VITRINE_DATA="${VITRINE_DATA:-$PWD/data}"
export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"

# CUDA's libraries in Python's `nvidia` packages, one folder a line.
nvidia_packages() {
  python3 - << 'PYTHON' 2> /dev/null || true
from pathlib import Path
import nvidia
for root in nvidia.__path__:
    for folder in sorted({str(library.parent) for library in Path(root).rglob("lib*.so*")}):
        print(folder)
PYTHON
}
while read -r folder; do
  LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
done < <(nvidia_packages)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"

exec python3 -B tools/gpu_check.py ${options[@]+"${options[@]}"} "$out" "$@"
