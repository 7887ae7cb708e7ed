#!/usr/bin/env python3
"""Registers, spills and shared memory of every CUDA kernel, from what ptxas said while it compiled.

    tools/kernel_report.py BUILD [--out FILE]

Reads the *.ptxas files that a build with -DVITRINE_CUDA=ON leaves beside its objects and writes one
line per kernel and architecture. Fails when a kernel listed as hot spills registers to memory.
"""
import argparse
import pathlib
import re
import subprocess
import sys

# Kernels in which a spill costs time that we promise not to lose, on architectures from sm_80 on.
HOT = [
    r"short_(forward|backward)_\w+_kernel",  # attention, its three tiers
    r"streaming_\w+_kernel",
    r"tile_\w+_kernel",
    r"layer_norm_\w+_kernel",
    r"activation_\w+_kernel",
    r"residual_\w+_kernel",
    r"tokens_\w+_kernel",
    r"patch_embed_forward_kernel",
    r"cross_entropy_kernel",
    r"column_sum_kernel",
    r"sum_partials_kernel",
    r"gradient_norm_kernel",
    r"adamw_kernel",
]


def read(path):
    """Kernels of one file: dicts of mangled name, architecture and numbers."""
    kernels, current = [], None
    for line in path.read_text().splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(sm_\w+)'", line):
            current = {"name": match[1], "arch": match[2], "source": path.name.split(".")[0],
                       "stack": 0, "spill": 0, "shared": 0, "registers": 0}
            kernels.append(current)
        elif current is None:
            continue
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, "
                                r"(\d+) bytes spill loads", line):
            current["stack"] = int(match[1])
            current["spill"] = int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            current["registers"] = int(match[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                current["shared"] = int(shared[1])
    return kernels


def readable(names):
    """Demangled, without namespaces, parameters and the spelling of integer template arguments."""
    filtered = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                              check=True).stdout.splitlines()
    short = []
    for name in filtered:
        name = re.sub(r"vitrine::cuda::|\(anonymous namespace\)::|_GLOBAL__N__\w+::", "", name)
        name = re.sub(r"^void ", "", name)
        name = re.sub(r"\((?:int|bool|unsigned int|long)\)(-?\d+)", r"\1", name)
        name = name.replace("__nv_bfloat16", "bf16").replace("__half", "f16")
        depth = 0
        for i, letter in enumerate(name):  # cut the parameter list
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0:
                name = name[:i]
                break
        short.append(name)
    return short


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="default: BUILD/kernel_report.txt")
    arguments = parser.parse_args()
    kernels = [k for path in sorted(arguments.build.rglob("*.ptxas")) for k in read(path)]
    if not kernels:
        sys.exit(f"{arguments.build}: no *.ptxas files, expected those of a build with "
                 "-DVITRINE_CUDA=ON")
    for kernel, name in zip(kernels, readable([k["name"] for k in kernels])):
        kernel["name"] = name
    kernels.sort(key=lambda k: (k["arch"], k["source"], k["name"]))

    lines = ["arch   registers  spill  stack  shared  kernel"]
    bad = []
    for k in kernels:
        hot = any(re.match(pattern, k["name"]) for pattern in HOT)
        if hot and k["spill"] > 0:
            bad.append(k)
        lines.append(f"{k['arch']:6} {k['registers']:9} {k['spill']:6} {k['stack']:6} "
                     f"{k['shared']:7}  {'*' if hot else ' '} {k['name']}")
    lines.append("* hot: must not spill. Shared memory is the static part, in bytes.")
    out = arguments.out or arguments.build / "kernel_report.txt"
    out.write_text("\n".join(lines) + "\n")
    hot_count = sum(line.find("  * ") > 0 for line in lines)
    print(f"{len(kernels)} kernels, {hot_count} of them hot, "
          f"{sum(k['spill'] > 0 for k in kernels)} spill; report in {out}")
    for k in bad:
        print(f"{k['arch']}: {k['name']} spills {k['spill']} bytes, expected 0", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
