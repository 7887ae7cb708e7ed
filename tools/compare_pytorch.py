#!/usr/bin/env python3
"""Training steps of PyTorch and Vitrine, side by side on the same cores or the same GPU.

  tools/compare_pytorch.py --threads 2 --json result.json
  tools/compare_pytorch.py --device cuda --json result.json

A step is: clear gradients, forward, loss, backward, optimizer step, on float images that are
already in memory. Vitrine's does more: it gathers, crops and normalises the images from bytes,
takes the norm of all gradients and clips them where the preset says so. PyTorch (pytorch_steps.py)
is written as fast as we know how: fused Adam or AdamW, gradients set to None, patches by one matmul
or by a channels-last convolution, q, k and v by one matmul (per-head maps laid out
block-diagonally), attention by PyTorch's choice of kernel, by cuDNN's or by batched matmuls; GELU
in the form that compiles best; memory kept by the allocator between steps; eager, compiled,
max-autotuned, forward and backward compiled as one; on CUDA bf16 autocast, TF32 where fp32 is left,
the whole step as one CUDA graph, timm's models where timm is installed. On the CPU all is fp32, as
Vitrine is there.

Every variant is first held against the model of reference_model.py, then timed. The fastest eager
one, the fastest compiled one, and the fastest of all with the last block's unread tokens left out
by hand ("pruned": Vitrine's passes do that by themselves) are then timed in turn with Vitrine,
bound to the same cores, one a core. Alone, a variant's time is the median of its steps and the
spread their middle half. In turn, both sides work --seconds a round; a round's time is PyTorch's
median step (on CUDA: of ten steps, with the GPU waited for after the tenth) and Vitrine's mean
step, slow steps and all; what is kept of either side is the median, the fastest and the slowest of
its rounds. A ratio is PyTorch's median over Vitrine's.

Needs torch (1.13 or newer; for CUDA 2.4) and numpy; torch.compile also needs torch 2 and a C++
compiler. Without the Vitrine binary only PyTorch is measured.
"""

import argparse
import importlib.util
import json
import os
import re
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmark_json import SECONDS, parse_name, split_name
from pytorch_machine import bind, describe, environment, gpu_state, one_cpu_a_core

BATCHES = {  # by device; the first of a model's benchmarks in the Vitrine binary goes before
    "cpu": {"mnist-tutorial": 128, "mnist-small": 128, "cifar10-small": 256, "notes-encoder": 256,
            "d2l-224": 8, "vit_tiny_patch16_224": 8},
    "cuda": {"vit_base_patch16_224": 256, "cifar10-small": 256, "vit_tiny_patch16_224": 256,
             "vit_small_patch16_224": 256, "vit_large_patch16_224": 128, "mnist-tutorial": 128,
             "mnist-small": 128, "notes-encoder": 256, "d2l-224": 128}}
MODES = {"eager": "eager", "compile": "compiled", "autotune": "compiled", "joint": "compiled",
         "graph": "compiled"}
ATTENTIONS = ("sdpa", "cudnn", "bmm", "timm")
DEFAULT_VARIANTS = {  # compiling takes time: those that may be the fastest of a model
    "cpu": ("eager-sdpa", "eager-bmm", "eager-bmm-conv", "compile-sdpa", "compile-bmm",
            "autotune-bmm", "joint-sdpa-gelu", "joint-bmm-gelu"),
    "cuda": ("eager-sdpa", "eager-cudnn", "eager-timm", "autotune-sdpa", "autotune-cudnn",
             "autotune-sdpa-conv", "graph-sdpa")}
BENCHMARK = {"cpu": "train_step/{}", "cuda": "train_step/{}/cuda/bf16"}
RESTART_SECONDS = 30  # of what has been compiled once
WORKER = Path(__file__).with_name("pytorch_steps.py")

# ---------------------------------------------------------------------------------------------
# The two sides, as the comparison sees them

class PyTorch:
    """A process of pytorch_steps.py.

    `measure` returns the milliseconds of the steps done in `seconds`.
    """

    def __init__(self, name, batch, variant, args, deadline):
        limit = min(args.start_limit, deadline - time.monotonic())
        if limit <= 0:
            raise RuntimeError("not begun: time limit")
        command = [sys.executable, WORKER, name, str(batch), variant, str(args.threads),
                   args.device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment(args.threads))
        self.answer(limit)

    def answer(self, seconds):
        readable, _, _ = select.select([self.process.stdout], [], [], seconds)
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
        with self.process:  # closes its ends of the pipes and waits
            self.process.stdin.close()


def vitrine(args, *flags):
    """What the benchmarks print."""
    command = [args.vitrine, *flags]
    settings = dict(VITRINE_DEVICE=args.device, VITRINE_THREADS=str(args.threads))
    if args.tune:
        settings["VITRINE_TUNE"] = args.tune
    if args.batch_size:
        settings["VITRINE_BENCH_BATCH"] = str(args.batch_size)
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout


def vitrine_benchmarks(args):
    """{model: its batches} that the binary can measure."""
    found = {}
    for line in vitrine(args, "--benchmark_list_tests").split():
        name, peer = split_name(line)
        for model in BATCHES[args.device]:
            if not peer and re.fullmatch(re.escape(BENCHMARK[args.device].format(model)) +
                                         r"/B:\d+", name):
                found.setdefault(model, []).append(parse_name(name)[1]["B"])
    return found


def run_vitrine(name, batch, args):
    """(milliseconds of a step, steps) of a round."""
    wanted = f"{BENCHMARK[args.device].format(name)}/B:{batch}"
    text = vitrine(args, f"--benchmark_filter=^{wanted}(/real_time|/manual_time)?$",
                   f"--benchmark_min_time={args.seconds}", "--benchmark_format=json")
    entries = json.loads(text)["benchmarks"] if text.strip() else []
    entries = [e for e in entries if e.get("run_type") != "aggregate"]
    errors = [entry["error_message"] for entry in entries if entry.get("error_occurred")]
    if errors or not entries:
        raise RuntimeError(f"{wanted}: {errors[0] if errors else 'no such benchmark'}")
    return (statistics.mean(e["real_time"] * SECONDS[e["time_unit"]] * 1e3 for e in entries),
            sum(e["iterations"] for e in entries))


# ---------------------------------------------------------------------------------------------
# The comparison

def available(name, variant):
    """Variants with timm's models need them."""
    return "-timm" not in variant or (name.startswith("vit_") and
                                      importlib.util.find_spec("timm") is not None)


def summary(times, batch, steps, spread):
    median = statistics.median(times)
    return dict(median_ms=median, minimum_ms=min(times), spread_ms=spread, steps=steps,
                images_per_second=batch * 1e3 / median)


def middle_half(times):
    first, _, third = statistics.quantiles(times, n=4)
    return [first, third]


def of_rounds(times, batch, steps):
    return dict(summary(times, batch, steps, [min(times), max(times)]), rounds=len(times),
                rounds_ms=times)


def row(title, result, rest=""):
    return (f"  {title:32} median {result['median_ms']:9.3f} ms  minimum "
            f"{result['minimum_ms']:9.3f} ms  {rest or str(result['steps']) + ' steps'}")


def measure_variant(name, batch, variant, args):
    """(result, the worker, ready for more), or (the error, None)"""
    if not available(name, variant):
        print(f"  pytorch {variant:24} not available here")
        return None, None
    try:
        in_turn_seconds = RESTART_SECONDS + 2 * args.rounds * args.seconds
        worker = PyTorch(name, batch, variant, args, args.deadline - in_turn_seconds)
        times = worker.measure(args.seconds)
    except RuntimeError as error:
        print(f"  pytorch {variant:24} {error}", flush=True)
        return dict(error=str(error)), None
    result = summary(times, batch, len(times), middle_half(times))
    print(row(f"pytorch {variant}", result), flush=True)
    return result, worker


def compare_group(group, variants, record, args):
    """The variants one by one; the fastest then in turn with Vitrine, into record["groups"]."""
    name, batch, best, worker = record["model"], record["batch"], None, None
    for variant in variants:
        if worker:
            worker.close()
        result, worker = measure_variant(name, batch, variant, args)
        if result:
            record["variants"][variant] = result
        if worker and (best is None or
                       result["median_ms"] < record["variants"][best]["median_ms"]):
            best, at_hand = variant, worker
    if best is None:
        if any(variant in record["variants"] for variant in variants):
            record["error"] = f"no {group} variant was measured"
        return
    if at_hand is not worker:  # one process at a time: memory
        if worker:
            worker.close()
        worker = PyTorch(name, batch, best, args, args.deadline)
    try:
        sides = in_turn(name, batch, worker, group, args) if have_vitrine(args) else {}
    finally:
        worker.close()
    record["groups"][group] = dict(sides, best=best)


