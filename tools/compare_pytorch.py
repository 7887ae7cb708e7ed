#!/usr/bin/env python3
"""Training throughput of PyTorch and Vitrine, side by side on the same cores.

  tools/compare_pytorch.py --threads 2 --json result.json

A step is: clear gradients, forward, loss, backward, optimizer step, on float images that are
already in memory. PyTorch is written as fast as we know how: patches by one matmul, q, k and v by
one matmul (per-head maps laid out block-diagonally), attention by scaled_dot_product_attention or
by batched matmuls, fused Adam, eager or compiled, memory kept by the allocator between steps. Every
variant is first held against the model of reference_model.py, then timed; the fastest one is then
timed in turn with Vitrine. Both are bound to the same cores. Times are medians and minima of steps
(Vitrine: of the rounds' results, as its benchmark reports them).

Needs torch (1.13 or newer) and numpy; torch.compile also needs torch 2 and a C++ compiler. Without
the Vitrine binary only PyTorch is measured.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODELS = {"mnist-tutorial": 128, "cifar10-small": 256, "vit_tiny_patch16_224": 8}  # batch sizes
LEARNING_RATES = {"mnist-tutorial": 5e-3, "cifar10-small": 1e-2, "vit_tiny_patch16_224": 1e-3}
VARIANTS = ("eager-sdpa", "eager-bmm", "compile-sdpa", "compile-bmm")
WARM_UP_SECONDS = 1.0
VITRINE_COMMAND = ("build/train_step_bench --benchmark_filter=train_step/{model}/B:{batch} "
                   "--benchmark_format=json")
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}

# ---------------------------------------------------------------------------------------------
# The worker: one process that holds one variant of one model, and times steps when asked to


def fast_model(config, attention, seed=0):
    """reference_model.ViT with the same parameters and faster arithmetic."""
    import torch
    import torch.nn.functional as F
    import reference_model

    def patch_embed(module, images):  # [B,C,height,width] -> [B,P,D]
        p = config["patch_size"]
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // p, p, width // p, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)
        return F.linear(patches, module.proj.weight.flatten(1), module.proj.bias)

    def per_head(module, x):  # one [3D,D] matrix with the heads' maps on its diagonal
        _, heads, size, _ = module.weight.shape
        eye = torch.eye(heads, dtype=x.dtype, device=x.device)[:, None, :, None]
        matrix = (module.weight[:, :, :, None, :] * eye).reshape(3 * heads * size, heads * size)
        return F.linear(x, matrix, module.bias.flatten())

    def sdpa(module, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def bmm(module, q, k, v):
        return torch.softmax((q * module.head_size ** -0.5) @ k.transpose(2, 3), dim=-1) @ v

    torch.manual_seed(seed)
    model = reference_model.ViT(config)
    model.patch_embed.forward = patch_embed.__get__(model.patch_embed)
    for block in model.blocks:
        block.attn.attend = {"sdpa": sdpa, "bmm": bmm}[attention].__get__(block.attn)
        if config["qkv_layout"] == "per_head":
            block.attn.qkv.forward = per_head.__get__(block.attn.qkv)
    return model


def verify(config, model):
    """Loss and gradients against the reference model; an error of 1e-4 ends the comparison."""
    import numpy as np
    import torch
    from pytorch_reference import random_batch, random_weights
    from reference_model import ViT, loss_of

    rng = np.random.default_rng(1)
    weights = {n: torch.from_numpy(w) for n, w in random_weights(model, rng).items()}
    batch = {n: torch.from_numpy(a) for n, a in random_batch(config, 3, rng).items()}
    initial = {n: value.clone() for n, value in model.state_dict().items()}
    gradients = []
    for module in (ViT(config), model):
        module.load_state_dict(weights)
        loss_of(config, module(batch["images"]), batch["labels"]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
        module.zero_grad(set_to_none=True)
    model.load_state_dict(initial)
    error = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    if not error < 1e-4:
        sys.exit(f"gradients differ from the reference model by {error:.1e}")


def make_step(name, batch, variant):
    """A function that does one training step and returns the loss."""
    import torch
    from reference_model import PRESETS, complete_config, image_sides, loss_of

    mode, attention = variant.split("-")
    config = complete_config(PRESETS[name])
    model = fast_model(config, attention)
    for parameter in model.parameters():
        if parameter.ndim > 2:  # class token, positions, patch and per-head maps
            torch.nn.init.normal_(parameter, std=0.1)
    verify(config, model)
    images = torch.rand(batch, config["num_channels"], *image_sides(config))
    labels = torch.randint(config["num_classes"], (batch,))
    adam = torch.optim.Adam if name == "mnist-tutorial" else torch.optim.AdamW
    try:
        optimizer = adam(model.parameters(), lr=LEARNING_RATES[name], fused=True)
    except (TypeError, RuntimeError):  # before torch 2.4 fused is for CUDA only
        optimizer = adam(model.parameters(), lr=LEARNING_RATES[name], foreach=True)

    def forward(images, labels):
        return loss_of(config, model(images), labels)

    if mode == "compile":
        forward = torch.compile(forward)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = forward(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def worker(name, batch, variant, threads):
    """Answers each line "seconds" on stdin with a JSON list of the milliseconds of its steps."""
    import torch
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    step = make_step(name, batch, variant)
    step()
    deadline = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < deadline:
        step()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        times, deadline = [], time.perf_counter() + float(line)
        while time.perf_counter() < deadline or len(times) < 3:
            start = time.perf_counter()
            step()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(times), flush=True)


# ---------------------------------------------------------------------------------------------
# The two sides, as the comparison sees them

class PyTorch:
    """A worker process. `measure` returns the milliseconds of the steps done in `seconds`."""

    def __init__(self, name, batch, variant, threads):
        command = [sys.executable, __file__, "--worker", name, str(batch), variant, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment(threads))
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("the PyTorch worker ended")
        return json.loads(line)

    def measure(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run_vitrine(template, name, batch, threads):
    """Milliseconds of a step, one number a repetition, from Google Benchmark's JSON."""
    command = shlex.split(template.format(model=name, batch=batch, threads=threads))
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {result.stderr.strip()}")
    times = [entry["real_time"] * MILLISECONDS[entry["time_unit"]]
             for entry in json.loads(result.stdout)["benchmarks"]
             if entry.get("run_type") != "aggregate"
             and re.search(rf"\btrain_step/{re.escape(name)}/B:{batch}\b", entry["name"])]
    if not times:
        sys.exit(f"{' '.join(command)}: no benchmark train_step/{name}/B:{batch} in its output")
    return times


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

