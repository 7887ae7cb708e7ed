"""What tools/gpu_check.py feeds the program and how it reads results: standard library only.

Batches and images are random with a fixed seed; the images of a class share a pattern, so that a
few steps learn something. Weights come back as safetensors: 8 bytes header length, a JSON header,
raw little-endian data.
"""

import array
import json
import math
import operator
import random
import struct
from pathlib import Path


# ---------------------------------------------------------------------------------------------
# Data sets and batches

def pattern_image(label, channels, side, rng):
    """Bytes, channel by channel: a wave whose frequency tells the class, under noise."""
    wave = bytes(x * (label + 1) * 16 // side % 16 * 12 for x in range(side))
    noise = int.from_bytes(bytes([63]) * side, "big")
    rows = (int.from_bytes(wave, "big") + (rng.getrandbits(8 * side) & noise)
            for _ in range(channels * side))
    return b"".join(row.to_bytes(side, "big") for row in rows)  # wave + noise is below 256


def write_cifar10(directory, train, test):
    """`train` is a multiple of five: the images are in five files."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    names = [(f"data_batch_{i}.bin", train // 5) for i in range(1, 6)] + [("test_batch.bin", test)]
    for name, count in names:
        labels = [rng.randrange(10) for _ in range(count)]
        (directory / name).write_bytes(b"".join(
            bytes([label]) + pattern_image(label, 3, 32, rng) for label in labels))
    return directory


def write_mnist(directory, train, test):
    """IDX files: big-endian header, then bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = [rng.randrange(10) for _ in range(count)]
        images = b"".join(pattern_image(label, 1, 28, rng) for label in labels)
        (directory / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, 28, 28) + images)
        (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + bytes(labels))
    return directory


def write_batch(path, shape, classes, seed=1):
    """Normal images F32 [B,C,H,W] and labels I64 [B]."""
    rng = random.Random(seed)
    images = array.array("f", (rng.gauss(0, 1) for _ in range(math.prod(shape))))
    labels = array.array("q", (rng.randrange(classes) for _ in range(shape[0])))
    parts, header, offset = (("images", "F32", shape, images),
                             ("labels", "I64", shape[:1], labels)), {}, 0
    for name, dtype, dimensions, values in parts:
        end = offset + len(values) * values.itemsize
        header[name] = dict(dtype=dtype, shape=list(dimensions), data_offsets=[offset, end])
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + images.tobytes() + labels.tobytes())
    return path


# ---------------------------------------------------------------------------------------------
# Results of `vitrine step`

def read_f32(path):
    """{name: (shape, array of floats)}"""
    data = Path(path).read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        values = array.array("f")
        values.frombytes(data[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
        tensors[name] = (entry["shape"], values)
    return tensors


def without_key_bias(name, values):
    """A constant added to every score of a query leaves its softmax alone: the true gradient of
    k's bias is zero, what is computed is rounding noise, and Adam turns noise into steps."""
    if not name.endswith("attn.qkv.bias"):
        return values
    third = len(values) // 3
    return values[:third] + values[2 * third:]


def squares(values):
    return sum(map(operator.mul, values, values))


def relative_error(expected, actual, names):
    """|actual - expected| / |expected| over all these tensors together; infinite for NaN."""
    error = norm = 0.0
    for name in names:
        one, other = (without_key_bias(name, side[name][1]) for side in (expected, actual))
        if len(one) != len(other):
            raise ValueError(f"{name}: found {len(other)} elements, expected {len(one)}")
        error += squares(array.array("d", map(operator.sub, other, one)))
        norm += squares(one)
    relative = math.sqrt(error / norm) if norm > 0 else math.sqrt(error)
    return relative if math.isfinite(relative) else math.inf


def differences(expected_path, actual_path):
    """Relative errors of what `vitrine step` wrote: first logits, gradients of the first step,
    all logits, losses, trained weights, and the worst gradient by name."""
    expected, actual = read_f32(expected_path), read_f32(actual_path)
    if expected.keys() != actual.keys():
        raise ValueError(f"{actual_path}: other tensors than {expected_path}")
    gradients = [name for name in expected if name.startswith("grad.")]
    per_step = math.prod(expected["logits"][0][1:])
    first = [{"logits": (None, side["logits"][1][:per_step])} for side in (expected, actual)]
    worst = max(((relative_error(expected, actual, [name]), name) for name in gradients))
    return {"first_logits": relative_error(*first, ["logits"]),
            "gradients": relative_error(expected, actual, gradients),
            "logits": relative_error(expected, actual, ["logits"]),
            "loss": relative_error(expected, actual, ["loss"]),
            "weights": relative_error(expected, actual,
                                      [name for name in expected if name.startswith("param.")]),
            "worst_gradient": worst[0], "worst_gradient_name": worst[1][len("grad."):]}
