#!/usr/bin/env python3
"""PyTorch's own kernels at the shapes of Vitrine's kernel benchmarks.

  build/attention_bench --benchmark_out=ours.json --benchmark_out_format=json
  tools/compare_kernels.py ours.json --json peers.json
  tools/bench_table.py ours.json peers.json --picture roof.svg

Reads the shapes from the names, for example
attention_forward/B:64/T:197/Tq:197/H:12/d:64/bf16, the device and its threads from the file's
context, and measures there what PyTorch offers for the same work (pytorch_kernels.py,
pytorch_products.py): the back ends of scaled_dot_product_attention,
layer_norm, GELU, linear, cross_entropy, fused AdamW, …, eager and compiled. What has no peer is
listed with the reason.

A peer is verified before it is timed: its error against the formula in float64 is at most twice
that of the formula in the benchmark's own type, plus that type's precision and that of fp32 sums.
On CUDA time is that of events around one call, the L2 cache flushed before; the flush lasts longer
than the host takes to launch the call. On the CPU calls follow one another, by as many threads as
ours; where each of ours ran a call of its own ("side_by_side": the chunks of a batch), by one. A
time is the median of repetitions, each the median of its samples; the spread is the fastest and
the slowest repetition.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
import warnings
from pathlib import Path

from benchmark_json import BadInput, context_of, fail, parse_name, read_measurements
from pytorch_machine import describe, environment

REPETITIONS = 5
FLUSH_BYTES = 1 << 30  # more than any L2, and about 0.3 ms of work that hides the host's


# ---------------------------------------------------------------------------------------------
# Verified

def as_list(outputs):
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def errors(outputs, exact):
    """Of each output, relative to its norm; of one that is zero, to that of the largest."""
    norms = [truth.norm().item() for truth in as_list(exact)]
    largest = max(max(norms), 1e-30)
    return [(found.double() - truth).norm().item() / (norm if norm > 1e-10 * largest else largest)
            for found, truth, norm in zip(as_list(outputs), as_list(exact), norms, strict=True)]


def wrong(outputs, work, dtype):
    """Why the outputs are not those of the work; None when they are."""
    import torch
    wide = [x.double() if x.is_floating_point() else x for x in work.inputs]
    exact = as_list(work.formula(*wide))
    naive = errors(work.formula(*work.inputs), exact)
    most = max(x.numel() for x in work.inputs)
    for i, error in enumerate(errors(outputs, exact)):
        terms = max(1, most / exact[i].numel())  # that a sum may have, one after another in fp32
        allowed = (2 * naive[i] + torch.finfo(dtype).eps +
                   terms ** 0.5 * torch.finfo(torch.float32).eps)
        if not error <= allowed:
            return f"output {i} is wrong by {error:.1e}, allowed is {allowed:.1e}"
    return None


# ---------------------------------------------------------------------------------------------
# Timed

def cpu_repetition(run, seconds):
    """(seconds of a call, calls)"""
    start = time.perf_counter()
    run()
    block = max(1, int(1e-3 / max(time.perf_counter() - start, 1e-7)))  # a millisecond of calls
    samples, deadline = [], time.perf_counter() + seconds
    while not samples or time.perf_counter() < deadline:
        start = time.perf_counter()
        for _ in range(block):
            run()
        samples.append((time.perf_counter() - start) / block)
    return statistics.median(samples), block * len(samples)


def cuda_repetition(run, seconds):
    import torch
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    samples, deadline = [], time.perf_counter() + seconds
    while not samples or time.perf_counter() < deadline:
        events = []
        for _ in range(10):
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            flush.zero_()
            pair[0].record()
            run()
            pair[1].record()
            events.append(pair)
        torch.cuda.synchronize()
        samples += [start.elapsed_time(end) / 1e3 for start, end in events]
    return statistics.median(samples), len(samples)


def measure(run, device, seconds):
    repetition = cuda_repetition if device == "cuda" else cpu_repetition
    repetition(run, 0.0)  # warm
    results = [repetition(run, seconds / REPETITIONS) for _ in range(REPETITIONS)]
    times = [seconds * 1e9 for seconds, _ in results]
    return dict(real_time=statistics.median(times), time_unit="ns", spread=[min(times), max(times)],
                iterations=sum(calls for _, calls in results))


# ---------------------------------------------------------------------------------------------
# One benchmark

def set_type(case_words):
    import torch
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in case_words


def peers_of(one, device, args, skipped):
    """Entries of Google Benchmark's kind, one a peer."""
    import torch
    import pytorch_kernels, pytorch_products  # noqa: F401, E401: they fill the catalogue
    from pytorch_work import TYPES, NoPeer, work_of
    operation, keys, words = parse_name(one.name)
    set_type(words)
    threads = threads_of_a_call(one, args.threads)
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    try:
        work = work_of(operation, keys, words, device, compiling=not args.no_compile)
    except NoPeer as error:
        skipped.append(dict(name=one.name, reason=str(error)))
        return []
    dtype = next((TYPES[word] for word in words if word in TYPES), torch.float32)
    entries = []
    for peer, run in work.peers.items():
        try:
            with torch.no_grad():
                problem = wrong(work.part(run()), work, dtype)
                result = None if problem else measure(run, device, args.seconds)
        except (RuntimeError, torch.OutOfMemoryError) as error:  # no kernel for it, no memory
            skipped.append(dict(name=one.name, peer=peer, reason=str(error).splitlines()[0]))
            continue
        entry = dict(name=one.name, run_name=one.name, run_type="iteration", peer=peer,
                     threads_of_a_call=threads)
        entry.update(result or dict(error_occurred=True, error_message=problem))
        entries.append(entry)
        print(f"  {peer:40} " + (problem or f"{result['real_time'] / 1e3:12.2f} µs" +
              (f"  {result['real_time'] / 1e9 / one.time:6.2f} times ours" if one.time else "")),
              flush=True)
    return entries


