#!/usr/bin/env python3
"""Training throughput of PyTorch and Vitrine, side by side on the same cores or the same GPU.

  tools/compare_pytorch.py --threads 2 --json result.json
  tools/compare_pytorch.py --device cuda --json result.json

A step is: clear gradients, forward, loss, backward, optimizer step, on float images that are
already in memory. PyTorch (pytorch_steps.py) is written as fast as we know how: patches by one
matmul, q, k and v by one matmul (per-head maps laid out block-diagonally), attention by
scaled_dot_product_attention or by batched matmuls, fused Adam, eager or compiled, memory kept by
the allocator between steps; on CUDA bf16 autocast, torch.compile(mode="max-autotune"), and timm's
models where timm is installed. Every variant is first held against the model of reference_model.py,
in fp32 on the CPU, then timed; the fastest one is then timed in turn with Vitrine. Both are bound
to the same cores. Times are medians and minima of steps (on CUDA: of ten steps, with the GPU waited
for after the tenth; Vitrine: of the rounds' results, as its benchmark reports them).

Needs torch (1.13 or newer; for CUDA 2.4) and numpy; torch.compile also needs torch 2 and a C++
compiler. Without the Vitrine binary only PyTorch is measured.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCHES = {  # by device
    "cpu": {"mnist-tutorial": 128, "cifar10-small": 256, "vit_tiny_patch16_224": 8},
    "cuda": {"vit_base_patch16_224": 256, "cifar10-small": 256, "vit_tiny_patch16_224": 256,
             "vit_small_patch16_224": 256, "vit_large_patch16_224": 128, "mnist-tutorial": 128}}
VARIANTS = ("eager-sdpa", "eager-bmm", "eager-timm", "compile-sdpa", "compile-bmm", "compile-timm")
BENCHMARKS = {"cpu": "train_step/{model}/B:{batch}",
              "cuda": "train_step/{model}/cuda/bf16/B:{batch}"}
WORKER = Path(__file__).with_name("pytorch_steps.py")
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}

# ---------------------------------------------------------------------------------------------
# The two sides, as the comparison sees them

class PyTorch:
    """A process of pytorch_steps.py.

    `measure` returns the milliseconds of the steps done in `seconds`.
    """

    def __init__(self, name, batch, variant, args):
        command = [sys.executable, WORKER, name, str(batch), variant,
                   str(args.threads), args.device, args.compile]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment(args.threads))
        self.answer(min(args.start_limit, args.deadline - time.monotonic()))

    def answer(self, seconds):
        readable, _, _ = select.select([self.process.stdout], [], [], max(0, seconds))
        line = self.process.stdout.readline() if readable else ""
        if not line:
            self.process.kill()
            self.close()
            raise RuntimeError("ended, see above" if readable else f"not done in {seconds:.0f} s")
        return json.loads(line)

    def measure(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self.answer(60 * max(1, seconds))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run_vitrine(name, batch, args):
    """Milliseconds of a step, one number a repetition, from Google Benchmark's JSON."""
    wanted = BENCHMARKS[args.device].format(model=name, batch=batch)
    command = [args.vitrine, f"--benchmark_filter={wanted}", "--benchmark_format=json"]
    settings = dict(VITRINE_DEVICE=args.device, VITRINE_THREADS=str(args.threads))
    if args.tune:
        settings["VITRINE_TUNE"] = args.tune
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    entries = [entry for entry in json.loads(result.stdout)["benchmarks"]
               if entry.get("run_type") != "aggregate"
               and re.search(rf"\b{re.escape(wanted)}\b", entry["name"])]
    errors = [entry["error_message"] for entry in entries if entry.get("error_occurred")]
    if errors or not entries:
        raise RuntimeError(f"{wanted}: {errors[0] if errors else 'no such benchmark'}")
    return [entry["real_time"] * MILLISECONDS[entry["time_unit"]] for entry in entries]


def environment(threads):
    """Bound threads, OpenBLAS told the processor, freed memory kept by the process."""
    settings = dict(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads,
                    OMP_PROC_BIND="true", OMP_PLACES="cores",
                    MALLOC_MMAP_THRESHOLD_=2**32, MALLOC_TRIM_THRESHOLD_=2**34)
    core_type = openblas_core_type()
    if core_type:
        settings["OPENBLAS_CORETYPE"] = core_type
    return {**{name: str(value) for name, value in settings.items()}, **os.environ}


def openblas_core_type():
    """OpenBLAS 0.3.21 takes processors newer than itself for a very old one."""
    flags = processor()[1]
    if "avx512f" in flags:
        return "SkylakeX"
    return "Haswell" if "avx2" in flags else None


