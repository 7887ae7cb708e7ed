#!/usr/bin/env bash
# Formats the code; with --check only says what is not formatted.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=(-i)
[[ "${1:-}" != "--check" ]] || mode=(--dry-run -Werror)
find . -path './build*' -prune -o -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print \
  | sort | xargs clang-format "${mode[@]}"