def threads_of_a_call(one, threads):
    return threads if one.side_by_side == 1 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", metavar="OURS.json", help="of Google Benchmark")
    parser.add_argument("--json", metavar="FILE", help="results, like Google Benchmark's")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only these names")
    parser.add_argument("--threads", type=int,
                        help="of a call on the CPU; default: as many as ours had")
    parser.add_argument("--seconds", type=float, default=0.5, help="a peer; default: %(default)s")
    parser.add_argument("--no-compile", action="store_true", help="eager PyTorch alone: quick")
    args = parser.parse_args()
    try:
        ours = [one for one in read_measurements(args.ours).values()
                if one.peer is None and re.search(args.filter, one.name)]
        if not ours:
            raise BadInput(f"{args.ours}: no benchmark matches")
        device, threads = context_of(args.ours)
        args.threads = args.threads or threads
    except (BadInput, re.error) as error:
        fail(error)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # read by the C library before Python starts
        os.execve(sys.executable, [sys.executable, *sys.argv],
                  environment(len(os.sched_getaffinity(0))))
    warnings.simplefilter("ignore")  # of back ends that say at length why they cannot
    compare(ours, device, args)


def compare(ours, device, args):
    import torch
    if device == "cuda" and not torch.cuda.is_available():
        fail(f"{args.ours}: measured on a GPU, PyTorch sees none")
    context, benchmarks, skipped = describe(device, args.threads), [], []
    for one in ours:
        print(one.name, flush=True)
        benchmarks += peers_of(one, device, args, skipped)
        if args.json:
            text = json.dumps(dict(context=context, benchmarks=benchmarks, without_peer=skipped),
                              indent=1)
            Path(args.json).write_text(text + "\n")
    if skipped:
        print("\nWithout a peer:")
    for entry in skipped:
        print(f"  {entry['name']}" + (f", {entry['peer']}" if "peer" in entry else "") +
              f": {entry['reason']}")
    if any(entry.get("error_occurred") for entry in benchmarks):
        sys.exit("a peer's results are wrong, see above")


if __name__ == "__main__":
    main()
