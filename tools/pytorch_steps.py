"""Training steps of one variant of one model in PyTorch: what tools/compare_pytorch.py times.

A variant is its mode ("eager", "compile") and its attention ("sdpa", "bmm", or "timm" for timm's
model). It is held against the model of reference_model.py, warmed up, and then answers each line
"seconds" on stdin with a JSON list of the milliseconds of the steps done in that time.
"""

import json
import sys
import time

WIDTHS = {"vit_small_patch16_224": (384, 12, 6), "vit_base_patch16_224": (768, 12, 12),
          "vit_large_patch16_224": (1024, 24, 16)}  # hidden size, blocks, heads
LEARNING_RATES = {"mnist-tutorial": 5e-3, "cifar10-small": 1e-2}  # the others: 1e-3
WARM_UP_SECONDS = 1.0
CUDA_STEPS = 10  # timed together: the host runs ahead of the GPU, as in training


def fast_model(config, attention, seed=0):
    """reference_model.ViT with the same parameters and faster arithmetic."""
    import torch
    import torch.nn.functional as F
    import reference_model

    def patch_embed(module, images):  # [B,C,height,width] -> [B,P,D]
        p = config["patch_size"]
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // p, p, width // p, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)
        return F.linear(patches, module.proj.weight.flatten(1), module.proj.bias)

    def per_head(module, x):  # one [3D,D] matrix with the heads' maps on its diagonal
        _, heads, size, _ = module.weight.shape
        eye = torch.eye(heads, dtype=x.dtype, device=x.device)[:, None, :, None]
        matrix = (module.weight[:, :, :, None, :] * eye).reshape(3 * heads * size, heads * size)
        return F.linear(x, matrix, module.bias.flatten())

    def sdpa(module, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def bmm(module, q, k, v):
        return torch.softmax((q * module.head_size ** -0.5) @ k.transpose(2, 3), dim=-1) @ v

    torch.manual_seed(seed)
    model = reference_model.ViT(config)
    model.patch_embed.forward = patch_embed.__get__(model.patch_embed)
    for block in model.blocks:
        block.attn.attend = {"sdpa": sdpa, "bmm": bmm}[attention].__get__(block.attn)
        if config["qkv_layout"] == "per_head":
            block.attn.qkv.forward = per_head.__get__(block.attn.qkv)
    return model


def config_of(name):
    from reference_model import PRESETS, complete_config
    if name not in WIDTHS:
        return complete_config(PRESETS[name])
    hidden, blocks, heads = WIDTHS[name]
    return complete_config(dict(hidden_size=hidden, num_hidden_layers=blocks,
                                num_attention_heads=heads, intermediate_size=4 * hidden))


def make_model(name, config, attention):
    if attention != "timm":
        return fast_model(config, attention)
    import timm
    return timm.create_model(name, num_classes=config["num_classes"])


def verify(config, model):
    """Gradients against the reference model; an error of 1e-4 ends the comparison."""
    import numpy as np
    import torch
    from pytorch_reference import random_batch, random_weights
    from reference_model import ViT, loss_of

    rng = np.random.default_rng(1)
    weights = {n: torch.from_numpy(w) for n, w in random_weights(ViT(config), rng).items()}
    batch = {n: torch.from_numpy(a) for n, a in random_batch(config, 3, rng).items()}
    initial = {n: value.clone() for n, value in model.state_dict().items()}
    gradients = []
    for module in (ViT(config), model):
        module.load_state_dict(weights)
        loss_of(config, module(batch["images"]), batch["labels"]).backward()
        gradients.append(torch.cat([p.grad.flatten()
                                    for _, p in sorted(module.named_parameters())]))
        module.zero_grad(set_to_none=True)
    model.load_state_dict(initial)
    error = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    if not error < 1e-4:
        sys.exit(f"gradients differ from the reference model by {error:.1e}")


def make_optimizer(name, parameters):
    import torch
    adam = torch.optim.Adam if name == "mnist-tutorial" else torch.optim.AdamW
    rate = LEARNING_RATES.get(name, 1e-3)
    try:
        return adam(parameters, lr=rate, fused=True)
    except (TypeError, RuntimeError):  # before torch 2.4 fused is for CUDA only
        return adam(parameters, lr=rate, foreach=True)


def make_step(name, batch, variant, device, compile_mode):
    """A function that does one training step and returns the loss."""
    import torch
    from reference_model import image_sides, loss_of

    mode, attention = variant.split("-")
    config = config_of(name)
    model = make_model(name, config, attention)
    for parameter in model.parameters():
        if parameter.ndim > 2:  # class token, positions, patch and per-head maps
            torch.nn.init.normal_(parameter, std=0.1)
    verify(config, model)
    model.to(device)
    images = torch.rand(batch, config["num_channels"], *image_sides(config), device=device)
    labels = torch.randint(config["num_classes"], (batch,), device=device)
    optimizer = make_optimizer(name, list(model.parameters()))

    def forward(images, labels):
        return loss_of(config, model(images), labels)

    if mode == "compile":
        forward = torch.compile(forward, mode=compile_mode)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = forward(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def timed(step, device):
    """Milliseconds of a step."""
    import torch
    if device == "cpu":
        start = time.perf_counter()
        step()
        return (time.perf_counter() - start) * 1e3
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CUDA_STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3 / CUDA_STEPS


def worker(name, batch, variant, threads, device, compile_mode):
    import torch
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    step = make_step(name, batch, variant, device, compile_mode)
    timed(step, device)
    deadline = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < deadline:
        timed(step, device)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        times, deadline = [], time.perf_counter() + float(line)
        while time.perf_counter() < deadline or len(times) < 3:
            times.append(timed(step, device))
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    model_name, batch_size, variant_name, num_threads, device_name, mode_name = sys.argv[1:]
    worker(model_name, int(batch_size), variant_name, int(num_threads), device_name, mode_name)
