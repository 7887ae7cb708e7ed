"""Training steps of one variant of one model in PyTorch: what tools/compare_pytorch.py times.

A variant is MODE-ATTENTION[-conv][-gelu][-pruned]:

  eager     as written
  compile   forward and loss by torch.compile
  autotune  the same with mode="max-autotune", on CUDA with recorded graphs (its own)
  joint     forward and backward as one compiled function (torch.func.grad_and_value)
  graph     CUDA: the whole step, compiled by max-autotune and optimizer included, as one CUDA graph
  sdpa      scaled_dot_product_attention; PyTorch chooses the kernel
  cudnn     the same, cuDNN's kernel where it can
  bmm       two batched matmuls and a softmax
  timm      timm's model (attention by sdpa), channels-last
  conv      the patch projection as a channels-last convolution; otherwise by one matmul
  gelu      GELU as compiled code is fast at it on the CPU: its tanh form by exp, its erf form by
            ATen's kernel
  pruned    the last block works only for the token that is read: what Vitrine's pass does, by hand

It is held against the model of reference_model.py, warmed up, and then answers each line "seconds"
on stdin with a JSON list of the milliseconds of the steps done in that time.
"""

import json
import sys
import time

WIDTHS = {"vit_small_patch16_224": (384, 12, 6), "vit_base_patch16_224": (768, 12, 12),
          "vit_large_patch16_224": (1024, 24, 16)}  # hidden size, blocks, heads
ADAM = {"mnist-tutorial", "notes-encoder", "d2l-224"}  # the others: AdamW, decay 0.05 or as given
LEARNING_RATES = {"mnist-tutorial": 5e-3, "cifar10-small": 1e-2}  # the others: 1e-3
WEIGHT_DECAYS = {"cifar10-small": 1e-2}
WARM_UP_SECONDS = 1.0
GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
CUDA_STEPS = 10  # timed together: the host runs ahead of the GPU, as in training

# ---------------------------------------------------------------------------------------------
# The models

def config_of(name):
    from reference_model import PRESETS, complete_config
    if name not in WIDTHS:
        return complete_config(PRESETS[name])
    hidden, blocks, heads = WIDTHS[name]
    return complete_config(dict(hidden_size=hidden, num_hidden_layers=blocks,
                                num_attention_heads=heads, intermediate_size=4 * hidden))


def patch_matmul(module, images):  # [B,C,height,width] -> [B,P,D]
    import torch.nn.functional as F
    p = module.proj.kernel_size[0]
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // p, p, width // p, p)
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)
    return F.linear(patches, module.proj.weight.flatten(1), module.proj.bias)


def project(attention, x, first, count):
    """`count` of q, k and v from `first` on, by one matmul: [B,T,D] -> count times [B,H,T,d].

    Per-head maps go on the diagonal of one matrix.
    """
    import torch
    import torch.nn.functional as F
    heads, size, linear = attention.heads, attention.head_size, attention.qkv
    weight, bias, hidden = linear.weight, linear.bias, heads * size
    if weight.ndim == 4:
        eye = torch.eye(heads, dtype=x.dtype, device=x.device)[:, None, :, None]
        weight = weight[first:first + count, :, :, None, :] * eye
        bias = bias if bias is None else bias[first:first + count]
    elif count < 3:
        weight = weight[first * hidden:(first + count) * hidden]
        bias = bias if bias is None else bias[first * hidden:(first + count) * hidden]
    bias = bias if bias is None else bias.flatten()
    y = F.linear(x, weight.reshape(count * hidden, hidden), bias)
    return y.unflatten(2, (count, heads, size)).permute(2, 0, 3, 1, 4)


def attention_forward(attention, x):
    return merge(attention, *project(attention, x, 0, 3))


def merge(attention, q, k, v):
    out = attention.attend(q, k, v).transpose(1, 2).flatten(2)
    return attention.proj(out)


def sdpa(module, q, k, v):
    import torch.nn.functional as F
    return F.scaled_dot_product_attention(q, k, v, dropout_p=module.dropout * module.training)


def bmm(module, q, k, v):
    import torch
    import torch.nn.functional as F
    p = torch.softmax((q * module.head_size ** -0.5) @ k.transpose(2, 3), dim=-1)
    return F.dropout(p, module.dropout, module.training) @ v


