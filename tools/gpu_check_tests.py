"""Parts of tools/gpu_check.sh: machine, build, pack, test, sanitizer."""

import concurrent.futures
import json
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from gpu_check_part import (ARCHIVE, BUILD, NotRun, benches, cuda_tests, query_gpu,
                            require_device, unpack)
from gpu_check_training import prepare_model, step_command

CARRY = BUILD / "carry"


# ---------------------------------------------------------------------------------------------
# Machine and build

def library_version(names, function):
    """What the first of these libraries that is here says of itself, asked in a process of its
    own; None without any."""
    for name in names:
        code = (f"import ctypes; f = ctypes.CDLL({name!r}).{function}; "
                "f.restype = ctypes.c_size_t; print(f())")
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if result.returncode == 0:
            return int(result.stdout)
    return None


def machine(part):
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    gpu = query_gpu(part)
    part.figures.update(
        gpu=gpu, cpu=cpu.group(1) if cpu else platform.machine(),
        cores=len(os.sched_getaffinity(0)), kernel=platform.release(),
        cublaslt_cuda=library_version(("libcublasLt.so.13", "libcublasLt.so.12"),
                                      "cublasLtGetCudartVersion"),
        cublaslt=library_version(("libcublasLt.so.13", "libcublasLt.so.12"), "cublasLtGetVersion"),
        cudnn=library_version(("libcudnn.so.9",), "cudnnGetVersion"),
        commit=part.run(["git", "rev-parse", "HEAD"], 10).out.strip() or None,
        changed=len(part.run(["git", "status", "--porcelain"], 10).out.splitlines()))
    nvcc = re.search(r"release (.*)", part.run(["nvcc", "--version"], 30).out)
    part.figures["nvcc"] = nvcc.group(1) if nvcc else None
    part.log(json.dumps(part.figures, indent=1))
    if gpu is None:
        raise NotRun("nvidia-smi finds no GPU")
    part.remark(f"{gpu['name']}, driver {gpu['driver_version']}, {gpu['memory.total']}")


def build(part):
    unpack()
    started = part.run([BUILD / "vitrine", "--version"], 60)
    if started.status == 0:
        part.remark(f"taken as they are from {BUILD}")
    else:
        configure_and_build(part, started.last_words())
    part.figures.update(
        tests=[path.name for path in cuda_tests()],
        benches=[path.name for path in benches()],
        bytes=sum(path.stat().st_size for path in BUILD.rglob("*") if path.is_file()))
    if not part.figures["tests"] or not part.figures["benches"]:
        part.incomplete = True
        part.remark("no *_bench" if part.figures["tests"] else "no cuda_*_test")
    part.remark(f"{len(part.figures['tests'])} tests, {len(part.figures['benches'])} benchmarks, "
                f"{part.figures['bytes'] >> 20} MiB")


def configure_and_build(part, why):
    gpu = query_gpu(part)
    if gpu is None:
        raise NotRun(f"no program in {BUILD} that starts ({why}), and no GPU to build for")
    if shutil.which("cmake") is None or shutil.which("nvcc") is None:
        part.fail(f"no program in {BUILD} that starts ({why}), and no cmake or nvcc to build one")
        return
    architecture = gpu["compute_cap"].replace(".", "")
    suffix = "a-real" if architecture == "90" else "-real"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", ".", "-B", BUILD, *generator, "-DVITRINE_CUDA=ON",
                 "-DVITRINE_BENCH=ON", f"-DVITRINE_CUDA_ARCHITECTURES={architecture}{suffix}"]
    configured = part.run([*configure, "-DVITRINE_TESTS=ON"], 120)
    if configured.status != 0:  # without GoogleTest perhaps
        configured = part.run([*configure, "-DVITRINE_TESTS=OFF"], 120)
    if configured.status != 0:
        part.fail(f"cmake: {configured.last_words()}")
        return
    for target in ("vitrine_program", "cuda_tests", "benches"):
        built = part.run(["cmake", "--build", BUILD, "-j", os.cpu_count(), "--target", target])
        if built.status != 0 and "unknown target" not in (built.out + built.err).lower():
            part.fail(f"build of {target}: {built.last_words()}")


SYSTEM_LIBRARIES = re.compile(  # on every machine, or of CUDA
    r"^(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so|ld-linux|linux-vdso|libcu|libnv|libcudnn)")


def pack(part):
    programs = [BUILD / "vitrine", *benches(), *cuda_tests()]
    kinds = {"vitrine": programs[0].exists(), "*_bench": benches(), "cuda_*_test": cuda_tests()}
    absent = [name for name, found in kinds.items() if not found]
    if absent:
        raise NotRun(f"not all is built in {BUILD}: no {', '.join(absent)}")
    libraries = {}
    for program in programs:
        for line in part.run(["ldd", program], 60).out.splitlines():
            name, _, path = line.strip().partition(" => ")
            if path and not SYSTEM_LIBRARIES.match(name):
                libraries[name] = path.split(" (")[0]
    lost = sorted(name for name, path in libraries.items() if "not found" in path)
    if lost:
        return part.fail(f"libraries not found: {', '.join(lost)}")
    CARRY.mkdir(exist_ok=True)
    write_archive(part, programs, libraries)
    size = (CARRY / ARCHIVE).stat().st_size
    part.figures.update(bytes=size, libraries=sorted(libraries), programs=len(programs))
    part.remark(f"{CARRY / ARCHIVE}: {size / 2**20:.1f} MiB, {len(programs)} programs, "
                f"{len(libraries)} libraries")