def processor():
    """(name, flags) from /proc/cpuinfo."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    flags = re.search(r"flags\s*:\s*(.*)", text)
    return (name.group(1) if name else platform.machine(), flags.group(1).split() if flags else [])


# ---------------------------------------------------------------------------------------------
# The comparison

def available(name, variant):
    import torch
    mode, attention = variant.split("-")
    if mode == "compile" and not hasattr(torch, "compile"):
        return False
    if attention == "timm":
        return name.startswith("vit_") and importlib.util.find_spec("timm") is not None
    return attention == "bmm" or hasattr(torch.nn.functional, "scaled_dot_product_attention")


def default_variants(name, device):
    if device == "cpu":
        return "eager-sdpa", "eager-bmm", "compile-sdpa", "compile-bmm"
    if available(name, "compile-timm"):  # compiling takes minutes: one of two equal networks
        return "eager-sdpa", "eager-timm", "compile-timm"
    return "eager-sdpa", "compile-sdpa"


def summary(times, batch):
    median = statistics.median(times)
    return dict(median_ms=median, minimum_ms=min(times), steps=len(times),
                images_per_second=batch * 1e3 / median)


def fastest_variant(name, batch, args):
    """(name and worker of the fastest variant, results of all)"""
    best, results = (None, None), {}
    for variant in args.variants or default_variants(name, args.device):
        if not available(name, variant):
            print(f"  pytorch {variant:13} not available here")
            continue
        try:
            candidate = PyTorch(name, batch, variant, args)
            result = results[variant] = summary(candidate.measure(args.seconds), batch)
        except RuntimeError as error:
            print(f"  pytorch {variant:13} {error}", flush=True)
            results[variant] = dict(error=str(error))
            continue
        print(f"  pytorch {variant:13} median {result['median_ms']:9.3f} ms  "
              f"minimum {result['minimum_ms']:9.3f} ms  {result['steps']} steps", flush=True)
        if best[0] is None or result["median_ms"] < results[best[0]]["median_ms"]:
            if best[1]:
                best[1].close()
            best = (variant, candidate)
        else:
            candidate.close()
    return (*best, results)


def in_turn(name, batch, pytorch, record, args):
    """Rounds of both sides, and their ratio, into `record`."""
    ours, theirs = [], []
    for _ in range(args.rounds):
        theirs += pytorch.measure(args.seconds)
        ours += run_vitrine(name, batch, args)
    record["pytorch"], record["vitrine"] = summary(theirs, batch), summary(ours, batch)
    record["ratio"] = record["pytorch"]["median_ms"] / record["vitrine"]["median_ms"]
    for side in ("pytorch", "vitrine"):
        print(f"  in turn: {side:13} median {record[side]['median_ms']:9.3f} ms  minimum "
              f"{record[side]['minimum_ms']:9.3f} ms  "
              f"{record[side]['images_per_second']:10.0f} images/s")
    print(f"  vitrine is {record['ratio']:.2f} times as fast as pytorch {record['best']}",
          flush=True)


def compare(name, args):
    batch = BATCHES[args.device][name]
    record = dict(model=name, batch=batch, threads=args.threads)
    if time.monotonic() > args.deadline:
        print(f"{name}: not measured, the time limit is reached")
        return dict(record, error="not measured: time limit")
    print(f"{name}, batch {batch}", flush=True)
    variant, pytorch, results = fastest_variant(name, batch, args)
    record.update(variants=results, best=variant)
    if variant is None:
        print("  no variant of PyTorch runs here")
        return dict(record, error="no variant of PyTorch runs here")
    try:
        if have_vitrine(args):
            in_turn(name, batch, pytorch, record, args)
    except RuntimeError as error:
        print(f"  {error}", flush=True)
        record["error"] = str(error)
    pytorch.close()
    return record


def have_vitrine(args):
    return Path(args.vitrine).exists()


def describe(args):
    """What the numbers were measured with."""
    import torch
    config = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    about = dict(torch=torch.__version__, device=args.device, cpu=processor()[0],
                 cores=sorted(os.sched_getaffinity(0)), threads=args.threads)
    if args.device == "cuda":
        return dict(about, gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda,
                    cudnn=torch.backends.cudnn.version(), precision="bf16", compile=args.compile)
    return dict(about, blas=blas.group(1) if blas else "unknown",
                onednn="".join(re.findall(r"MKL-DNN (v[\d.]+)", config)),
                openblas_core_type=openblas_core_type(), compile=args.compile)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    models = sorted({name for batches in BATCHES.values() for name in batches})
    parser.add_argument("--device", choices=BATCHES, default="cpu")
    parser.add_argument("--threads", type=int, default=cores, help=f"default: {cores}, all cores")
    parser.add_argument("--models", nargs="+", choices=models, help="default: all of the device")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS,
                        help="default: those worth trying on the device")
    parser.add_argument("--compile", choices=("default", "max-autotune"),
                        help="mode of torch.compile; default: max-autotune on cuda")
    parser.add_argument("--rounds", type=int, default=5, help="of PyTorch and Vitrine in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of PyTorch steps a round")
    parser.add_argument("--start-limit", type=float, default=240,
                        help="seconds for a variant to compile and warm up; default: %(default)s")
    parser.add_argument("--time-limit", type=float, default=float("inf"),
                        help="seconds after which no other model is begun")
    parser.add_argument("--vitrine", default="build/train_step_bench",
                        help="default: %(default)s")
    parser.add_argument("--tune", help="Vitrine's file of matmul algorithms")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    args.models = args.models or list(BATCHES[args.device])
    args.compile = args.compile or ("max-autotune" if args.device == "cuda" else "default")
    args.deadline = time.monotonic() + args.time_limit
    unknown = [name for name in args.models if name not in BATCHES[args.device]]
    if unknown:
        parser.error(f"--models: {unknown[0]} is not measured on {args.device}")
    return args


def main():
    args = parse_arguments()
    if args.device == "cuda":
        import torch
        if not torch.cuda.is_available():
            sys.exit("--device cuda: PyTorch sees no GPU")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    about, results = describe(args), []
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if not have_vitrine(args):
        print(f"{args.vitrine} is absent: PyTorch alone is measured")
    for name in args.models:
        results.append(compare(name, args))
        if args.json:  # after each model: what is measured is kept whatever comes
            text = json.dumps(dict(about=about, results=results), indent=2)
            Path(args.json).write_text(text + "\n")
    if any("error" in record for record in results):
        sys.exit("not everything was measured, see above")


if __name__ == "__main__":
    main()
