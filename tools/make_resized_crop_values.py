#!/usr/bin/env python3
"""Makes tests/pillow/resized_crop.safetensors: what Pillow's Image.resize(size, filter, box) makes of
small pictures.

  python3 -m venv venv && venv/bin/pip install pillow numpy safetensors
  venv/bin/python tools/make_resized_crop_values.py

Tensors: "picture.K" U8 [H,W,C], and for case N "N.image" U8 [C,height,width] and "N.box" F32 [4]
(crop_x, crop_y, crop_width, crop_height). The file's metadata has for N "K FILTER". The box that
Pillow gets ends at crop + size, summed in float32.
"""

from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file

FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
           "bicubic": Image.Resampling.BICUBIC}

# (H, W, C) and for each (height, width, box); a box of None is the whole picture.
PICTURES = [
    ((37, 53, 3), [(16, 16, None), (37, 53, None), (40, 60, None), (13, 20, (0, 0, 53, 18.5)),
                   (24, 17, (3.25, 1.5, 40.125, 35.5)), (11, 9, (20, 10, 9, 11)),
                   (9, 9, (12.7, 0, 40.3, 4.1)), (8, 53, None), (37, 10, None)]),
    ((29, 64, 1), [(16, 16, None), (33, 7, None), (12, 40, (40.5, 20.25, 23.5, 8.75)),
                   (14, 14, (0.3, 0.7, 14, 14)), (29, 64, None), (5, 64, (0, 1, 64, 10))]),
    ((5, 7, 3), [(16, 12, None), (1, 1, None), (5, 3, (6.5, 4.5, 0.5, 0.5)),
                 (3, 5, (2, 1, 3, 4)), (15, 21, None)]),
    ((1, 1, 1), [(1, 1, None), (4, 6, None), (3, 3, (0.25, 0.5, 0.5, 0.25))]),
    ((3, 90, 3), [(16, 12, None), (4, 45, None), (3, 5, (0, 0, 90, 3)),
                  (2, 11, (33.3, 0.1, 11.1, 2.9))]),
    ((64, 1, 1), [(7, 4, None), (64, 2, None)]),
]


def drawn(shape, random):
    """A gradient under noise, with patches of black and white that filters overshoot at."""
    picture = random.integers(0, 256, shape)
    picture = picture // 2 + np.linspace(0, 127, shape[1]).astype(int)[None, :, None]
    extreme = random.random(shape) < 0.3
    return np.where(extreme, 255 * random.integers(0, 2, shape), picture).astype(np.uint8)


def resized(picture, size, resample, box):
    channels = picture.shape[2]
    image = Image.fromarray(picture if channels == 3 else picture[:, :, 0])
    x, y, width, height = (np.float32(value) for value in box)
    image = image.resize(size, resample, (float(x), float(y), float(x + width), float(y + height)))
    return np.ascontiguousarray(np.asarray(image).reshape(*size[::-1], channels).transpose(2, 0, 1))


def main():
    random = np.random.default_rng(7)
    tensors, metadata, case = {}, {"pillow": PIL.__version__}, 0
    for k, (shape, views) in enumerate(PICTURES):
        picture = tensors[f"picture.{k}"] = drawn(shape, random)
        for height, width, box in views:
            box = box or (0, 0, shape[1], shape[0])
            for name, resample in FILTERS.items():
                tensors[f"{case}.image"] = resized(picture, (width, height), resample, box)
                tensors[f"{case}.box"] = np.array(box, np.float32)
                metadata[str(case)] = f"{k} {name}"
                case += 1
    path = Path(__file__).parents[1] / "tests/pillow/resized_crop.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata)
    print(f"{path}: {case} cases, {path.stat().st_size} bytes, Pillow {PIL.__version__}")


if __name__ == "__main__":
    main()
