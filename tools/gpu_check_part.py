"""What the parts of tools/gpu_check.sh share: commands with limits and a log, and the reports.

Standard library of Python 3.11 only. A part is a function of a `Part`: it runs commands through
it, collects `figures`, and calls `fail`; it raises `NotRun` when it cannot do its work here.
"""

import json
import os
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ["VITRINE_BUILD"])
DATA = Path(os.environ["VITRINE_DATA"])
ARCHIVE = "carry.tar.xz"


class NotRun(Exception):
    """The reason."""


class Result:
    """What a command did. `status` is 0, another exit status, or None when time ran out."""

    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds

    def last_words(self):
        lines = (self.err.strip() or self.out.strip()).splitlines()
        words = lines[-1].strip() if lines else "no message"
        return "time ran out" if self.status is None else f"exit status {self.status}: {words}"


class Part:
    def __init__(self, name, out, quick, scratch, seconds):
        self.name, self.quick, self.scratch = name, quick, scratch
        self.figures, self.failures, self.remarks = {}, [], []
        self.incomplete = False  # something of it could not be done here
        self.start = time.monotonic()
        self.deadline = self.start + seconds
        self.log_file = open(out / f"{name}.txt", "w", encoding="utf-8")
        self.json_file = out / f"{name}.json"
        self.lock = threading.Lock()
        self.write("failed", "did not finish")

    def log(self, text):
        with self.lock:
            self.log_file.write(text.rstrip("\n") + "\n")
            self.log_file.flush()

    def fail(self, reason):
        self.log(f"FAILED: {reason}")
        self.failures.append(reason)

    def remark(self, text):
        self.log(text)
        self.remarks.append(text)

    def run(self, command, seconds=600, **environment):
        """Runs at most `seconds`, and never beyond the part's time."""
        command = [str(word) for word in command]
        self.log("$ " + " ".join([f"{k}={v}" for k, v in environment.items()] + command))
        start = time.monotonic()
        limit = min(seconds, self.deadline - start)
        if limit <= 0:
            return self.ended(None, "", "", 0.0)
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       stdin=subprocess.DEVNULL, text=True, errors="replace",
                                       process_group=0, env={**os.environ, **environment})
        except OSError as error:
            return self.ended(127, "", str(error), 0.0)
        try:
            out, err = process.communicate(timeout=limit)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            status = None
        return self.ended(status, out, err, time.monotonic() - start)

    def ended(self, status, out, err, seconds):
        result = Result(status, out, err, seconds)
        text = out + ("\n" if out and not out.endswith("\n") else "") + err
        how = "time ran out" if status is None else f"exit status {status}"
        self.log(f"{text}({how}, {seconds:.1f} s)")
        return result

    def write(self, status, reason):
        record = dict(part=self.name, status=status, reason=reason, failures=self.failures,
                      quick=self.quick, seconds=round(time.monotonic() - self.start, 1),
                      figures=self.figures)
        self.json_file.write_text(json.dumps(record, indent=1) + "\n")
        return record

    def close(self, not_run=None):
        if self.failures:
            status, reasons = "failed", self.failures[:3]
            if len(self.failures) > 3:
                reasons = [*reasons, f"and {len(self.failures) - 3} more failures"]
        else:
            passed = "incomplete" if self.incomplete else "passed"
            status, reasons = ("not run", [not_run]) if not_run else (passed, self.remarks)
        self.log(f"{status}: {'; '.join(reasons)}")
        self.log_file.close()
        return self.write(status, "; ".join(reasons))


# ---------------------------------------------------------------------------------------------
# The build and the GPU

def unpack():
    archive = BUILD / ARCHIVE
    if archive.exists() and not (BUILD / "vitrine").exists():
        with tarfile.open(archive) as file:
            file.extractall(BUILD)


def cuda_tests():
    """The ptx test first: what it shows, the others build on."""
    found = sorted(path for folder in (BUILD, BUILD / "tests/kernels")
                   for path in folder.glob("cuda_*_test"))
    return sorted(found, key=lambda path: path.name != "cuda_ptx_test")


def benches():
    """Of today's sources, where they are there: a build keeps programs whose source is gone."""
    sources = {file.stem for file in ROOT.glob("bench/*_bench.cpp")}
    return sorted(program for program in BUILD.glob("*_bench")
                  if not sources or program.name in sources)


def query_gpu(part):
    """nvidia-smi's figures of the first GPU, or None. Reads only."""
    keys = ("name", "driver_version", "memory.total", "memory.used", "compute_cap", "clocks.sm",
            "clocks.mem", "clocks.max.sm", "power.limit", "temperature.gpu", "mig.mode.current",
            "persistence_mode", "compute_mode")
    result = part.run(["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"], 30)
    lines = result.out.strip().splitlines()
    if result.status != 0 or not lines or lines[0].count(",") != len(keys) - 1:
        return None
    return dict(zip(keys, (value.strip() for value in lines[0].split(","))))


def require_device(part):
    """The program opens the device. A GPU that nvidia-smi sees and the program does not is a
    failure; without one the part is not run."""
    unpack()
    if not (BUILD / "vitrine").exists():
        raise NotRun(f"no program: {BUILD / 'vitrine'} is not there")
    command = [BUILD / "vitrine", "inspect", "--preset", "mnist-tutorial", "--device", "cuda"]
    result = part.run(command, 120)
    if result.status == 0:
        return
    reason = result.last_words()
    if query_gpu(part) is not None:
        part.fail(f"there is a GPU, but the program does not open it: {reason}")
    raise NotRun(f"no device: {reason}")
