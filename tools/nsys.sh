#!/usr/bin/env bash
# Nsight Systems: when does what run? Records some training steps behind a warm-up and sums them up.
#
#   tools/nsys.sh [--dry-run] [--graph] [--output NAME] FLAGS
#
#   FLAGS        those of `vitrine profile`: --preset P, --batch-size N, --steps N [5], …
#   --graph      the step as it runs in a training, replayed at once, each node of the graph traced;
#                without it launch by launch, where ranges (phase, layer, operation) read like the model
#   --output     of the report: NAME.nsys-rep [vitrine], for the window of `nsys-ui NAME.nsys-rep`
#   --dry-run    only prints the commands
#
# Printed are the GPU's time by range (launch by launch) and by kernel.
set -euo pipefail
source "$(dirname "$0")/nsight.sh"

output=vitrine graph="" dry_run=""
flags=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --dry-run) dry_run=1 ;;
    --graph) graph=1 ;;
    --output)
      [[ $# -gt 1 ]] || usage
      output=$2
      shift
      ;;
    *) flags+=("$1") ;;
  esac
  shift
done
[[ ${#flags[@]} -gt 0 ]] || usage

given --device "${flags[@]}" || flags+=(--device cuda)
given --steps "${flags[@]}" || flags+=(--steps 5)
trace=(--trace=cuda,nvtx,cublas,cudnn --sample=none --cpuctxsw=none
  --capture-range=cudaProfilerApi --capture-range-end=stop)
reports=cuda_gpu_kern_sum
if [[ -n "$graph" ]]; then
  trace+=(--cuda-graph-trace=node)
else
  given --no-cuda-graph "${flags[@]}" || flags+=(--no-cuda-graph)
  reports=nvtx_gpu_proj_sum,cuda_gpu_kern_sum
fi

nsys=nsys
[[ -n "$dry_run" ]] || nsys=$(find_tool nsys "Nsight Systems")
record=("$nsys" profile "${trace[@]}" --force-overwrite=true "--output=$output"
  "$program" profile --capture "${flags[@]}")
sum_up=("$nsys" stats --force-export=true "--report=$reports" "$output.nsys-rep")
if [[ -n "$dry_run" ]]; then
  print_command "${record[@]}"
  print_command "${sum_up[@]}"
  exit
fi

"${record[@]}"
[[ -f "$output.nsys-rep" ]] || fail "nsys recorded nothing: no $output.nsys-rep"
"${sum_up[@]}"
echo "$name: look at it with: nsys-ui $output.nsys-rep"
