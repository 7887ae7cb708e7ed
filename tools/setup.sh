#!/usr/bin/env bash
# Installs what is missing of the packages Vitrine needs, by name, on Debian and Ubuntu.
#   tools/setup.sh           to build and run
#   tools/setup.sh --tests   also to test, benchmark and check the format
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config ccache
  libdnnl-dev libhwy-dev nlohmann-json3-dev libcli11-dev libjpeg-dev libpng-dev zlib1g-dev)
if [[ "${1:-}" == "--tests" ]]; then
  packages+=(libgtest-dev libbenchmark-dev libboost-context-dev clang clang-format libomp-dev
    python3 binutils)
fi

if ! command -v dpkg-query > /dev/null; then
  echo "Not a Debian or Ubuntu machine. Vitrine needs what these packages hold: ${packages[*]}" >&2
  exit 0
fi
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ "$status" == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

echo "Installing ${missing[*]}"
root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo > /dev/null || { echo "Please install as root: ${missing[*]}" >&2; exit 1; }
  root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${root[@]}" apt-get update -qq
"${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
