#!/usr/bin/env bash
# tools/nsys.sh and tools/ncu.sh with stand-ins for nsys and ncu: what arrives there, and what is
# said when they are missing or may not read the GPU's counters.
set -euo pipefail
tools=$(cd "$(dirname "$0")/../tools" && pwd)
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
mkdir bin empty
export CUDA_HOME=$directory/empty VITRINE="/a place/vitrine"
failures=0

# A stand-in notes its words, one a line behind "call", and makes the report it was told to make.
cat > bin/stand-in << 'EOF'
#!/usr/bin/env bash
{ echo call; printf '%s\n' "$@"; } >> "$NOTES"
report="" previous=""
for word in "$@"; do
  case "$word" in --output=*) report=${word#--output=}.nsys-rep ;; esac
  if [[ "$previous" == --export ]]; then report=$word.ncu-rep; fi
  previous=$word
done
case "${BEHAVE:-}" in
  refuse) echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission" >&2; exit 1 ;;
  nothing) exit 0 ;;
  break) exit 9 ;;
esac
if [[ -n "$report" ]]; then touch "$report"; fi
EOF
chmod +x bin/stand-in
ln -s stand-in bin/nsys
ln -s stand-in bin/ncu
export NOTES=$directory/notes

# run CODE WORDS: runs a tool, which has to end with CODE; what it says lies in `said`.
run() {
  local expected=$1 code=0
  shift
  : > notes
  rm -f ./*.nsys-rep ./*.ncu-rep
  PATH="$directory/bin:$PATH" "$@" > said 2>&1 || code=$?
  [[ $code -eq $expected ]] || complain "$*: ended with $code, expected $expected: $(cat said)"
}
complain() {
  echo "FAILED: $1"
  failures=$((failures + 1))
}
# expect LINES: the calls were these, word for word.
expect() {
  if [[ "$(cat notes)" != "$1" ]]; then complain "found:"$'\n'"$(cat notes)"$'\n'"expected:"$'\n'"$1"; fi
}
says() {
  grep -qF -e "$1" said || complain "expected \"$1\" in: $(cat said)"
}

run 0 "$tools/nsys.sh" --preset vit_small --batch-size 64
expect "call
profile
--trace=cuda,nvtx,cublas,cudnn
--sample=none
--cpuctxsw=none
--capture-range=cudaProfilerApi
--capture-range-end=stop
--force-overwrite=true
--output=vitrine
/a place/vitrine
profile
--capture
--preset
vit_small
--batch-size
64
--device
cuda
--steps
5
--no-cuda-graph
call
stats
--force-export=true
--report=nvtx_gpu_proj_sum,cuda_gpu_kern_sum
vitrine.nsys-rep"

run 0 "$tools/nsys.sh" --graph --output "my report" --preset p --device=cuda:1 --steps=2
expect "call
profile
--trace=cuda,nvtx,cublas,cudnn
--sample=none
--cpuctxsw=none
--capture-range=cudaProfilerApi
--capture-range-end=stop
--cuda-graph-trace=node
--force-overwrite=true
--output=my report
/a place/vitrine
profile
--capture
--preset
p
--device=cuda:1
--steps=2
call
stats
--force-export=true
--report=cuda_gpu_kern_sum
my report.nsys-rep"

run 0 "$tools/ncu.sh" attention_backward --preset vit_small --batch-size 64
expect "call
--profile-from-start
off
--nvtx
--nvtx-include
vitrine@attention_backward/
--set
full
--launch-count
3
--force-overwrite
--export
vitrine-attention_backward
/a place/vitrine
profile
--capture
--preset
vit_small
--batch-size
64
--device
cuda
--no-cuda-graph
--steps
1
--warm-up
3
call
--import
vitrine-attention_backward.ncu-rep
--page
details"

run 0 "$tools/ncu.sh" --set roofline --launches 7 'backward/*/matmul' --preset p
for words in "vitrine@backward/*/matmul" roofline 7 vitrine-backward---matmul; do
  grep -qxF -e "$words" notes || complain "no word $words in: $(cat notes)"
done
run 0 "$tools/ncu.sh" --output here blocks.3/matmul --preset p
grep -qxF "vitrine@blocks.3/matmul" notes || complain "a layer: $(cat notes)"
grep -qxF "here.ncu-rep" notes || complain "a name: $(cat notes)"

# Nothing runs, and what is printed is what would run.
for tool in "nsys.sh --preset p" "ncu.sh adamw --preset p"; do
  run 0 "$tools"/$tool --dry-run
  expect ""
  says 'profile --capture --preset p'
  cp said printed
  run 0 "$tools"/$tool
  cp notes first
  : > notes
  touch vitrine.nsys-rep vitrine-adamw.ncu-rep
  PATH="$directory/bin:$PATH" bash -e printed
  cmp -s notes first || complain "$tool: printed is not what runs: $(diff notes first)"
done
grep -qxF "vitrine@adamw/" first || complain "the update: $(cat first)"

run 2 "$tools/nsys.sh"
says "tools/nsys.sh [--dry-run]"
run 2 "$tools/nsys.sh" --output
run 2 "$tools/ncu.sh" --preset p
says "tools/ncu.sh [--dry-run]"
run 2 "$tools/ncu.sh" matmul --launches many --preset p
says "ncu.sh: --launches: found many, expected a number"

BEHAVE=refuse run 1 "$tools/ncu.sh" matmul --preset p
says "ncu.sh: no permission to read the GPU's counters"
says "NVreg_RestrictProfilingToAdminUsers=0"
BEHAVE=nothing run 1 "$tools/ncu.sh" matmull --preset p
says "ncu.sh: no kernel ran in a range vitrine@matmull/"
BEHAVE=nothing run 1 "$tools/nsys.sh" --preset p
says "nsys.sh: nsys recorded nothing"
BEHAVE=break run 1 "$tools/ncu.sh" matmul --preset p
says "ncu.sh: ncu ended with 9"
BEHAVE=break run 9 "$tools/nsys.sh" --preset p

rm bin/nsys bin/ncu
run 1 "$tools/nsys.sh" --preset p
says "nsys.sh: nsys was not found on PATH"
[[ $(wc -l < said) -eq 1 ]] || complain "one line: $(cat said)"
run 1 "$tools/ncu.sh" matmul --preset p
says "ncu.sh: ncu was not found on PATH"
[[ $(wc -l < said) -eq 1 ]] || complain "one line: $(cat said)"

[[ $failures -eq 0 ]] || exit 1
echo passed
