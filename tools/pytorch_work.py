"""How compare_kernels.py describes work for PyTorch: a benchmark's name, tensors, a formula, peers.

Each peer comes with the operation as a plain formula: in float64 that is the truth, in the
benchmark's own type it says how large an error may be. The peers themselves are in
pytorch_kernels.py and pytorch_products.py.
"""

from dataclasses import dataclass
from typing import Callable

import torch

TYPES = {"f32": torch.float32, "fp32": torch.float32, "tf32": torch.float32,
         "bf16": torch.bfloat16, "f16": torch.float16, "fp16": torch.float16}
CATALOGUE = {}  # operation: function of a Case that returns its Work


class NoPeer(Exception):
    """Why there is nothing in PyTorch to hold a benchmark against."""


@dataclass
class Work:
    formula: Callable      # of the inputs; returns a tensor or several
    inputs: tuple
    peers: dict            # name: function without arguments that returns what the formula does
    part: Callable = lambda outputs: outputs  # of a peer's outputs, what the formula computes


class Case:
    """A benchmark's name, and random tensors in its type on its device."""

    def __init__(self, operation, keys, words, device, compiling):
        self.operation, self.keys, self.words = operation, keys, words
        self.device, self.compiling = device, compiling
        self.dtype = next((TYPES[word] for word in words if word in TYPES), torch.float32)
        self.tf32 = "tf32" in words
        self.backward = operation.endswith("_backward") or "backward" in words
        torch.manual_seed(1)

    def __call__(self, *names):
        """The values of these keys."""
        missing = [name for name in names if name not in self.keys]
        if missing:
            raise NoPeer(f"the name has no {missing[0]}:…")
        values = [self.keys[name] for name in names]
        return values[0] if len(values) == 1 else values

    def has(self, word):
        return any(part.startswith(word) for part in self.words)

    def random(self, *shape, dtype=None):
        return torch.randn(shape, device=self.device).to(dtype or self.dtype)

    def compiled(self, peers, formula, *inputs):
        """Adds the formula as torch.compile makes it."""
        if self.compiling:
            function = torch.compile(formula, dynamic=False,
                                     mode="max-autotune-no-cudagraphs")
            peers["torch compiled"] = lambda: function(*inputs)
        return peers


def operation(*names):
    def keep(function):
        CATALOGUE.update({name: function for name in names})
        return function
    return keep


def work_of(name, keys, words, device, compiling=True):
    for ending in ("", "_forward", "_backward"):
        base = name.removesuffix(ending) if ending else name
        if base in CATALOGUE:
            return CATALOGUE[base](Case(name, keys, words, device, compiling))
    raise NoPeer("PyTorch has no such operation, or this script does not know it")


def gradients(function, *inputs):
    """Those of sum(function(inputs) * dy); the last input is dy."""
    *inputs, dy = inputs
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        return torch.autograd.grad(function(*leaves), leaves, dy)


def replay(function, *inputs):
    """The same again and again, its forward pass done once."""
    *inputs, dy = inputs
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        y = function(*leaves)
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


class Later:
    """A function that is made at its first call, so that what cannot be made spoils no other."""

    def __init__(self, make, *arguments):
        self.make, self.arguments, self.function = make, arguments, None

    def __call__(self):
        if self.function is None:
            self.function = self.make(*self.arguments)
        return self.function()
