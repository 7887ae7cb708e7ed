#!/usr/bin/env bash
# Builds Vitrine and trains a small Vision Transformer on digits that the program draws itself:
# no download, about two minutes on two cores. Arguments go to `vitrine train`.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/build.sh
exec build/vitrine train --preset digits "$@"
