#!/usr/bin/env python3
"""Reference values from PyTorch, and the engine's results held against them.

  make DIR --preset NAME      config.json, random model.safetensors, batch.safetensors, and what
                              PyTorch makes of them in N optimiser steps: expected.safetensors
  compare EXPECTED ACTUAL     norm-wise relative error of every tensor; exit status 1 on a failure
  check                       the reference against itself: float32 against float64 for every small
                              preset, its blocks against torch.nn.TransformerEncoderLayer

  tools/pytorch_reference.py make out --preset mnist-tutorial --batch 5 --steps 3 --seed 1 --double
  vitrine step --config out/config.json --weights out/model.safetensors \\
      --batch out/batch.safetensors --steps 3 --lr 1e-3 --opt adamw --output out/actual.safetensors
  tools/pytorch_reference.py compare out/expected.safetensors out/actual.safetensors

Tensors of expected.safetensors, all F32, N steps on the same batch of B images:
  logits [N,B,K]          before any softmax in the head
  probabilities [N,B,K]   softmax(logits)
  loss [N]                mean over the batch
  grad.<name>             gradient of step 1's loss, before clipping and weight decay
  param.<name>            parameters after step N

The model itself is in reference_model.py. Needs torch (1.13 or newer) and numpy.
"""

import argparse
import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reference_model import (DROPOUTS, PRESETS, PatchEmbed, ViT, complete_config, image_sides,
                             loss_of)

# ---------------------------------------------------------------------------------------------
# safetensors: 8 bytes header length, JSON header, raw little-endian data

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def write_safetensors(path, tensors, metadata=None):
    """`tensors` maps names to numpy arrays, `metadata` strings to strings."""
    names = {np.dtype(numpy_type): name for name, numpy_type in DTYPES.items()}
    header, offset = {"__metadata__": metadata} if metadata else {}, 0
    for name, array in tensors.items():
        header[name] = dict(dtype=names[array.dtype], shape=list(array.shape),
                            data_offsets=[offset, offset + array.nbytes])
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())


