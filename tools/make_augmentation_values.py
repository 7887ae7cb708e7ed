#!/usr/bin/env python3
"""What timm and torchvision draw: the values that tests/*augmentation*_test.cpp compare with.

    tools/make_augmentation_values.py tests/augmentation/timm.json

Needs timm, torchvision, torch and Pillow. The file says which versions made it. It holds

  severities    timm's operations at given levels and signs: what they hand to Pillow
  boxes         torchvision's Resize and CenterCrop as timm's evaluation calls them
  histograms    counts of many draws, by bins that the tests share (see `bins` of each)
"""
import argparse
import json
import random
from unittest import mock

import numpy
import PIL
import timm
import torch
import torchvision
from PIL import Image, ImageEnhance, ImageOps
from timm.data import auto_augment, mixup, random_erasing, transforms, transforms_factory

DRAWS = 100_000
MEAN = (0.485, 0.456, 0.406)


class Recorder:
    """Stands in for an image and keeps what is done to it."""

    def __init__(self, width, height):
        self.size, self.calls = (width, height), []

    def transform(self, size, method, data, resample=None, fillcolor=None, **_):
        assert method == Image.AFFINE and size == self.size
        self.calls.append(("affine", [float(v) for v in data]))
        return self

    def rotate(self, degrees, resample=None, fillcolor=None):
        image = Image.new("RGB", self.size)
        with mock.patch.object(Image.Image, "transform") as transform:
            image.rotate(degrees, resample=resample, fillcolor=fillcolor)
        for call in transform.call_args_list:
            self.calls.append(("affine", [float(v) for v in call.args[2]]))
        return self


def enhancer(kind):
    class Enhance:
        def __init__(self, image):
            self.image = image

        def enhance(self, factor):
            self.image.calls.append((kind, [float(factor)]))
            return self.image
    return Enhance


def recording(kind, values=lambda args: [float(v) for v in args]):
    def record(image, *args):
        image.calls.append((kind, values(args)))
        return image
    return record


def solarize_add(image, add, thresh=128, **_):
    image.calls.append(("solarize_add", [float(add), float(thresh)]))
    return image


def recorded_pillow():
    """Pillow's functions replaced by recorders, as timm reaches them."""
    stack = [mock.patch.object(ImageOps, "autocontrast", recording("auto_contrast")),
             mock.patch.object(ImageOps, "equalize", recording("equalize")),
             mock.patch.object(ImageOps, "invert", recording("invert")),
             mock.patch.object(ImageOps, "posterize", recording("posterize")),
             mock.patch.object(ImageOps, "solarize", recording("solarize")),
             mock.patch.object(ImageEnhance, "Color", enhancer("color")),
             mock.patch.object(ImageEnhance, "Contrast", enhancer("contrast")),
             mock.patch.object(ImageEnhance, "Brightness", enhancer("brightness")),
             mock.patch.object(ImageEnhance, "Sharpness", enhancer("sharpness"))]
    return stack


def severities():
    rows = []
    names = {False: auto_augment._RAND_TRANSFORMS, True: auto_augment._RAND_INCREASING_TRANSFORMS}
    for increasing, operations in names.items():
        for index, name in enumerate(operations):
            for level in (0.0, 1.0, 3.3, 5.0, 7.25, 9.0, 10.0):
                for sign in (-1, 1):
                    for width, height in ((224, 224), (48, 33)):
                        image = Recorder(width, height)
                        level_fn = auto_augment.LEVEL_TO_ARG[name]
                        hparams = dict(translate_const=100, img_mean=(1, 2, 3))
                        with mock.patch("random.random", lambda: 1.0 if sign < 0 else 0.0):
                            args = level_fn(level, hparams) if level_fn else ()
                        function = auto_augment.NAME_TO_OP[name]
                        if name == "SolarizeAdd":
                            function = solarize_add
                        function(image, *args, fillcolor=(1, 2, 3), resample=Image.BILINEAR)
                        kind, values = image.calls[0] if image.calls else ("affine",
                                                                           [1, 0, 0, 0, 1, 0])
                        rows.append([increasing, index, level, sign, height, width, kind, values])
    return rows