def write_archive(part, programs, libraries):
    # The tests hold the same kernels: a dictionary as long as some of them finds that.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 4, "dict_size": 1 << 26}]
    with lzma.open(CARRY / ARCHIVE, "wb", filters=filters) as stream, \
            tarfile.open(fileobj=stream, mode="w") as file:
        for program in programs:
            stripped = part.scratch / program.name
            if part.run(["strip", "-o", stripped, program], 60).status != 0:
                return part.fail(f"strip {program.name}")
            file.add(stripped, program.name)
            stripped.unlink()
        for name, path in sorted(libraries.items()):
            file.add(os.path.realpath(path), f"lib/{name}")


# ---------------------------------------------------------------------------------------------
# Tests

def first_of_each_suite(part, test):
    """A filter for GoogleTest: the first test of every suite."""
    first, suite = [], None
    for line in part.run([test, "--gtest_list_tests"], 60).out.splitlines():
        if line.startswith("  ") and suite:
            first.append(suite + line.split()[0])
            suite = None
        elif re.match(r"^\S+\.(\s|$)", line):
            suite = line.split()[0]
    return "--gtest_filter=" + ":".join(first)


def count(pattern, text):
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def run_test(part, test, seconds=280):
    arguments = [first_of_each_suite(part, test)] if part.quick else []
    result = part.run([test, *arguments], seconds)
    record = dict(name=test.name, seconds=round(result.seconds, 1),
                  passed=count(r"\[  PASSED  \] (\d+) test", result.out),
                  failed=count(r"\[  FAILED  \] (\d+) test", result.out),
                  skipped=count(r"\[  SKIPPED \] (\d+) test", result.out),
                  without_gpu=result.out.count("SKIPPED: this test needs a GPU"))
    record["failures"] = sorted(set(re.findall(r"\[  FAILED  \] (\S+?),? \(\d+ ms\)", result.out)))
    if result.status != 0 or (record["passed"] == 0 and record["skipped"] == 0):
        record["status"], record["reason"] = "failed", result.last_words()
    elif record["passed"] == 0:
        record["status"], record["reason"] = "not run", "all tests skipped"
    else:
        record["status"] = "passed"
    return record


def test(part):
    tests = cuda_tests()
    if not tests:
        unpack()
        tests = cuda_tests()
    if not tests:
        raise NotRun(f"no cuda_*_test in {BUILD} (GoogleTest was absent, or nothing is built)")
    records = [run_test(part, tests[0])]
    workers = max(1, min(4, (os.cpu_count() or 1) // 2))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        records += pool.map(lambda each: run_test(part, each), tests[1:])
    part.figures["tests"] = records
    for each in records:
        if each["status"] == "failed":
            names = ", ".join(each["failures"]) or each["reason"]
            part.fail(f"{each['name']}: {names}")
    totals = {key: sum(each[key] for each in records)
              for key in ("passed", "failed", "skipped", "without_gpu")}
    part.figures.update(totals)
    words = (f"{len(records)} programs, {totals['passed']} tests passed, "
             f"{totals['skipped']} skipped")
    if totals["without_gpu"] > 0:
        if query_gpu(part) is not None:
            part.fail(f"there is a GPU, but {totals['without_gpu']} tests found none")
        raise NotRun(f"no device ({words})")
    part.incomplete = any(each["status"] == "not run" for each in records)
    part.remark(words)


SANITIZER_SECONDS = 100


def sanitize(part, tool, command):
    """"clean", "errors", "time", or the tool's own words when it refuses."""
    result = part.run(["compute-sanitizer", "--tool", tool, "--error-exitcode", "99",
                       "--print-limit", "20", *command], part.tool_deadline - time.monotonic())
    text = result.out + result.err
    refused = re.search(r"Device not supported.*|Unable to find injection library.*|"
                        r"(?:Internal|Target) error.*|Failed to initialize.*", text)
    summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", text)
    if result.status is None:
        return "time", "time ran out"
    if result.status == 0 and summary:
        return "clean", summary[-1]
    if refused:
        return "refused", refused.group(0)
    return "errors", summary[-1] if summary else result.last_words()


def sanitizer_commands(part):
    """(name, command, tools)"""
    commands = [(path.name, [path, first_of_each_suite(part, path)],
                 ("memcheck", "racecheck", "initcheck", "synccheck")) for path in cuda_tests()]
    step = step_command(part, "cifar10-small", 2, prepare_model(part, "cifar10-small", 2))
    commands.append(("vitrine step", [*step("cuda", "sanitizer"), "--no-cuda-graph"],
                     ("memcheck",)))
    return commands


def sanitizer(part):
    require_device(part)
    if shutil.which("compute-sanitizer") is None:
        raise NotRun("no compute-sanitizer on this machine")
    commands, finished = sanitizer_commands(part), 0
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        part.tool_deadline = time.monotonic() + (20 if part.quick else SANITIZER_SECONDS)
        chosen = [(name, command) for name, command, tools in commands if tool in tools]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda each: sanitize(part, tool, each[1]), chosen))
        records = [dict(name=name, result=kind, words=words)
                   for (name, _), (kind, words) in zip(chosen, answers)]
        part.figures[tool] = records
        by_kind = {kind: [each for each in records if each["result"] == kind]
                   for kind in ("clean", "errors", "time", "refused")}
        finished += len(by_kind["clean"])
        for each in by_kind["errors"]:
            part.fail(f"{tool} {each['name']}: {each['words']}")
        text = f"{tool} {len(by_kind['clean'])} of {len(records)} clean"
        part.incomplete |= len(by_kind["clean"]) < len(records)
        if by_kind["time"]:
            text += f", {len(by_kind['time'])} out of time"
        if by_kind["refused"]:
            text += f", refused: {by_kind['refused'][0]['words']}"
        part.remark(text)
    if finished == 0 and not part.failures:
        raise NotRun("; ".join(part.remarks))
