#!/usr/bin/env bash
# Installs what is missing of the packages Vitrine needs, by name, on Debian and Ubuntu.
#   tools/setup.sh           to build and run
#   tools/setup.sh --tests   also to test, benchmark and check the format
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config ccache
  libdnnl-dev libhwy-dev nlohmann-json3-dev libcli11-dev libjpeg-dev libpng-dev libexif-dev
  zlib1g-dev)
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
root=()
if [[ $(id -u) -ne 0 ]]; then
  root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
install() {
  echo "Installing $*"
  if [[ ${#root[@]} -gt 0 ]] && ! command -v sudo > /dev/null; then
    echo "Please install as root: $*" >&2
    exit 1
  fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}
[[ ${#missing[@]} -eq 0 ]] || install "${missing[@]}"

# Debian keeps the run-time libraries of clang's sanitizers in a package of their own.
if [[ "${1:-}" == "--tests" ]] &&
  ! clang++ -fsanitize=thread -x c++ - -o /dev/null <<< 'int main() {}' 2> /dev/null; then
  install "libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"
fi
