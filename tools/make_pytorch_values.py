#!/usr/bin/env python3
"""What PyTorch computes for the reference models: the stored values of tests/pytorch.

  make            writes tests/pytorch/<model>.safetensors
  check           computes everything anew and holds the stored files against it; exit status 1
                  when they differ by more than the rounding of what is stored
  both take models by name; without, all of them

Models: those of document_models.py, computed in float64. Before anything is written, logits and
all gradients are held against reference_model.py with the preset's config, in float64 to 1e-12.

Weights and images follow from a formula, which the tests repeat bit by bit:
  number i of tensor NAME = float32(base + scale · ((k + 1/2) / 2^23 - 1)),  never `base` itself
  k                       = splitmix64(fnv1a64(NAME) + i) >> 40
  base, scale             = 1, 1/2     weights of norms
                            0, 1/2     biases
                            0, 1       cls_token, pos_embed, images.N
                            0, s       the rest: s the largest power of two with s² · fan_in <= 3
                            all scales of patch_embed, cls_token and pos_embed are divided by 8, so
                            that the first norm sees variances for which its eps matters
  label i                 = (splitmix64(fnv1a64("labels") + i) >> 40) mod K
N is such that no input of a ReLU lies within 2e-6 of zero in step 1: float32 could take the other
side, and a gradient with one term more or less is no rounding error. fan_in is the product of all dimensions but the first for the patch projection, else the last one.

Tensors of a file, all F32, B images, 10 optimiser steps on one batch, names of model.safetensors:
  logits [B,K]         of step 1, before any softmax in the head
  loss [10]            of each step, mean over the batch
  grad.<name>          gradient of step 1
  update.<name>        what 10 steps added to the parameter
  float32.<name> [2]   how far float32 is from float64 on the processor that wrote the file, as
                       |difference| / |value| of the gradient and of the update; the largest of
                       four runs, which begin with weights an ulp away in three; float32.loss [1]
Tensors of more than 2,000 elements are not stored whole but as
  <name>.norm [1]           the Euclidean norm
  <name>.projections [16]   sums over i of ±element i; the sign of the j-th is that of bit j in
                            splitmix64(fnv1a64("<model.safetensors' name>.signs") + i): 0 is +
The root mean square of 16 differences of projections estimates the norm of the difference.

Needs torch (1.13 or newer) and numpy.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from document_models import image_to_embedding_naive
from document_parameters import DOCUMENT_MODELS, gathered, scattered
from pytorch_reference import key_bias_mask, read_safetensors, write_safetensors
from reference_model import DROPOUTS, PRESETS, ViT, complete_config, image_sides, loss_of

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "pytorch"
STEPS, WHOLE, PROJECTIONS, FLOAT32_RUNS = 10, 2000, 16, 4

TIMM = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=3,
            num_attention_heads=4, intermediate_size=128, num_classes=10)
ADAMW = dict(opt="adamw", lr=1e-3, weight_decay=0.05, weight_decay_all=False)
RECIPES = {
    "mnist-tutorial": dict(batch=5, images="images.0", opt="adam", lr=5e-3, weight_decay=0.0,
                           weight_decay_all=False),
    # Decay strong enough to show beside a ReLU that opens; a rate that does not learn two images of
    # 150,528 pixels in one step.
    "notes-encoder": dict(batch=5, images="images.0", opt="adamw", lr=1e-4, weight_decay=0.5,
                          weight_decay_all=False),
    "d2l-224": dict(batch=2, images="images.0", opt="adamw", lr=5e-6, weight_decay=5.0,
                    weight_decay_all=False),
    "cifar10-small": dict(batch=5, images="images.0", opt="adamw", lr=1e-2, weight_decay=1e-2,
                          weight_decay_all=True),
    "timm-32": dict(batch=5, images="images.0", **ADAMW)}


# ---------------------------------------------------------------------------------------------
# The formula

def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2 ** 64
    return value


def hashes(name, count):
    """splitmix64 (Steele, Lea and Flood 2014) of fnv1a64(name) + i."""
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + np.uint64(fnv1a64(name))
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def scale_of(name, shape):
    scale = 1.0
    if name.endswith("bias"):
        scale = 0.5
    elif not name.startswith(("cls_token", "pos_embed", "images")):
        fan_in = np.prod(shape[1:]) if name.startswith("patch_embed") else shape[-1]
        while scale * scale * fan_in > 3:
            scale /= 2
    return scale / 8 if name.startswith(("patch_embed", "cls_token", "pos_embed")) else scale


def drawn(name, shape):
    is_scale = "norm" in name and name.endswith("weight")
    base, scale = (1.0, 0.5) if is_scale else (0.0, scale_of(name, shape))
    k = (hashes(name, int(np.prod(shape))) >> np.uint64(40)).astype(np.float64)
    return (base + scale * ((k + 0.5) / 2 ** 23 - 1)).astype(np.float32).reshape(shape)


def drawn_batch(config, recipe):
    batch = recipe["batch"]
    images = drawn(recipe["images"], (batch, config["num_channels"], *image_sides(config)))
    labels = (hashes("labels", batch) >> np.uint64(40)) % np.uint64(config["num_classes"])
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def projected(name, array):
    """[16] sums of ±elements in double."""
    bits = hashes(f"{name}.signs", array.size)
    flat = array.astype(np.float64).ravel()
    return np.array([np.where(bits >> np.uint64(j) & np.uint64(1), -flat, flat).sum()
                     for j in range(PROJECTIONS)])


# ---------------------------------------------------------------------------------------------
# The values

def config_of(name):
    config = TIMM if name == "timm-32" else PRESETS[name]
    return complete_config({**config, **dict.fromkeys(DROPOUTS, 0.0)})


def decays(name, shape):
    """As timm decides: no decay of biases, norms, class token and positions."""
    return len(shape) > 1 and not name.endswith("bias") and name not in ("cls_token", "pos_embed")


def document_of(name, weights):
    document = DOCUMENT_MODELS[name]()
    values = {part: tensor for ours, weight in weights.items()
              for part, tensor in scattered(document, torch.from_numpy(weight), ours)}
    buffers = dict(document.module.named_buffers())
    document.module.load_state_dict({**buffers, **values})
    return document


def make_optimizer(document, weights, recipe):
    groups = {}
    for name, weight in weights.items():
        decay = recipe["weight_decay"]
        if not recipe["weight_decay_all"] and not decays(name, weight.shape):
            decay = 0.0
        groups.setdefault(decay, []).extend(document.names[name])
    parameters = dict(document.module.named_parameters())
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe["opt"]]
    return kind([dict(params=[parameters[part] for part in parts], weight_decay=decay)
                 for decay, parts in groups.items()], lr=recipe["lr"])


def computed(name, weights, dtype):
    """{name: array of `dtype`}: what a file stores, whole."""
    config, recipe = config_of(name), RECIPES[name]
    document = document_of(name, weights)
    module = document.module.to(dtype)
    images, labels = drawn_batch(config, recipe)
    images = images.to(dtype)
    optimizer = make_optimizer(document, weights, recipe)

    def ours(tensors, prefix):
        return {prefix + name: gathered(document, tensors, name, weight.shape).numpy().copy()
                for name, weight in weights.items()}

    values, losses = {"logits": module.logits(images).detach().numpy()}, []
    for step in range(STEPS):
        loss = module.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            values.update(ours({n: p.grad for n, p in module.named_parameters()}, "grad."))
        optimizer.step()
        losses.append(loss.item())
    values["loss"] = np.array(losses)
    after = ours({n: p.detach() for n, p in module.named_parameters()}, "update.")
    for parameter, weight in weights.items():
        values[f"update.{parameter}"] = after[f"update.{parameter}"].astype(np.float64) - weight
    return values


def distance(actual, expected, name=""):
    """Relative error by Euclidean norms, without the keys' part of a qkv bias; of the losses the
    largest of a step. What is not finite is infinitely far."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    mask = key_bias_mask(name, expected)
    if mask is not None:
        actual, expected = actual[~mask], expected[~mask]
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(actual - expected)
    if name == "loss":
        error, norm = np.max(np.abs(actual - expected) / np.abs(expected)), 1
    error = error / norm if norm > 0 else error
    return error if np.isfinite(error) else float("inf")