def in_turn(name, batch, pytorch, group, args):
    """Rounds of both sides, and their ratio."""
    ours, theirs, our_steps, their_steps = [], [], 0, 0
    for _ in range(args.rounds):
        times = pytorch.measure(args.seconds)
        theirs.append(statistics.median(times))
        their_steps += len(times)
        milliseconds, steps = run_vitrine(name, batch, args)
        ours.append(milliseconds)
        our_steps += steps
    ratios = [their / our for their, our in zip(theirs, ours)]
    sides = dict(pytorch=of_rounds(theirs, batch, their_steps),
                 vitrine=of_rounds(ours, batch, our_steps))
    ratio = sides["pytorch"]["median_ms"] / sides["vitrine"]["median_ms"]
    for side, result in sides.items():
        print(row(f"in turn: {side}", result, f"{result['images_per_second']:10.0f} images/s"))
    print(f"  vitrine is {ratio:.2f} times as fast as the best {group} PyTorch; "
          f"rounds {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
    return dict(sides, ratio=ratio, ratio_spread=[min(ratios), max(ratios)])


def compare(name, batch, args, keep=lambda record: None):
    """A record, handed to `keep` after each group: what is measured stays whatever comes."""
    record = dict(model=name, batch=batch, threads=args.threads, variants={}, groups={})
    print(f"{name}, batch {batch}", flush=True)
    try:
        for group in ("eager", "compiled", "pruned"):
            if time.monotonic() > args.deadline:
                raise RuntimeError(f"{group} not measured: time limit")
            compare_group(group, variants_of(group, record, args), record, args)
            record.update(record["groups"].get(fastest_group(record), {}))
            keep(record)
    except RuntimeError as error:
        print(f"  {error}", flush=True)
        record["error"] = str(error)
    if args.device == "cuda":
        record["gpu"] = gpu_state()
    if not record["groups"] and "error" not in record:
        record["error"] = "no variant of PyTorch was measured"
        print(f"  {record['error']}")
    keep(record)
    return record


def variants_of(group, record, args):
    if group == "pruned" and not args.variants:
        fastest = fastest_group(record)
        return [record["groups"][fastest]["best"].replace("timm", "sdpa") + "-pruned"] \
            if fastest else []
    return [variant for variant in args.variants or DEFAULT_VARIANTS[args.device]
            if group_of(variant) == group]


def group_of(variant):
    return "pruned" if variant.endswith("-pruned") else MODES[variant.split("-")[0]]


def fastest_group(record):
    """Of eager and compiled, or pruned where that alone was asked for."""
    def median(group):  # without Vitrine nothing was measured in turn
        entry = record["groups"][group]
        return entry.get("pytorch", record["variants"][entry["best"]])["median_ms"]
    plain = [group for group in record["groups"] if group != "pruned"]
    return min(plain or list(record["groups"]), key=median, default=None)


def have_vitrine(args):
    return Path(args.vitrine).exists()


def variant_name(text):
    mode, _, rest = text.partition("-")
    attention, *extras = rest.split("-")
    in_order = [extra for extra in ("conv", "gelu", "pruned") if extra in extras]
    if (mode not in MODES or attention not in ATTENTIONS or in_order != extras or
            (attention == "timm" and extras)):
        raise argparse.ArgumentTypeError(
            f"found {text}, expected MODE-ATTENTION[-conv][-gelu][-pruned] with "
            f"{'|'.join(MODES)} and {'|'.join(ATTENTIONS)}")
    return text


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(one_cpu_a_core(os.sched_getaffinity(0)))
    models = sorted({name for batches in BATCHES.values() for name in batches})
    parser.add_argument("--device", choices=BATCHES, default="cpu")
    parser.add_argument("--threads", type=int, default=cores, help=f"default: {cores}, all cores")
    parser.add_argument("--models", nargs="+", choices=models, metavar="MODEL",
                        help=f"of {', '.join(models)}; default: all that Vitrine measures")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: by model")
    parser.add_argument("--variants", nargs="+", type=variant_name, metavar="VARIANT",
                        help="see pytorch_steps.py; default: those worth trying on the device")
    parser.add_argument("--rounds", type=int, default=5, help="of PyTorch and Vitrine in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side's steps a round")
    parser.add_argument("--start-limit", type=float, default=400,
                        help="seconds for a variant to compile and warm up; default: %(default)s")
    parser.add_argument("--time-limit", type=float, default=float("inf"),
                        help="seconds after which nothing else is begun")
    parser.add_argument("--vitrine", default="build/train_step_bench",
                        help="default: %(default)s")
    parser.add_argument("--tune", help="Vitrine's file of matmul algorithms")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    args.deadline = time.monotonic() + args.time_limit
    unknown = [name for name in args.models or [] if name not in BATCHES[args.device]]
    if unknown:
        parser.error(f"--models: {unknown[0]} is not measured on {args.device}")
    return args


def models_and_batches(args):
    """What is measured: without --models only what the Vitrine binary measures too."""
    if not have_vitrine(args):
        print(f"{args.vitrine} is absent: PyTorch alone is measured")
        return [(name, args.batch_size or BATCHES[args.device][name])
                for name in args.models or BATCHES[args.device]]
    listed = vitrine_benchmarks(args)
    names = args.models or [name for name in BATCHES[args.device] if name in listed]
    return [(name, args.batch_size or listed.get(name, [BATCHES[args.device][name]])[0])
            for name in names]


def main():
    args = parse_arguments()
    if args.device == "cuda":
        import torch
        if not torch.cuda.is_available():
            sys.exit("--device cuda: PyTorch sees no GPU")
    bind(args.threads)
    about, results = describe(args.device, args.threads), []
    print(", ".join(f"{key} {value}" for key, value in about.items()))

    def keep(record):
        if args.json:
            text = json.dumps(dict(about=about, results=[*results, record]), indent=1)
            Path(args.json).write_text(text + "\n")

    for name, batch in models_and_batches(args):
        results.append(compare(name, batch, args, keep))
    if any("error" in record for record in results):
        sys.exit("not everything was measured, see above")


if __name__ == "__main__":
    main()
