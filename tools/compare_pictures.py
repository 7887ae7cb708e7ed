#!/usr/bin/env python3
"""Pictures a second of one core, from files to images of 224 pixels: Vitrine's picture_rates beside
Pillow and, where it is installed, torchvision, on the same files, in turn.

  tools/compare_pictures.py DIR [--rates build/picture_rates] [--rounds 5] [--json FILE]

DIR holds photographs by class, {train,val}/CLASS/*.jpg. Rows: decoding whole pictures; decoding and
cutting out a random crop of 8 to 100 % of the area, resized to 224 (bicubic, antialiased);
RandAugment on 224 pixels, whose peer is timm's, where that is installed.
"""

import argparse
import datetime
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = 224
# Rows of the table, and what picture_rates runs for each: seconds add up.
ROWS = {"decode": ["decode/whole"], "decode, crop, resize": ["decode/crop_224", "resize/224"],
        "RandAugment": ["augment/rand-m9-mstd0.5-inc1"]}


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def read_files(directory):
    train = Path(directory) / "train"
    files = sorted(path for path in train.glob("*/*")
                   if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        fail(f"{train}: found no pictures, expected CLASS/*.jpg")
    return [path.read_bytes() for path in files]


def rates_of_vitrine(program, directory, core):
    """Pictures a second by row."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        result = subprocess.run(["taskset", "-c", str(core), program, f"--pictures={directory}",
                                 "--benchmark_min_time=0.5", f"--benchmark_out={out.name}",
                                 "--benchmark_out_format=json"], capture_output=True, text=True)
        if result.returncode != 0:
            fail(f"{program}: {result.stderr.strip() or 'failed'}")
        found = {run["name"].removesuffix("/real_time"): run["items_per_second"]
                 for run in json.load(open(out.name))["benchmarks"]}
    rates = {row: 1 / sum(1 / found[name] for name in names) for row, names in ROWS.items()}
    return rates | {name: found[name] for name in ("load/files", "load/packed")}


def rate(work, items):
    start = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / (time.perf_counter() - start)


class Pillow:
    name = "Pillow"

    def __init__(self):
        import PIL
        from PIL import Image
        self.image, self.version = Image, PIL.__version__

    def decode(self, data):
        return self.image.open(io.BytesIO(data)).convert("RGB")

    def crop(self, data):
        image = self.decode(data)
        x, y, width, height = random_crop(*image.size)
        return image.crop((x, y, x + width, y + height)).resize(
            (SIZE, SIZE), self.image.Resampling.BICUBIC)

    def augmentation(self):
        """timm's, on images of Pillow."""
        from timm.data.auto_augment import rand_augment_transform
        augment = rand_augment_transform("rand-m9-mstd0.5-inc1", dict(
            translate_const=100, img_mean=(124, 116, 104)))

        def bearing_no_bits(image):
            try:
                return augment(image)
            except ValueError:  # newer versions of Pillow posterize to one bit at least
                return image
        return bearing_no_bits


class Torchvision:
    name = "torchvision"

    def __init__(self):
        import torch
        import torchvision
        from torchvision.transforms.v2 import functional
        torch.set_num_threads(1)
        self.torch, self.io, self.functional = torch, torchvision.io, functional
        self.version = torchvision.__version__

    def decode(self, data):
        buffer = self.torch.frombuffer(bytearray(data), dtype=self.torch.uint8)
        return self.io.decode_image(buffer, mode=self.io.ImageReadMode.RGB)

    def crop(self, data):
        image = self.decode(data)
        x, y, width, height = random_crop(image.shape[2], image.shape[1])
        return self.functional.resized_crop(image, y, x, height, width, [SIZE, SIZE],
                                            interpolation=3, antialias=True)

    def augmentation(self):
        return None


def random_crop(width, height):
    """RandomResizedCrop's box: area 8 to 100 %, aspect 3/4 to 4/3."""
    for _ in range(10):
        area = random.uniform(0.08, 1) * width * height
        aspect = 2 ** random.uniform(-0.415, 0.415)
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    return 0, 0, width, height


def rates_of_peer(peer, files):
    rates = {"decode": rate(peer.decode, files), "decode, crop, resize": rate(peer.crop, files)}
    try:
        augment = peer.augmentation()
    except ImportError:
        augment = None
    if augment is not None:
        rates["RandAugment"] = rate(augment, [peer.crop(data) for data in files])
    return rates


def peers():
    found = []
    for make in (Pillow, Torchvision):
        try:
            found.append(make())
        except ImportError as error:
            print(f"without {make.name}: {error}", file=sys.stderr)
    return found


def machine():
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines()
             if line.startswith("model name")]
    return dict(processor=names[0] if names else "", commit=commit.stdout.strip(),
                date=datetime.date.today().isoformat())


def print_table(results):
    names = list(results)
    print("| pictures a second of one core | " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * len(names))
    ours = results["Vitrine"]
    for row in ours:
        cells = []
        for name in names:
            rates = results[name].get(row)
            if rates is None:
                cells.append("")
                continue
            middle = statistics.median(rates)
            ratio = "" if name == "Vitrine" else f" ({statistics.median(ours[row]) / middle:.1f}x)"
            cells.append(f"{middle:,.0f}{ratio}")
        print(f"| {row} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--rates", default="build/picture_rates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    if not Path(args.rates).exists():
        fail(f"{args.rates}: no such program; build it with the target benches")
    files, others = read_files(args.directory), peers()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    random.seed(42)
    results = {"Vitrine": {}} | {peer.name: {} for peer in others}
    for _ in range(args.rounds):
        runs = {"Vitrine": rates_of_vitrine(args.rates, args.directory, core)}
        runs |= {peer.name: rates_of_peer(peer, files) for peer in others}
        for name, rates in runs.items():
            for row, value in rates.items():
                results[name].setdefault(row, []).append(value)
    print(f"{len(files)} pictures of {args.directory}; "
          + ", ".join(f"{peer.name} {peer.version}" for peer in others)
          + f"; medians of {args.rounds} rounds\n")
    print_table(results)
    if args.json:
        Path(args.json).write_text(json.dumps(
            dict(machine=machine(), pictures=len(files), rates=results,
                 versions={peer.name: peer.version for peer in others}), indent=1) + "\n")


if __name__ == "__main__":
    main()
