#!/usr/bin/env python3
"""What timm's losses are: the stored values of tests/pytorch/losses.safetensors.

Tensors, all F32, computed in float64, B rows of K classes:
  logits [B,K], labels [B], weights [B]   drawn; row b is mixed with the label of row B - 1 - b
  <case>.loss [1]                         mean over the batch
  <case>.dlogits [B,K]                    its gradient
The cases are those of CASES; tests/cross_entropy_test.cpp has the same list.

Needs torch (1.13 or newer), timm (1.0.31 made the file) and numpy.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from pytorch_reference import write_safetensors

FILE = Path(__file__).resolve().parent.parent / "tests" / "pytorch" / "losses.safetensors"
BATCH, CLASSES, SEED = 8, 11, 7

# name: loss, smoothing of mixed targets or None where labels are not mixed
CASES = {
    "softmax_smoothed": (LabelSmoothingCrossEntropy(0.1), None),
    "softmax_mixed": (SoftTargetCrossEntropy(), 0.0),
    "softmax_mixed_smoothed": (SoftTargetCrossEntropy(), 0.1),
    "bce_smoothed": (BinaryCrossEntropy(smoothing=0.1), None),
    "bce_mixed_smoothed": (BinaryCrossEntropy(), 0.1),
    "bce_mixed_sum_threshold": (BinaryCrossEntropy(target_threshold=0.2, sum_classes=True), 0.0),
    "bce_mixed_threshold_0": (BinaryCrossEntropy(target_threshold=0.0), 0.0),
}


def main():
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(SEED)
    logits = (3 * torch.randn(BATCH, CLASSES, generator=generator)).float()
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    weights = torch.rand(BATCH, generator=generator).float()
    tensors = {"logits": logits, "labels": labels, "weights": weights}
    for name, (loss, smoothing) in CASES.items():
        z = logits.double().requires_grad_()
        targets = labels
        if smoothing is not None:
            targets = mixup_target(labels, CLASSES, weights.double().view(-1, 1), smoothing)
        value = loss(z, targets)
        value.backward()
        tensors[name + ".loss"] = value.detach().reshape(1)
        tensors[name + ".dlogits"] = z.grad
    write_safetensors(FILE, {name: tensor.numpy().astype(np.float32)
                             for name, tensor in tensors.items()},
                      dict(torch=torch.__version__, timm=timm.__version__, seed=str(SEED)))


if __name__ == "__main__":
    main()