def boxes():
    """[picture h, w, model h, w, crop_pct, mode, resized h, w, top, left]"""
    rows = []
    generator = random.Random(7)
    sizes = [(500, 375), (375, 500), (224, 224), (33, 47), (1, 9), (640, 427), (1200, 801)]
    sizes += [(generator.randint(8, 900), generator.randint(8, 900)) for _ in range(40)]
    for height, width in sizes:
        for model in ((224, 224), (32, 32), (96, 160)):
            for crop_pct in (0.875, 0.9, 0.95, 1.0):
                for mode in ("center", "squash"):
                    resized, crop = [], []
                    pipeline = transforms_factory.transforms_imagenet_eval(
                        model if model[0] != model[1] else model[0], crop_pct=crop_pct,
                        crop_mode=mode)
                    image = Image.new("L", (width, height))
                    functional = torchvision.transforms.functional
                    with mock.patch.object(Image.Image, "resize",
                                           lambda self, size, *a, **k: (
                                               resized.append(size), Image.new("L", size))[1]), \
                         mock.patch.object(functional, "crop",
                                           lambda img, top, left, h, w: (
                                               crop.append((top, left)), img)[1]):
                        for step in pipeline.transforms[:2]:
                            image = step(image)
                    new_width, new_height = resized[0] if resized else (width, height)
                    rows.append([height, width, *model, crop_pct, mode, new_height, new_width,
                                 *crop[0]])
    return rows


def histogram(values, low, high, count):
    counts, _ = numpy.histogram(values, bins=count, range=(low, high))
    assert counts.sum() == len(values)
    return {"bins": [low, high, count], "counts": counts.tolist()}


def rand_augment():
    """How often which operation, and what magnitude, of rand-m9-mstd0.5-inc1."""
    result = {}
    for text in ("rand-m9-mstd0.5-inc1", "rand-m6-n3-p0.7-mstd101-inc1"):
        applied, levels = [], []
        transform = auto_augment.rand_augment_transform(text, dict(translate_const=100))
        index = {op.name: i for i, op in enumerate(transform.ops)}
        for op in transform.ops:
            op.aug_fn = lambda image, *args, name=op.name, **_: applied[-1].append(index[name])
            level_fn = op.level_fn
            def record(level, hparams, name=op.name):
                if name == "Rotate":
                    levels.append(level)
                return ()
            op.level_fn = record if level_fn else None
        for _ in range(DRAWS):
            applied.append([])
            transform(None)
        count = transform.num_layers
        operations = numpy.bincount([i for image in applied for i in image], minlength=15)
        numbers = numpy.bincount([len(image) for image in applied], minlength=count + 1)
        result[text] = {"operations": operations.tolist(), "applied": numbers.tolist(),
                        "rotate_level": histogram(levels, 0, 10.0001, 40)}
    return result


