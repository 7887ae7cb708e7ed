"""Parts of tools/gpu_check.sh: bench, kernels."""

import json
import time

from gpu_check_part import BUILD, NotRun, benches, require_device


# ---------------------------------------------------------------------------------------------
# Whole training steps

def bench(part):
    require_device(part)
    program = BUILD / "train_step_bench"
    if not program.exists():
        raise NotRun(f"no {program} (Google Benchmark was absent, or nothing is built)")
    listed = part.run([program, "--benchmark_list_tests"], 60, VITRINE_DEVICE="cuda")
    names = [line for line in listed.out.split() if line.startswith("train_step/")]
    if part.quick:
        names = [name for name in names if "mnist-tutorial/cuda/fp32" in name]
    if not names:
        part.fail(f"no benchmark: {listed.last_words()}")
    for name in names:  # each in a process of its own: a fault takes no other along
        file = part.scratch / "bench.json"
        file.unlink(missing_ok=True)
        result = part.run([program, f"--benchmark_filter=^{name}$", f"--benchmark_out={file}",
                           f"--benchmark_min_time={0.001 if part.quick else 2}"], 90,
                          VITRINE_DEVICE="cuda", VITRINE_TUNE=str(part.scratch / "tune.json"))
        report_benchmark(part, name, result, file)


def report_benchmark(part, name, result, file):
    ended = result.status in (0, 1) and file.exists()
    entries = json.loads(file.read_text())["benchmarks"] if ended else []
    short = name.removeprefix("train_step/").removesuffix("/real_time")
    if len(entries) != 1:
        return part.fail(f"{short}: {result.last_words()}")
    entry = entries[0]
    if entry.get("error_occurred"):
        return part.fail(f"{short}: {entry['error_message']}")
    part.figures[short] = {key: entry[key] for key in (
        "real_time", "time_unit", "iterations", "items_per_second", "FLOP/s", "planned_bytes",
        "label")}
    part.remark(f"{short}: {entry['real_time']:.3f} {entry['time_unit']}, "
                f"{entry['items_per_second']:,.0f} images/s, {entry['FLOP/s'] / 1e12:.1f} TFLOP/s")


# ---------------------------------------------------------------------------------------------
# Kernels

def kernels(part):
    """Every program once; its JSON goes to OUT/kernels, as tools that compare read it."""
    require_device(part)
    programs = [program for program in benches() if program.name != "train_step_bench"]
    if not programs:
        raise NotRun(f"no benchmark in {BUILD} (Google Benchmark was absent, or nothing is built)")
    results = part.json_file.parent / "kernels"
    results.mkdir(exist_ok=True)
    quick = dict(VITRINE_BENCH_QUICK="1") if part.quick else {}
    for i, program in enumerate(programs):
        file = results / f"{program.name}.json"
        file.unlink(missing_ok=True)
        left = part.deadline - time.monotonic()
        result = part.run([program, "--benchmark_min_time=0.05", f"--benchmark_out={file}"],
                          min(left, 3 * left / (len(programs) - i)), VITRINE_DEVICE="cuda",
                          VITRINE_TUNE=str(part.scratch / "tune.json"), **quick)
        report_kernels(part, program.name, result, file)


def report_kernels(part, name, result, file):
    """Exit status 1 says that a benchmark was wrong or could not run: which, is in the file."""
    if result.status not in (0, 1) or not file.exists():
        file.unlink(missing_ok=True)  # half a file
        if result.status is not None:
            return part.fail(f"{name}: {result.last_words()}")
        part.incomplete = True
        return part.remark(f"{name}: time ran out")
    entries = json.loads(file.read_text())["benchmarks"]
    wrong = [entry for entry in entries if entry.get("error_occurred")]
    for entry in wrong:
        part.fail(f"{entry['name']}: {entry['error_message']}")
    if result.status == 1 and not wrong:
        return part.fail(f"{name}: {result.last_words()}")
    reached = {entry["name"].removesuffix("/manual_time"): round(entry["roof"], 1)
               for entry in entries if "roof" in entry and "/peer:" not in entry["name"]}
    part.figures[name] = dict(benchmarks=len(entries), seconds=round(result.seconds, 1),
                              percent_of_roof=reached)
    part.remark(f"{name}: {len(entries)} benchmarks, {len(wrong)} wrong, {result.seconds:.0f} s")
