#!/usr/bin/env python3
"""Makes tests/augment/operations.safetensors: small images and what Pillow, timm and torchvision
make of them, for the operations of `augment_images`.

  python3 -m venv v && v/bin/pip install 'pillow==13.*' numpy torch torchvision timm safetensors
  v/bin/python tools/make_augment_values.py

  image.NAME   U8 [C,H,W]   the images
  NUMBER       U8 [C,H,W]   a result; the metadata of that name says of what: "NAME|OPERATION|…",
                            an OPERATION being "KIND FILTER VALUE VALUE …" as in vitrine/augment.h

`fill` is 124, 116, 104. Results are exact but for gaussian_blur, which torchvision rounds after
sums in float: one grey level.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from safetensors.numpy import save_file
from timm.data.auto_augment import solarize_add
from torchvision.transforms import functional

FILL = (124, 116, 104)
FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def affine(image, resample, *values):
    fill = FILL if image.mode == "RGB" else FILL[0]
    return image.transform(image.size, Image.AFFINE, values, FILTERS[resample], fillcolor=fill)


def gray(image):
    return functional.to_grayscale(image, len(image.getbands()))


def blur(image, sigma):
    return functional.gaussian_blur(image, 2 * math.ceil(3 * sigma) + 1, sigma)


OPERATIONS = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": lambda image, _, bits: ImageOps.posterize(image, bits),
    "solarize": lambda image, _, threshold: ImageOps.solarize(image, threshold),
    "solarize_add": lambda image, _, add, threshold: solarize_add(image, add, threshold),
    "brightness": lambda image, _, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, _, factor: ImageEnhance.Contrast(image).enhance(factor),
    "color": lambda image, _, factor: ImageEnhance.Color(image).enhance(factor),
    "sharpness": lambda image, _, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "hue": lambda image, _, turn: functional.adjust_hue(image, turn),
    "grayscale": lambda image, _: gray(image),
    "gaussian_blur": lambda image, _, sigma: blur(image, sigma),
    "affine": affine,
}


def make_images():
    random = np.random.RandomState(20)
    y, x = np.mgrid[0:19, 0:25]
    waves = [128 + 100 * np.sin(x / 5 + c) * np.cos(y / (3 + c)) for c in range(3)]
    picture = np.stack(waves, -1) + random.normal(0, 12, (19, 25, 3))
    picture[4:9, 6:14] = (250, 30, 60)  # a flat patch, and a saturated one
    picture[10:12] = (0, 255, 255)
    picture = picture.clip(0, 255).astype(np.uint8)
    dull = (90 + picture // 5).astype(np.uint8)
    colors = random.randint(0, 256, (16, 28, 3)).astype(np.uint8)
    large = (random.normal(110, 30, (39, 47)) + np.arange(47)).clip(0, 255).astype(np.uint8)
    constant = np.full((6, 5, 3), (3, 180, 77), np.uint8)
    two = np.where(random.rand(9, 8, 3) < 0.9, 40, 41).astype(np.uint8)
    return {
        "picture": picture, "dull": dull, "colors": colors, "constant": constant, "two": two,
        "gray": picture[..., 0], "dull_gray": dull[..., 1], "constant_gray": constant[..., 1],
        "pixel": picture[:1, :1], "line": picture[:1, :9], "column": picture[:7, :2, 0],
        "square": picture[:3, :3], "large": large,  # many pixels a level
    }  # fmt: skip


def rotation(degrees, width, height):
    """What Image.rotate hands to Image.transform."""
    angle = -math.radians(degrees)
    a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
    return (a, b, width / 2 - a * width / 2 - b * height / 2, -b, a,
            height / 2 + b * width / 2 - a * height / 2)  # fmt: skip


def affine_cases():
    maps = [
        (1, 0.3, 0, 0, 1, 0), (1, 0, 0, -0.27, 1, 0), (1, 0, 3.7, 0, 1, 0), (1, 0, 0, 0, 1, -8),
        rotation(13, 25, 19), rotation(-150, 25, 19), (-1, 0, 25, 0, -1, 19),
        (0.4, 0, 3, 0, 2.2, -5.5), (0.7, 0.5, -3.3, -0.2, 1.4, 2),
    ]  # fmt: skip
    cases = [f"affine {name} " + " ".join(map(repr, m)) for name in FILTERS for m in maps]
    far = (900.5, 1700.25, -40000, 3000.5, -2500.125, 1)  # beyond Pillow's fixed point
    return cases + ["affine nearest " + " ".join(map(repr, far))]


def cases():
    everywhere = (
        "auto_contrast", "equalize", "invert", "posterize nearest 3", "solarize nearest 100",
        "solarize_add nearest 60 128", "brightness nearest 1.37", "contrast nearest 0.63",
        "color nearest 0.4", "sharpness nearest 1.9", "hue nearest 0.21", "grayscale",
        "affine bicubic 0.9 0.2 -1.5 -0.1 1.1 0.25", "affine bilinear 0.9 0.2 -1.5 -0.1 1.1 0.25",
        "affine nearest 0.9 0.2 -1.5 -0.1 1.1 0.25", "affine nearest 1 0 1.25 0 1 0",
    )  # fmt: skip
    for image in ("gray", "dull", "dull_gray", "constant", "constant_gray", "two", "pixel", "line",
                  "column", "square"):  # fmt: skip
        for operation in everywhere:
            yield image, operation
    strengths = (0.0, 0.1, 0.9, 1.0, 1.9, 2.6, -0.5)
    for operation in ("brightness", "contrast", "color", "sharpness"):
        for factor in strengths:
            yield "picture", f"{operation} nearest {factor}"
    for operation in (
        "auto_contrast", "equalize", "invert", "grayscale", "posterize nearest 1",
        "posterize nearest 8", "solarize nearest 0", "solarize nearest 256",
        "solarize nearest 127.5", "solarize_add nearest 110 128", "hue nearest 0.5",
        "hue nearest -0.5", "hue nearest -0.004", "gaussian_blur nearest 0.1",
        "gaussian_blur nearest 0.7", "gaussian_blur nearest 2.0",
    ):  # fmt: skip
        yield "picture", operation
    for operations in ("equalize", "contrast nearest 1.6|equalize", "posterize nearest 4|equalize"):
        yield "large", operations
    yield "gray", "gaussian_blur nearest 1.3"
    yield "constant", "gaussian_blur nearest 0.9"
    for turn in (0.0, 0.1, 0.34, -0.2):
        yield "colors", f"hue nearest {turn}"
    yield "colors", "color nearest 1.7"
    for operation in affine_cases():
        yield "picture", operation
    for operations in (
        "invert|solarize nearest 90|posterize nearest 4",
        "brightness nearest 0.5|auto_contrast|contrast nearest 1.4|equalize",
        "affine bicubic 1 0.2 0 0 1 0|equalize|affine bilinear 1 0 0 0.2 1 0|sharpness nearest 0.2",
        "color nearest 1.9|invert|hue nearest 0.1|contrast nearest 0.3|affine nearest 1 0 4 0 1 0",
        "none|equalize|none",
    ):
        yield "picture", operations
        yield "gray", operations


def main():
    images = make_images()
    tensors, metadata = {}, {}

    def planes(array):
        array = np.asarray(array)
        return np.ascontiguousarray(array.transpose(2, 0, 1) if array.ndim == 3 else array[None])

    for name, array in images.items():
        tensors[f"image.{name}"] = planes(array)
    for number, (name, operations) in enumerate(cases()):
        image = Image.fromarray(images[name])
        for operation in operations.split("|"):
            kind, *rest = operation.split()
            if kind != "none":
                values = [float(v) if "." in v else int(v) for v in rest[1:]]
                image = OPERATIONS[kind](image, rest[0] if rest else "nearest", *values)
        tensors[f"{number:03}"] = planes(image)
        metadata[f"{number:03}"] = f"{name}|{operations}"
    target = Path(__file__).parent.parent / "tests" / "augment"
    target.mkdir(exist_ok=True)
    save_file(tensors, target / "operations.safetensors", metadata)


main()