def resized_crop():
    """Area, aspect and place of timm's RandomResizedCropAndInterpolation."""
    result = []
    for height, width, scale, ratio in ((375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
                                        (60, 200, (0.3, 0.9), (0.5, 2.0))):
        image = Image.new("L", (width, height))
        draw = transforms.RandomResizedCropAndInterpolation.get_params
        crops = numpy.array([draw(image, scale, ratio) for _ in range(DRAWS)], dtype=float)
        top, left, h, w = crops.T
        result.append({
            "picture": [height, width], "scale": scale, "ratio": ratio,
            "area": histogram(h * w / (height * width), 0, 1.0001, 30),
            "log_aspect": histogram(numpy.log(w / h), -1.5, 1.5, 30),
            "center_y": histogram((top + h / 2) / height, 0, 1, 20),
            "center_x": histogram((left + w / 2) / width, 0, 1, 20)})
    return result


class Erased:
    """Stands in for a tensor: keeps the slices that are written."""

    def __init__(self):
        self.boxes = []

    def __setitem__(self, key, _):
        rows, columns = key[1], key[2]
        self.boxes.append((rows.start, columns.start, rows.stop - rows.start,
                           columns.stop - columns.start))


def erasing():
    result = []
    for height, width, count in ((224, 224, 1), (32, 48, 3)):
        erase = random_erasing.RandomErasing(probability=0.25, max_count=count, device="cpu")
        numbers, found = [], []
        with mock.patch.object(random_erasing, "_get_pixels", lambda *a, **k: None):
            for _ in range(DRAWS):
                image = Erased()
                erase._erase(image, 3, height, width, None)
                numbers.append(len(image.boxes))
                found += image.boxes
        top, left, h, w = numpy.array(found, dtype=float).T
        result.append({
            "image": [height, width], "count": count, "probability": 0.25,
            "boxes": numpy.bincount(numbers, minlength=count + 1).tolist(),
            "area": histogram(h * w / (height * width), 0, 0.4, 30),
            "log_aspect": histogram(numpy.log(h / w), -1.6, 1.6, 30),
            "center_y": histogram((top + h / 2) / height, 0, 1, 20)})
    return result


def mixes():
    """λ by image, of timm's Mixup; 1 where nothing is mixed."""
    result = []
    for alpha, cutmix, mode, probability, switch in (
            (0.8, 1.0, "elem", 1.0, 0.5), (0.2, 0.0, "elem", 0.7, 0.5),
            (0.0, 1.0, "elem", 1.0, 0.5), (0.8, 1.0, "batch", 0.9, 0.3),
            (0.8, 1.0, "pair", 0.9, 0.3)):
        draw = mixup.Mixup(alpha, cutmix, prob=probability, switch_prob=switch, mode=mode,
                           num_classes=2)
        sizes = {"elem": 100, "batch": 2, "pair": 100}
        weights = []
        while len(weights) < DRAWS // 2:
            images = torch.zeros(sizes[mode], 1, 32, 48)
            weight = getattr(draw, "_mix_" + mode)(images)
            # One of what is drawn together: the first of a batch, the first half of pairs.
            each = [float(weight)] if mode == "batch" else weight.flatten().tolist()
            weights += each if mode != "pair" else each[:sizes[mode] // 2]
        result.append({"mixup": alpha, "cutmix": cutmix, "mode": mode, "prob": probability,
                       "switch_prob": switch, "image": [32, 48],
                       "weight": histogram(weights, -1e-9, 1.0001, 50)})
    return result


def jitter():
    """Factors of torchvision's ColorJitter and which of the four comes first."""
    draw = torchvision.transforms.ColorJitter(0.4, 0.3, 1.5, 0.1)
    first, brightness, saturation, hue = [], [], [], []
    for _ in range(DRAWS // 2):
        order, b, _, s, h = draw.get_params(draw.brightness, draw.contrast, draw.saturation,
                                            draw.hue)
        first.append(int(order[0]))
        brightness.append(b)
        saturation.append(s)
        hue.append(h)
    return {"strength": [0.4, 0.3, 1.5, 0.1], "first": numpy.bincount(first).tolist(),
            "brightness": histogram(brightness, 0.5, 1.5, 20),
            "saturation": histogram(saturation, 0, 2.6, 20),
            "hue": histogram(hue, -0.12, 0.12, 20)}


def three_augment():
    kinds = {"solarize": 0, "color": 0, "blur": 0}
    sigmas = []
    transform = auto_augment.auto_augment_transform("3a", dict(translate_const=100))
    class Image3(Recorder):
        def filter(self, blur):
            self.calls.append(("blur", [blur.radius]))
            return self
    for _ in range(DRAWS // 2):
        image = Image3(8, 8)
        transform(image)
        (kind, values), = image.calls
        kinds[kind] += 1
        assert values == {"solarize": [128.0], "color": [0.0]}.get(kind, values)
        if kind == "blur":
            radius = values[0]
            sigmas.append(radius[0] if isinstance(radius, tuple) else radius)
    return {"kinds": [kinds["color"], kinds["solarize"], kinds["blur"]],
            "sigma": histogram(sigmas, 0, 2.1, 21)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    arguments = parser.parse_args()
    random.seed(1), numpy.random.seed(2), torch.manual_seed(3)
    document = {"versions": {"timm": timm.__version__, "torchvision": torchvision.__version__,
                             "Pillow": PIL.__version__},
                "boxes": boxes(), "rand_augment": rand_augment(), "resized_crop": resized_crop(),
                "erasing": erasing(), "mixes": mixes(), "jitter": jitter()}
    patches = recorded_pillow()
    for patch in patches:
        patch.start()
    document["severities"] = severities()
    document["three_augment"] = three_augment()
    for patch in patches:
        patch.stop()
    with open(arguments.file, "w") as file:
        # A row a line.
        lines = []
        for key, value in document.items():
            if isinstance(value, list):
                rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
                lines.append(f'"{key}": [\n{rows}]')
            else:
                lines.append(f'"{key}": {json.dumps(value, separators=(",", ":"))}')
        file.write("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