def read_safetensors(path):
    """({name: array}, metadata)"""
    data = Path(path).read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    return {name: np.frombuffer(data[start + entry["data_offsets"][0]:
                                     start + entry["data_offsets"][1]],
                                DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()}, metadata


# ---------------------------------------------------------------------------------------------
# make

def random_weights(model, rng):
    """Weights that leave no term of the model unseen: no zeros, no norm weights of one."""
    weights = {}
    for name, parameter in model.state_dict().items():
        noise = rng.standard_normal(parameter.shape)
        if name in ("cls_token", "reg_token", "pos_embed"):
            value = 0.5 * noise
        elif parameter.ndim > 1 and not name.endswith("bias"):
            fan_in = parameter[0].numel() if name.startswith("patch_embed") else parameter.shape[-1]
            value = noise / fan_in ** 0.5
        else:
            value = 0.2 * noise + ("norm" in name and name.endswith("weight"))
        weights[name] = value.astype(np.float32)
    return weights


def random_batch(config, batch, rng):
    images = rng.standard_normal((batch, config["num_channels"], *image_sides(config)))
    return {"images": images.astype(np.float32),
            "labels": rng.integers(0, config["num_classes"], batch, dtype=np.int64)}


def make_optimizer(model, args):
    """Weight decay applies to all parameters."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.opt]
    return kind(model.parameters(), lr=args.lr, betas=(0.9, 0.999), eps=1e-8,
                weight_decay=args.weight_decay)


def expected_values(config, weights, batch, args):
    """The tensors of expected.safetensors, computed in double with `--double`."""
    dtype = torch.float64 if args.double else torch.float32
    model = ViT(config)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    model.to(dtype)
    images = torch.from_numpy(batch["images"]).to(dtype)
    labels = torch.from_numpy(batch["labels"])
    optimizer = make_optimizer(model, args)
    steps, gradients = {"logits": [], "probabilities": [], "loss": []}, {}
    for step in range(args.steps):
        logits = model(images)
        loss = loss_of(config, logits, labels, args.smoothing)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
        if args.clip_grad:
            nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad)
        optimizer.step()
        for name, value in (("logits", logits), ("probabilities", torch.softmax(logits, -1)),
                            ("loss", loss)):
            steps[name].append(value.detach())
    values = {name: torch.stack(tensors) for name, tensors in steps.items()}
    values.update(gradients)
    values.update({f"param.{name}": p.detach() for name, p in model.named_parameters()})
    return {name: value.to(torch.float32).numpy() for name, value in values.items()}


def read_config(args):
    config = PRESETS[args.preset] if args.preset else json.loads(Path(args.config).read_text())
    return complete_config({**config, **dict.fromkeys(DROPOUTS, 0.0)})  # nothing random in a check


def make(args):
    config = read_config(args)
    rng = np.random.default_rng(args.seed)
    weights = random_weights(ViT(config), rng)
    batch = random_batch(config, args.batch, rng)
    expected = expected_values(config, weights, batch, args)
    recipe = {key: str(getattr(args, key)) for key in (
        "steps", "seed", "lr", "opt", "weight_decay", "smoothing", "clip_grad", "double")}
    directory = Path(args.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_safetensors(directory / "model.safetensors", weights)
    write_safetensors(directory / "batch.safetensors", batch)
    write_safetensors(directory / "expected.safetensors", expected,
                      {**recipe, "torch": torch.__version__})
    print(f"{args.preset or args.config}: {sum(w.size for w in weights.values())} parameters, "
          f"losses {' '.join(f'{loss:.6f}' for loss in expected['loss'])}")


# ---------------------------------------------------------------------------------------------
# compare

BOUNDS = {"logits": 1e-5, "probabilities": 1e-5, "loss": 1e-5, "grad": 1e-4, "param": 1e-4}


def key_bias_mask(name, array):
    """True where a bias is added to all keys alike, else None.

    A constant added to every score of a query leaves its softmax alone: the true gradient of k's
    bias is zero, what is computed is rounding noise, and Adam turns noise into steps of size lr.
    """
    if name.endswith("attn.k_norm.bias"):
        return np.ones(array.shape, bool)
    if not name.endswith("attn.qkv.bias"):
        return None
    mask = np.zeros(array.shape, bool)
    third = len(array) // 3
    mask[third:2 * third] = True  # [3D] and [3,H,d] alike
    return mask


def tensor_errors(name, expected, actual, recipe):
    """Rows (name, error, bound) for one tensor."""
    if expected.shape != actual.shape:
        return [(f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}",
                 float("inf"), 0.0)]
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    bound = BOUNDS[name.split(".")[0]]
    rows, mask = [], key_bias_mask(name, expected)
    if mask is not None:
        largest = np.abs(actual - expected)[mask].max()
        expected, actual = expected[~mask], actual[~mask]
        limit = bound * (np.linalg.norm(expected) if expected.size else 1.0)
        if name.startswith("param."):  # an Adam step is at most 1 / sqrt(1 - beta2) · lr, mostly lr
            limit = 2 * float(recipe.get("steps", 1)) * float(recipe.get("lr", 1e-3))
        rows.append((f"{name} (k, absolute)", largest, limit))
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(actual - expected)
    rows.insert(0, (name, error / norm if norm > 0 else error, bound))
    return rows


def compare_tensors(expected, actual, recipe):
    """Rows (name, error, bound); a tensor that only one side has is an infinite error."""
    rows = []
    for name in [*expected, *(name for name in actual if name not in expected)]:
        if name in expected and name in actual:
            rows += tensor_errors(name, expected[name], actual[name], recipe)
        else:
            side = "unexpected" if name in actual else "missing"
            rows.append((f"{name}: {side}", float("inf"), 0.0))
    return rows


def compare(args):
    expected, recipe = read_safetensors(args.expected)
    actual, _ = read_safetensors(args.actual)
    rows = compare_tensors(expected, actual, recipe)
    width = max(len(name) for name, _, _ in rows)
    for name, error, bound in rows:
        verdict = "ok" if error <= bound else "FAILED"  # NaN fails
        print(f"{name:{width}}  {error:9.2e}  <= {bound:8.1e}  {verdict}")
    failed = sum(not error <= bound for _, error, bound in rows)
    print(f"{len(rows) - failed} ok, {failed} failed")
    return failed > 0


# ---------------------------------------------------------------------------------------------
# check

def check_precision(name, args):
    """float32 against float64, through files. Returns the largest error in parts of its bound."""
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for args.double in (True, False):
            args.preset, args.directory = name, Path(directory) / str(args.double)
            make(args)
            results.append(read_safetensors(args.directory / "expected.safetensors"))
    (expected, recipe), (actual, _) = results
    rows = compare_tensors(expected, actual, recipe)
    relative = [(row.split(".")[0], error) for row, error, _ in rows if "absolute" not in row]
    print("  float32 against float64, worst of a kind: " + ", ".join(
        f"{kind} {max(error for of, error in relative if of == kind):.1e}" for kind in BOUNDS))
    return max(error / bound for _, error, bound in rows)


def check_encoder_layer(norm_order, activation):
    """A block is torch.nn.TransformerEncoderLayer, values and input gradient, in double."""
    config = complete_config(dict(
        PRESETS["small-timm"], norm_order=norm_order, hidden_act=activation, layer_norm_eps=1e-5))
    rng = np.random.default_rng(7)
    model = ViT(config)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in random_weights(model, rng).items()})
    block = model.double().blocks[0]
    layer = nn.TransformerEncoderLayer(
        config["hidden_size"], config["num_attention_heads"], config["intermediate_size"],
        dropout=0.0, activation=activation, batch_first=True, norm_first=norm_order == "pre",
        dtype=torch.float64)
    names = {"attn.qkv.": "self_attn.in_proj_", "attn.proj.": "self_attn.out_proj.",
             "mlp.fc1.": "linear1.", "mlp.fc2.": "linear2."}
    state = {}
    for name, value in block.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = value
    layer.load_state_dict(state)
    x = torch.from_numpy(rng.standard_normal((3, 5, config["hidden_size"])))
    results = []
    for module in (block, layer):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.backward(x)
        results.append(torch.cat((y.detach(), leaf.grad)))
    error = ((results[0] - results[1]).norm() / results[1].norm()).item()
    print(f"{norm_order}-norm {activation} block against TransformerEncoderLayer: {error:.1e}")
    return error / 1e-12


def check_patch_embed():
    """The convolution is unfold and matmul."""
    config = complete_config(PRESETS["small-mean-after"])
    embed = PatchEmbed(config).double()
    images = random_batch(config, 3, np.random.default_rng(7))["images"]
    images = torch.from_numpy(images).double()
    p = config["patch_size"]
    patches = nn.functional.unfold(images, p, stride=p).transpose(1, 2)
    tokens = patches @ embed.proj.weight.flatten(1).T + embed.proj.bias
    error = (tokens - embed(images)).abs().max().item()
    print(f"patch convolution against unfold: {error:.1e}")
    return error / 1e-12


def check(args):
    failures = [check_patch_embed()]
    failures += [check_encoder_layer(order, activation)
                 for order in ("pre", "post") for activation in ("relu", "gelu")]
    presets = [name for name in PRESETS if name.startswith("small-")]
    failures += [check_precision(name, args)
                 for name in [*presets, "mnist-tutorial", "notes-encoder", "cifar10-small"]]
    failed = sum(not error <= 1 for error in failures)
    print(f"{len(failures) - failed} ok, {failed} failed")
    return failed > 0


def add_recipe(parser):
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--opt", choices=("adam", "adamw"), default="adamw")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--smoothing", type=float, default=0.0)
    parser.add_argument("--clip-grad", type=float, default=0.0, help="0: no clipping")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make", help="write inputs and expected results")
    command.add_argument("directory")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", choices=PRESETS, metavar="NAME", help=", ".join(PRESETS))
    source.add_argument("--config", metavar="FILE")
    command.add_argument("--double", action="store_true", help="compute in float64")
    add_recipe(command)
    command = commands.add_parser("compare", help="hold results against expected ones")
    command.add_argument("expected")
    command.add_argument("actual")
    add_recipe(commands.add_parser("check", help="hold the reference against itself"))
    args = parser.parse_args()
    sys.exit({"make": make, "compare": compare, "check": check}[args.command](args))


if __name__ == "__main__":
    main()
