"""Parts of tools/gpu_check.sh: bench, profile, kernels."""

import json
import math
import statistics
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
# Profiles

PROFILES = {"mnist-tutorial": "fp32", "cifar10-small": "bf16", "vit_base_patch16_224": "bf16"}
STEP_FIGURES = ("operation_seconds", "rest_seconds", "timed_step_seconds", "overhead_seconds",
                "overhead_noise_seconds", "floor_seconds", "images_per_second", "plain_seconds",
                "by_operation", "roof")


def profile(part):
    """Recorded steps and steps launch by launch: the same operations, and times that add up."""
    require_device(part)
    for preset in list(PROFILES)[:1] if part.quick else PROFILES:
        recorded = profile_of(part, preset)
        launched = profile_of(part, preset, "--no-cuda-graph")
        if recorded and launched and calls(recorded) != calls(launched):
            part.fail(f"{preset}: operations recorded {calls(recorded)}, "
                      f"launch by launch {calls(launched)}")
    result = part.run([*profile_command(part, next(iter(PROFILES))), "--capture"], 120)
    if result.status != 0:
        part.fail(f"--capture: {result.last_words()}")


def profile_command(part, preset):
    steps = []
    if part.quick:
        steps = ["--steps", 3, "--warm-up", 3, "--batch-size", 8, "--quick-roof"]
    return [BUILD / "vitrine", "profile", "--json", "--device", "cuda", "--preset", preset,
            "--precision", PROFILES[preset], "--tune", part.scratch / "tune.json", *steps]


def profile_of(part, preset, *flags):
    """What the program prints, checked; None without it."""
    name = " ".join((preset, PROFILES[preset], *flags))
    result = part.run([*profile_command(part, preset), *flags], 180)
    if result.status != 0:
        return part.fail(f"profile {name}: {result.last_words()}")
    found = json.loads(result.out)
    part.figures[name] = {key: found[key] for key in STEP_FIGURES}
    for reason in faults_of_profile(found, part.quick):
        part.fail(f"profile {name}: {reason}")
    step, rows = found["timed_step_seconds"], found["by_operation"]
    part.remark(f"profile {name}: {len(rows)} operations, {1e3 * step:.3f} ms a step, "
                f"{100 * found['operation_seconds'] / step:.0f} % of it in operations")
    return found


def faults_of_profile(found, quick):
    step, operations = found["timed_step_seconds"], found["operation_seconds"]
    rows, plain = found["by_operation"], statistics.median(found["plain_seconds"])
    if not rows:
        yield "no operation"
    for row in rows:
        if not (row["seconds"] > 0 and row["calls"] > 0):
            yield f"{row['name']}: {row['calls']} calls in {row['seconds']} s"
    if not math.isclose(sum(row["seconds"] for row in rows), operations, rel_tol=1e-6):
        yield f"the rows do not add up to {operations} s of operations"
    if not math.isclose(operations + found["rest_seconds"], step, rel_tol=1e-6):
        yield f"{operations} s of operations and {found['rest_seconds']} s are not {step} s"
    if found["rest_seconds"] < -0.02 * step:  # the clocks of host and GPU differ a little
        yield f"{operations} s of operations in a step of {step} s"
    if not quick and not found["overhead_seconds"] < 0.5 * plain:
        yield f"timing adds {found['overhead_seconds']} s to a step of {plain} s"


def calls(found):
    return {row["name"]: row["calls"] for row in found["by_operation"]}


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


def keep_finished(file):
    """Google Benchmark writes one entry after another: cut behind the last one that is whole."""
    whole, end, _ = (file.read_text() if file.exists() else "").rpartition("\n    }")
    if '"benchmarks": [' in whole:
        file.write_text(whole + end + "\n  ]\n}\n")
    else:
        file.unlink(missing_ok=True)


def report_kernels(part, name, result, file):
    """Exit status 1 says that a benchmark was wrong or could not run: which, is in the file."""
    if result.status not in (0, 1):
        keep_finished(file)
        if result.status is not None:
            part.fail(f"{name}: {result.last_words()}")
        else:
            part.incomplete = True
            part.remark(f"{name}: time ran out")
    if not file.exists():
        return part.fail(f"{name}: {result.last_words()}") if result.status in (0, 1) else None
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
