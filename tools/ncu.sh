#!/usr/bin/env bash
# Nsight Compute: why does a kernel take its time? Measures the kernels of one operation of a
# training step behind a warm-up, with all counters, and prints what it finds.
#
#   tools/ncu.sh [--dry-run] [--set SET] [--launches N] [--output NAME] OPERATION FLAGS
#
#   OPERATION    a row of `vitrine profile`'s table: attention_backward, matmul, adamw, …; with a
#                layer before it, blocks.3/matmul; with a phase, 'backward/*/matmul'
#   FLAGS        those of `vitrine profile`: --preset P, --batch-size N, …
#   --set        counters: full [full], roofline, basic; `ncu --list-sets` names them
#   --launches   kernels that are measured, each by many replays [3]
#   --output     of the report: NAME.ncu-rep [vitrine-OPERATION], for the window of `ncu-ui`
#   --dry-run    only prints the commands
set -euo pipefail
source "$(dirname "$0")/nsight.sh"

output="" set=full launches=3 dry_run="" operation=""
flags=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --dry-run) dry_run=1 ;;
    --set | --launches | --output)
      [[ $# -gt 1 ]] || usage
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *)
      if [[ -n "$operation" ]]; then
        flags+=("$1")
      else
        [[ "$1" != -* ]] || usage
        operation=$1
      fi
      ;;
  esac
  shift
done
[[ -n "$operation" && ${#flags[@]} -gt 0 ]] || usage
[[ "$launches" =~ ^[1-9][0-9]*$ ]] || fail "--launches: found $launches, expected a number" 2
[[ -n "$output" ]] || output=vitrine-$(tr -c 'a-zA-Z0-9_.\n' - <<< "$operation")

# A range that is pushed and popped, of the domain "vitrine"; one name alone ends with a slash.
range=vitrine@$operation
[[ "$operation" == */* ]] || range+=/
given --device "${flags[@]}" || flags+=(--device cuda)
given --no-cuda-graph "${flags[@]}" || flags+=(--no-cuda-graph)  # a replay has no ranges
given --steps "${flags[@]}" || flags+=(--steps 1)
given --warm-up "${flags[@]}" || flags+=(--warm-up 3)

ncu=ncu
[[ -n "$dry_run" ]] || ncu=$(find_tool ncu "Nsight Compute")
measure=("$ncu" --profile-from-start off --nvtx --nvtx-include "$range" --set "$set"
  --launch-count "$launches" --force-overwrite --export "$output"
  "$program" profile --capture "${flags[@]}")
show=("$ncu" --import "$output.ncu-rep" --page details)
if [[ -n "$dry_run" ]]; then
  print_command "${measure[@]}"
  print_command "${show[@]}"
  exit
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
rm -f "$output.ncu-rep"
status=0
"${measure[@]}" 2>&1 | tee "$log" || status=$?
if grep -q ERR_NVGPUCTRPERM "$log"; then
  fail "no permission to read the GPU's counters: run as root, or set 'options nvidia NVreg_RestrictProfilingToAdminUsers=0' in /etc/modprobe.d and reboot (a container needs --cap-add=SYS_ADMIN); tools/nsys.sh needs no counters"
fi
[[ $status -eq 0 ]] || fail "ncu ended with $status"
[[ -f "$output.ncu-rep" ]] || fail "no kernel ran in a range $range; vitrine profile lists the operations"
"${show[@]}"
echo "$name: look at it with: ncu-ui $output.ncu-rep"
