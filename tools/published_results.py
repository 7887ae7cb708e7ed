#!/usr/bin/env python3
"""Trains the reference models whose documents publish results, and sets ours beside theirs.

  tools/published_results.py --mnist data/mnist --cifar10 data
  tools/published_results.py --mnist data/mnist --only mnist-tutorial

Runs stay in runs/published. A finished run is not repeated and an interrupted one goes on where it
stopped, so the command can be given again. The table is printed and written into README.md between
its markers; the numbers behind it go to bench/results/published.json.

Published: mnist-tutorial, five epochs: losses 2.11 1.84 1.76 1.72 1.71, test loss 1.69, 77.38 %.
cifar10-small, 100 epochs: 75.5 %. Needs Python 3.9 and a built vitrine, nothing else.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- published results: tools/published_results.py -->", "<!-- end -->"
TUTORIAL_LOSSES = ["2.11", "1.84", "1.76", "1.72", "1.71"]
MODELS = {  # preset: (epochs, seeds, the flag of this program with its data)
    "mnist-tutorial": (5, (1, 2, 3, 4, 5), "mnist"),
    "cifar10-small": (100, (1,), "cifar10")}


def epochs_of(run):
    """The rows of summary.csv, numbers as floats; none where there is no run."""
    path = run / "summary.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def finished_run(args, preset, seed):
    """Trains, or goes on training, until the run is complete; returns its epochs."""
    epochs = MODELS[preset][0]
    run = Path(args.runs) / f"{preset}-seed-{seed}"
    done = epochs_of(run)
    if len(done) < epochs:
        command = [args.vitrine, "train", "--device", args.device]
        if (run / "last").exists():
            command += ["--resume", run]
        else:
            command += ["--preset", preset, "--seed", str(seed), "-o", run,
                        "--data-dir", getattr(args, MODELS[preset][2])]
        print(f"{preset}, seed {seed}: training", file=sys.stderr)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        done = epochs_of(run)
    if len(done) != epochs:
        sys.exit(f"{run}: found {len(done)} epochs, expected {epochs}")
    return done


def row(cells):
    return "| " + " | ".join(cells) + " |\n"


def tutorial_table(runs):
    """Epoch losses, test loss and accuracy: the document's run, ours, their mean."""
    text = row(["`mnist-tutorial`", *(f"epoch {i}" for i in range(1, 6)), "test loss", "accuracy"])
    text += row(["---"] * 8)
    text += row(["published", *TUTORIAL_LOSSES, "1.69", "77.38 %"])
    for seed, epochs in runs.items():
        text += row([f"seed {seed}", *(f"{e['train_loss']:.2f}" for e in epochs),
                     f"{epochs[-1]['eval_loss']:.2f}", f"{epochs[-1]['eval_top1']:.2f} %"])
    mean = [statistics.mean(epochs[i]["train_loss"] for epochs in runs.values()) for i in range(5)]
    last = [epochs[-1] for epochs in runs.values()]
    accuracy = [e["eval_top1"] for e in last]
    return text + row(["mean", *(f"{loss:.2f}" for loss in mean),
                       f"{statistics.mean(e['eval_loss'] for e in last):.2f}",
                       f"{statistics.mean(accuracy):.2f} % ± {statistics.stdev(accuracy):.1f}"])


def cifar_table(runs):
    """The curve at a few epochs, and the best epoch."""
    shown = (1, 10, 25, 50, 75, 100)
    text = row(["`cifar10-small`", *(f"epoch {i}" for i in shown), "best"]) + row(["---"] * 8)
    text += row(["published, accuracy", "", "", "", "", "", "75.5 %", ""])
    for seed, epochs in runs.items():
        best = max(epochs, key=lambda e: e["eval_top1"])
        text += row([f"seed {seed}, accuracy", *(f"{epochs[i - 1]['eval_top1']:.1f} %" for i in shown),
                     f"{best['eval_top1']:.2f} % (epoch {best['epoch']:.0f})"])
        text += row(["training loss", *(f"{epochs[i - 1]['train_loss']:.3f}" for i in shown), ""])
        text += row(["test loss", *(f"{epochs[i - 1]['eval_loss']:.3f}" for i in shown), ""])
    return text


def compact(runs):
    """JSON with a line for each column of each run."""
    columns = {f"{preset}, seed {seed}": {key: [epoch[key] for epoch in epochs]
                                          for key in epochs[0] if key != "epoch"}
               for preset, seeds in runs.items() for seed, epochs in seeds.items()}
    lines = [f' "{run}": {{\n' + ",\n".join(f'  "{key}": {json.dumps(values)}'
                                           for key, values in table.items()) + "}"
             for run, table in columns.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_readme(tables):
    path = ROOT / "README.md"
    text = path.read_text()
    if BEGIN not in text or END not in text.split(BEGIN)[1]:
        sys.exit(f"{path}: found no lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    path.write_text(before + BEGIN + "\n" + "\n".join(tables) + END + rest.split(END, 1)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vitrine", default=ROOT / "build" / "vitrine")
    parser.add_argument("--runs", default=ROOT / "runs" / "published")
    parser.add_argument("--mnist", default="data/mnist", help="directory with MNIST")
    parser.add_argument("--cifar10", default="data", help="directory with CIFAR-10")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=MODELS, help="print this model's table, write nothing")
    args = parser.parse_args()
    presets = [args.only] if args.only else list(MODELS)
    runs = {preset: {seed: finished_run(args, preset, seed) for seed in MODELS[preset][1]}
            for preset in presets}
    make_table = {"mnist-tutorial": tutorial_table, "cifar10-small": cifar_table}
    tables = [make_table[preset](runs[preset]) for preset in presets]
    print("\n".join(tables), end="")
    if not args.only:
        write_readme(tables)
        results = ROOT / "bench" / "results" / "published.json"
        results.write_text(compact(runs))


if __name__ == "__main__":
    main()