def float32_errors(name, weights, double):
    """{key of a value: largest relative error of some runs in float32}"""
    errors = {}
    for run in range(FLOAT32_RUNS):
        start = weights
        if run > 0:
            start = {n: np.nextafter(w, np.where(hashes(f"{n}.{run}", w.size).reshape(w.shape) % 2,
                                                 np.float32(9), np.float32(-9)))
                     for n, w in weights.items()}
        single = computed(name, start, torch.float32)
        for key, value in double.items():
            error = distance(single[key], value, key)
            errors[key] = max(error, errors.get(key, 0.0))
    return errors


def relu_margin(config, model, images):
    """How near to zero the inputs of ReLUs are whose gradients reach the loss."""
    if config["hidden_act"] != "relu":
        return float("inf")
    margins = []

    def watch(tokens):
        return lambda module, _, output: margins.append(output[:, tokens].abs().min().item())

    last = slice(0, 1) if config["class_token"] == "first" else slice(-1, None)
    handles = [block.mlp.fc1.register_forward_hook(
        watch(last if block is model.blocks[-1] else slice(None))) for block in model.blocks]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return min(margins)


def prove(name, weights, values):
    """reference_model.py with the preset's config computes what the document's code does."""
    config = config_of(name)
    model = ViT(config)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    model.double()
    images, labels = drawn_batch(config, RECIPES[name])
    margin = relu_margin(config, model, images.double())
    if not margin > 2e-6:
        sys.exit(f"{name}: an input of a ReLU is {margin:.1e}; draw other images")
    logits = model(images.double())
    loss = loss_of(config, logits, labels)
    loss.backward()
    errors = {"logits": distance(logits.detach().numpy(), values["logits"]),
              "loss": distance(loss.item(), values["loss"][0])}
    for parameter, tensor in model.named_parameters():
        error = distance(tensor.grad.numpy(), values[f"grad.{parameter}"], parameter)
        errors[f"grad.{parameter}"] = error
    worst = max(errors, key=errors.get)
    if not errors[worst] < 1e-12:
        sys.exit(f"{name}: {worst} of the document's code and of reference_model.py differ "
                 f"by {errors[worst]:.1e}")
    return errors[worst]


