#!/usr/bin/env bash
# Makes the pictures of the README's gallery, in tools/gallery, from finished runs:
#   tools/make_gallery.sh runs/digits runs/published/cifar10-small-seed-1 runs/published/mnist-tutorial-seed-1
# The first gives the attention maps and the report (a Chromium or Chrome takes its picture), the
# second the learned positions and the training curves, the third the fixed positions.
set -euo pipefail
cd "$(dirname "$0")/.."

vitrine=${VITRINE:-build/vitrine}
if [[ $# -ne 3 ]]; then
  echo "usage: tools/make_gallery.sh DIGITS_RUN CIFAR10_SMALL_RUN MNIST_TUTORIAL_RUN" >&2
  exit 2
fi
digits=$1 cifar=$2 tutorial=$3
gallery=tools/gallery
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$gallery"

"$vitrine" attention "$digits" --test-images 5 -o "$scratch/digits" > /dev/null
"$vitrine" attention "$cifar" --test-images 0 -o "$scratch/cifar" > /dev/null
"$vitrine" attention "$tutorial" --test-images 0 -o "$scratch/tutorial" > /dev/null
cp "$scratch"/digits/*/sheet.png "$gallery/attention-sheet.png"
cp "$scratch/cifar/position-similarity.png" "$gallery/position-similarity.png"
cp "$scratch/tutorial/positions.png" "$gallery/positions-sincos.png"

"$vitrine" data augment --preset digits --aa rand-m9-mstd0.5-inc1 --mixup 0.8 --cutmix 1 \
  --reprob 0.25 -o "$gallery/augmentation.png" > /dev/null

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [[ -z "$browser" ]]; then
  echo "NOT DONE: report.png and curves.png need Chromium or Chrome" >&2
  exit 1
fi
# photograph RUN PICTURE WIDTHxHEIGHT
photograph() {
  "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="${3/x/,}" \
    --screenshot="$scratch/$2" "file://$(realpath "$1")/report.html" > /dev/null 2>&1
  cp "$scratch/$2" "$gallery/$2"
}
photograph "$digits" report.png 1000x900
photograph "$cifar" curves.png 1000x650
du -ch "$gallery"/*.png