def mlp_with_exp(mlp, x):
    """tanh GELU as x · sigmoid(2u): the same function; compiled code has a fast exp."""
    import torch
    import torch.nn.functional as F
    x = mlp.fc1(x)
    u2 = x * (2 * GELU_SCALE + 2 * GELU_SCALE * 0.044715 * x * x)
    x = x / (1 + torch.exp((-u2).clamp(max=80)))  # beyond, the gradient would be inf / inf
    return mlp.fc2(F.dropout(x, mlp.dropout, mlp.training))


def leave_gelu_to_its_kernel():
    """torch.compile takes its own erf otherwise."""
    import torch
    from torch._inductor.decomposition import decompositions
    for kernel in (torch.ops.aten.gelu.default, torch.ops.aten.gelu_backward.default):
        decompositions.pop(kernel, None)


def pruned_block(block, x, place):
    """Block.forward for the token at `place` (a slice); keys and values are of all tokens."""
    def attend(h):
        return block.drop(merge(block.attn, *project(block.attn, h[:, place], 0, 1),
                                *project(block.attn, h, 1, 2)))

    if block.norm_order == "post":
        x = block.norm1(x[:, place] + attend(x))
        return block.norm2(x + block.drop(block.mlp(x)))
    if block.norm_order == "d2l":
        x = block.norm1(x)
        x = x[:, place] + attend(x)
    else:
        x = x[:, place] + attend(block.norm1(x))
    return x + block.drop(block.mlp(block.norm2(x)))


def fast_model(config, attention, extras=()):
    """reference_model.ViT with the same parameters and faster arithmetic."""
    import torch
    import reference_model

    torch.manual_seed(0)
    model = reference_model.ViT(config)
    model.config = {**config, "hidden_dropout_prob": 0.0}  # embed's: the presets have none there
    if "conv" not in extras:
        model.patch_embed.forward = patch_matmul.__get__(model.patch_embed)
    for block in model.blocks:
        block.attn.forward = attention_forward.__get__(block.attn)
        block.attn.attend = (bmm if attention == "bmm" else sdpa).__get__(block.attn)
        if "gelu" in extras and block.mlp.activation not in ("gelu", "relu"):
            block.mlp.forward = mlp_with_exp.__get__(block.mlp)
    if "gelu" in extras:
        leave_gelu_to_its_kernel()
    if "pruned" in extras:
        place = slice(0, 1) if config["class_token"] == "first" else slice(-1, None)
        last = model.blocks[-1]
        last.forward = lambda x: pruned_block(last, x, place)
    return model


def make_model(name, config, attention, extras):
    import torch
    if attention != "timm":
        model = fast_model(config, attention, extras)
    else:
        import timm
        model = timm.create_model(name, num_classes=config["num_classes"])
    for parameter in model.parameters():
        if parameter.ndim > 2:  # class token, positions, patch and per-head maps
            torch.nn.init.normal_(parameter, std=0.1)
    return model


# ---------------------------------------------------------------------------------------------
# The step

def make_optimizer(name, parameters, recorded=False):
    import torch
    options = dict(lr=LEARNING_RATES.get(name, 1e-3))
    if name not in ADAM:
        options["weight_decay"] = WEIGHT_DECAYS.get(name, 0.05)
    if recorded:
        options["capturable"] = True
    adam = torch.optim.Adam if name in ADAM else torch.optim.AdamW
    try:
        return adam(parameters, fused=True, **options)
    except (TypeError, RuntimeError):  # before torch 2.4 fused is for CUDA only
        return adam(parameters, foreach=True, **options)


def make_gradients(config, model, mode, device):
    """A function of images and labels that leaves the gradients in `.grad` and returns the loss;
    in bf16 on CUDA."""
    import torch
    from reference_model import loss_of

    def loss(images, labels):
        return loss_of(config, model(images), labels)

    if mode == "joint":
        return joint_gradients(config, model, device)
    modes = dict(compile="default", autotune="max-autotune", graph="max-autotune-no-cudagraphs")
    if mode in modes:
        loss = torch.compile(loss, mode=modes[mode])

    def gradients(images, labels):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss(images, labels)
        value.backward()
        return value

    return gradients


def joint_gradients(config, model, device):
    import torch
    from reference_model import loss_of

    names, parameters = zip(*model.named_parameters())
    values = tuple(parameter.detach() for parameter in parameters)  # the same memory

    def loss(values, images, labels):
        logits = torch.func.functional_call(model, dict(zip(names, values)), (images,))
        return loss_of(config, logits, labels)

    compute = torch.compile(torch.func.grad_and_value(loss))

    def gradients(images, labels):
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            found, value = compute(values, images, labels)
        for parameter, gradient in zip(parameters, found):
            parameter.grad = gradient
        return value

    return gradients