def prove_embeddings(weights, values):
    """The notes' two ways to embed patches, by unfold and by convolution, agree."""
    document = document_of("notes-encoder", weights)
    module = document.module.double()
    module.embed = image_to_embedding_naive
    images, labels = drawn_batch(config_of("notes-encoder"), RECIPES["notes-encoder"])
    module.loss(images.double(), labels).backward()
    name = "patch_embed.proj.weight"
    gradient = gathered(document, {"weight": module.weight.grad}, name, weights[name].shape)
    errors = (distance(module.logits(images.double()).detach().numpy(), values["logits"]),
              distance(gradient.numpy(), values[f"grad.{name}"]))
    if not max(errors) < 1e-12:
        sys.exit(f"notes-encoder: by unfold and by convolution differ by {max(errors):.1e}")


def compressed(values):
    """The tensors of a file, from float64 values."""
    tensors = {}
    for name, value in values.items():
        if value.size <= WHOLE or name == "logits":
            tensors[name] = value.astype(np.float32)
            continue
        assert not name.endswith("qkv.bias"), f"{name}: the keys' part cannot be left out"
        tensors[f"{name}.norm"] = np.array([np.linalg.norm(value)], np.float32)
        signs = name.split(".", 1)[1]
        tensors[f"{name}.projections"] = projected(signs, value).astype(np.float32)
    return tensors


def double_values(name):
    """(weights, values in float64), proven."""
    shapes = {n: tuple(p.shape) for n, p in ViT(config_of(name)).named_parameters()}
    weights = {n: drawn(n, shape) for n, shape in shapes.items()}
    values = computed(name, weights, torch.float64)
    if name == "notes-encoder":
        prove_embeddings(weights, values)
    print(f"{name}: {prove(name, weights, values):.0e} from reference_model.py", flush=True)
    return weights, values


def metadata_of(name):
    return {"model": name, "config": json.dumps(config_of(name)), "torch": torch.__version__,
            "formula": "see tools/make_pytorch_values.py", "steps": str(STEPS),
            **{key: json.dumps(value) if isinstance(value, bool) else str(value)
               for key, value in RECIPES[name].items()}}


# ---------------------------------------------------------------------------------------------
# Commands

def make(name):
    weights, values = double_values(name)
    tensors = compressed(values)
    errors = float32_errors(name, weights, values)
    for parameter in weights:
        tensors[f"float32.{parameter}"] = np.array(
            [errors[f"grad.{parameter}"], errors[f"update.{parameter}"]], np.float32)
    tensors["float32.loss"] = np.array([errors["loss"]], np.float32)
    path = DIRECTORY / f"{name}.safetensors"
    write_safetensors(path, tensors, metadata_of(name))
    worst = {kind: max(error for key, error in errors.items() if key.startswith(kind))
             for kind in ("logits", "loss", "grad", "update")}
    print(f"{name}: {path.stat().st_size} bytes, loss {tensors['loss'][0]:.6f} to "
          f"{tensors['loss'][-1]:.6f}; float32: " +
          ", ".join(f"{kind} {error:.0e}" for kind, error in worst.items()), flush=True)
    return True


def check(name):
    tensors = compressed(double_values(name)[1])
    stored, metadata = read_safetensors(DIRECTORY / f"{name}.safetensors")
    stored = {key: value for key, value in stored.items() if not key.startswith("float32.")}
    errors = {key: distance(stored[key], tensors[key], key)
              if key in tensors and key in stored and tensors[key].shape == stored[key].shape
              else float("inf") for key in {**tensors, **stored}}
    worst = max(errors, key=errors.get)
    same = {**metadata, "torch": ""} == {**metadata_of(name), "torch": ""}
    passed = errors[worst] < 1e-6 and same
    print(f"{name}: torch {torch.__version__} is {errors[worst]:.0e} ({worst}) from the file by "
          f"torch {metadata['torch']}: "
          f"{'ok' if passed else 'FAILED' if same else 'FAILED: other recipe'}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("make", "check"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(RECIPES))
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in RECIPES]
    if unknown:
        parser.error(f"no model {unknown[0]}, expected {', '.join(RECIPES)}")
    DIRECTORY.mkdir(exist_ok=True)
    command = {"make": make, "check": check}[args.command]
    passed = [command(name) for name in args.models or RECIPES]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