def available(variant):
    import torch
    mode, attention = variant.split("-")
    return ((mode == "eager" or hasattr(torch, "compile")) and
            (attention == "bmm" or hasattr(torch.nn.functional, "scaled_dot_product_attention")))


def summary(times, batch):
    median = statistics.median(times)
    return dict(median_ms=median, minimum_ms=min(times), steps=len(times),
                images_per_second=batch * 1e3 / median)


def fastest_variant(name, batch, args):
    """(worker of the fastest variant, results of all)"""
    best, results = None, {}
    for variant in args.variants:
        if not available(variant):
            print(f"  pytorch {variant:13} not available with this torch")
            continue
        try:
            candidate = PyTorch(name, batch, variant, args.threads)
        except RuntimeError:
            print(f"  pytorch {variant:13} failed, see above")
            continue
        result = results[variant] = summary(candidate.measure(args.seconds), batch)
        print(f"  pytorch {variant:13} median {result['median_ms']:9.3f} ms  "
              f"minimum {result['minimum_ms']:9.3f} ms  {result['steps']} steps", flush=True)
        if best is None or result["median_ms"] < results[best[0]]["median_ms"]:
            if best:
                best[1].close()
            best = (variant, candidate)
        else:
            candidate.close()
    if best is None:
        sys.exit("no variant of PyTorch runs here")
    return (*best, results)


def compare(name, batch, args):
    print(f"{name}, batch {batch}, {args.threads} threads", flush=True)
    variant, pytorch, results = fastest_variant(name, batch, args)
    record = dict(model=name, batch=batch, threads=args.threads, variants=results, best=variant)
    if have_vitrine(args):
        ours, theirs = [], []
        for _ in range(args.rounds):
            theirs += pytorch.measure(args.seconds)
            ours += run_vitrine(args.vitrine_command, name, batch, args.threads)
        record["pytorch"], record["vitrine"] = summary(theirs, batch), summary(ours, batch)
        record["ratio"] = record["pytorch"]["median_ms"] / record["vitrine"]["median_ms"]
        for side in ("pytorch", "vitrine"):
            print(f"  in turn: {side:13} median {record[side]['median_ms']:9.3f} ms  minimum "
                  f"{record[side]['minimum_ms']:9.3f} ms  "
                  f"{record[side]['images_per_second']:10.0f} images/s")
        print(f"  vitrine is {record['ratio']:.2f} times as fast as pytorch {variant}", flush=True)
    pytorch.close()
    return record


def have_vitrine(args):
    return Path(shlex.split(args.vitrine_command)[0]).exists()


def describe(args):
    """What the numbers were measured with."""
    import torch
    config = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    return dict(torch=torch.__version__, blas=blas.group(1) if blas else "unknown",
                onednn="".join(re.findall(r"MKL-DNN (v[\d.]+)", config)),
                cpu=processor()[0], cores=sorted(os.sched_getaffinity(0)), threads=args.threads,
                openblas_core_type=openblas_core_type())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help=f"default: {cores}, all cores")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="of PyTorch and Vitrine in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of PyTorch steps a round")
    parser.add_argument("--vitrine-command", default=VITRINE_COMMAND,
                        help="{model}, {batch} and {threads} are filled in; default: %(default)s")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    about = describe(args)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if not have_vitrine(args):
        print(f"{shlex.split(args.vitrine_command)[0]} is absent: PyTorch alone is measured")
    results = [compare(name, MODELS[name], args) for name in args.models]
    if args.json:
        Path(args.json).write_text(json.dumps(dict(about=about, results=results), indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        model_name, batch_size, variant_name, num_threads = sys.argv[2:]
        worker(model_name, int(batch_size), variant_name, int(num_threads))
    else:
        main()
