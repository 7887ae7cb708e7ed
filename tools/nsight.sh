# What tools/nsys.sh and tools/ncu.sh share; sourced by both. The program is what VITRINE names
# [build/vitrine].

name=$(basename "$0")
program=${VITRINE:-$(dirname "$0")/../build/vitrine}

usage() {
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
  exit 2
}

fail() {
  echo "$name: $1" >&2
  exit "${2:-1}"
}

# Where nsys or ncu lies: on PATH, or in the CUDA Toolkit.
find_tool() {
  command -v "$1" || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/$1" \
    || fail "$1 was not found on PATH or in the CUDA Toolkit; $2 has it: https://developer.nvidia.com/tools-overview"
}

# Whether one of the words after the first is the flag $1, alone or as FLAG=VALUE.
given() {
  local flag=$1 word
  shift
  for word in "$@"; do
    if [[ "$word" == "$flag" || "$word" == "$flag="* ]]; then return 0; fi
  done
  return 1
}

# The command as a line that a shell reads back.
print_command() {
  printf '%q ' "$@" | sed 's/ $/\n/'
}
