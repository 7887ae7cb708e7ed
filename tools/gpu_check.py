#!/usr/bin/env python3
"""Runs the parts of tools/gpu_check.sh, which sets the environment and says what each part does."""

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from gpu_check_bench import bench, kernels, profile
from gpu_check_part import NotRun, Part
from gpu_check_tests import build, machine, pack, sanitizer, test
from gpu_check_training import pytorch, steps, train

DEVICE_PARTS = ("test", "steps", "sanitizer", "train", "bench", "profile", "kernels",
                "pytorch")
PARTS = dict(machine=machine, build=build, test=test, steps=steps, sanitizer=sanitizer,
             train=train, bench=bench, profile=profile, kernels=kernels, pytorch=pytorch,
             pack=pack)
SECONDS = dict(machine=120, build=540, test=300, steps=300, sanitizer=480, train=480, bench=540,
               profile=300, kernels=540, pytorch=570, pack=3600)


def run_part(name, out, quick):
    with tempfile.TemporaryDirectory() as scratch:
        part = Part(name, out, quick, Path(scratch), SECONDS[name])
        not_run = None
        try:
            PARTS[name](part)
        except NotRun as reason:
            not_run = str(reason)
        except Exception as error:  # a part's fault must not stop the next part
            part.log(traceback.format_exc())
            part.fail(f"{type(error).__name__}: {error}")
        return part.close(not_run)


def exit_status(records):
    statuses = {record["part"]: record["status"] for record in records}
    if "failed" in statuses.values():
        return 1
    asked = [name for name in statuses if name in DEVICE_PARTS] or list(statuses)
    return 0 if any(statuses[name] in ("passed", "incomplete") for name in asked) else 3


def main():
    parser = argparse.ArgumentParser(description="see tools/gpu_check.sh")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART")
    args = parser.parse_args()
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]}; the parts are {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    records = []
    for name in args.parts or [name for name in PARTS if name != "pack"]:
        print(f"{name} ...", flush=True)
        records.append(run_part(name, args.out, args.quick))
    print()
    for record in records:
        print(f"{record['part']:10} {record['status']:10} {record['seconds']:7.1f} s")
        for reason in record["reason"].split("; ")[:20]:
            print(f"    {reason[:200]}")
    sys.exit(exit_status(records))


if __name__ == "__main__":
    main()