def make_step(name, batch, variant, device):
    """A function that does one training step and returns the loss, once it is verified."""
    import torch
    from reference_model import image_sides

    mode, attention, *extras = variant.split("-")
    config = config_of(name)
    model = make_model(name, config, attention, extras)
    verify_model(config, model)
    layout = torch.channels_last if "conv" in extras or attention == "timm" \
        else torch.contiguous_format
    model.to(device, memory_format=layout)
    images = torch.rand(batch, config["num_channels"], *image_sides(config), device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(config["num_classes"], (batch,), device=device)
    if attention == "cudnn":  # the mathematical form stays for what cuDNN cannot do
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(True)
    gradients = make_gradients(config, model, mode, device)
    if mode != "eager":
        verify_gradients(config, model, gradients, images, labels)
    optimizer = make_optimizer(name, list(model.parameters()), recorded=mode == "graph")

    def step():
        optimizer.zero_grad(set_to_none=True)  # nothing to clear and nothing to add to
        loss = gradients(images, labels)
        optimizer.step()
        return loss

    return recorded(step) if mode == "graph" else step


def recorded(step):
    """The step as one CUDA graph."""
    import torch
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay():
        graph.replay()
        return loss

    return replay


# ---------------------------------------------------------------------------------------------
# Verified before timed

def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def gradient_vector(model):
    """All gradients in one vector, and none left behind."""
    import torch
    vector = torch.cat([p.grad.float().flatten().clone()
                        for _, p in sorted(model.named_parameters())])
    model.zero_grad(set_to_none=True)
    return vector


def verify_model(config, model):
    """Gradients of three images in fp32 on the CPU against the reference model's, without dropout;
    an error of 1e-4 ends the comparison."""
    import numpy as np
    import torch
    from pytorch_reference import random_batch, random_weights
    from reference_model import ViT, loss_of

    rng = np.random.default_rng(1)
    weights = {n: torch.from_numpy(w) for n, w in random_weights(ViT(config), rng).items()}
    batch = {n: torch.from_numpy(a) for n, a in random_batch(config, 3, rng).items()}
    initial = {n: value.clone() for n, value in model.state_dict().items()}
    gradients = []
    for module in (ViT(config).eval(), model.eval()):
        module.load_state_dict(weights)
        loss_of(config, module(batch["images"]), batch["labels"]).backward()
        gradients.append(gradient_vector(module))
    model.load_state_dict(initial)
    model.train()
    error = relative_error(gradients[1], gradients[0])
    if not error < 1e-4:
        sys.exit(f"gradients differ from the reference model by {error:.1e}")


def verify_gradients(config, model, gradients, images, labels):
    """What is timed against the same model as written, on the same device and the whole batch.

    On the CPU an error of 1e-4 ends the comparison; in bf16 one of twice what bf16 as written
    differs from fp32.
    """
    from reference_model import DROPOUTS
    if any(config[rate] > 0 for rate in DROPOUTS):
        model.eval()  # their numbers differ; compiled once more for it
    device = images.device.type
    exact, allowed = fp32_gradients(config, model, images, labels), 1e-4
    if device == "cuda":
        make_gradients(config, model, "eager", device)(images, labels)
        allowed += 2 * relative_error(gradient_vector(model), exact)
    gradients(images, labels)
    error = relative_error(gradient_vector(model), exact)
    model.train()
    if not error < allowed:
        sys.exit(f"compiled gradients differ by {error:.1e}, allowed is {allowed:.1e}")


def fp32_gradients(config, model, images, labels, parts=8):
    """As written, in parts of the batch: fp32 takes twice the memory."""
    from reference_model import loss_of
    for some, their_labels in zip(images.chunk(parts), labels.chunk(parts)):
        loss = loss_of(config, model(some), their_labels)
        (loss * (len(some) / len(images))).backward()
    return gradient_vector(model)


# ---------------------------------------------------------------------------------------------
# Timing

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


def worker(name, batch, variant, threads, device):
    import torch
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    step = make_step(name, batch, variant, device)
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
    model_name, batch_size, variant_name, num_threads, device_name = sys.argv[1:]
    worker(model_name, int(batch_size), variant_name, int(num_threads), device_name)
