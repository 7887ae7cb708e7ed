"""What PyTorch's numbers are measured on and with; for tools/compare_*.py."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GPU_KEYS = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
            "power.limit")


def one_cpu_a_core(cpus, topology="/sys/devices/system/cpu"):
    """The first of these logical CPUs on each core; all of them where no file tells."""
    cores = {}
    for cpu in sorted(cpus):
        file = Path(topology) / f"cpu{cpu}/topology/thread_siblings_list"
        cores.setdefault(file.read_text().strip() if file.exists() else cpu, cpu)
    return list(cores.values())


def bind(threads):
    """This process to one CPU a core; to second CPUs of cores only for more threads than cores."""
    cpus = os.sched_getaffinity(0)
    first = one_cpu_a_core(cpus)
    os.sched_setaffinity(0, (first + sorted(cpus - set(first)))[:threads])


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
    flags = processor()["flags"].split()
    if "avx512f" in flags:
        return "SkylakeX"
    return "Haswell" if "avx2" in flags else None


def processor():
    """The first processor's fields of /proc/cpuinfo that are of use here."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = {}
    for key, otherwise in (("model name", platform.machine()), ("flags", ""), ("cpu MHz", "0")):
        field = re.search(rf"^{key}\s*:\s*(.*)", text, re.M)
        found[key] = field.group(1) if field else otherwise
    return found


def output_of(*command):
    """First line of what the command prints; None where it fails or is not there."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.splitlines() if result.returncode == 0 else []
    return lines[0].strip() if lines else None


def commit():
    name = output_of("git", "rev-parse", "--short=12", "HEAD")
    return name and name + (" and changes" if output_of("git", "status", "--porcelain") else "")


def gpu_state():
    """Driver and clocks as nvidia-smi names them, at this moment."""
    line = output_of("nvidia-smi", f"--query-gpu={','.join(GPU_KEYS)}", "--format=csv,noheader")
    return dict(zip(GPU_KEYS, (value.strip() for value in line.split(",")))) if line else {}


def governor():
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else None


def describe(device, threads):
    """Machine, driver, versions, clocks, date and commit."""
    import torch
    config = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    now = datetime.datetime.now(datetime.timezone.utc)
    about = dict(date=now.strftime("%Y-%m-%d %H:%M UTC"), commit=commit(), device=device,
                 cpu=processor()["model name"], cpu_mhz=round(float(processor()["cpu MHz"])),
                 governor=governor(), cores=sorted(os.sched_getaffinity(0)), threads=threads,
                 python=platform.python_version(), torch=torch.__version__,
                 blas=blas.group(1) if blas else "unknown",
                 onednn="".join(re.findall(r"MKL-DNN (v[\d.]+)", config)),
                 openblas_core_type=openblas_core_type(), compiler=output_of("g++", "--version"))
    if device == "cuda":
        about.update(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda,
                     cudnn=torch.backends.cudnn.version(), precision="bf16", **gpu_state())
    return {key: value for key, value in about.items() if value not in (None, "")}
