#!/usr/bin/env bash
# Compiler launcher of the CUDA kernels: runs the compiler and keeps what ptxas says of registers
# and spills beside the object, in OBJECT.ptxas. Other messages pass through.
set -euo pipefail

object=""
for ((i = 1; i <= $#; ++i)); do
  if [[ "${!i}" == -o ]]; then
    next=$((i + 1))
    object="${!next}"
  fi
done
status=0
"$@" 2> "$object.ptxas" || status=$?
grep -v -e '^ptxas info' -e 'bytes stack frame' -e '^$' "$object.ptxas" >&2 || true
exit $status
