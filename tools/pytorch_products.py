"""PyTorch's kernels beside Vitrine's: matrix products, patches, the loss and the update."""

import torch
import torch.nn.functional as F

from pytorch_work import Later, NoPeer, Work, operation

aten = torch.ops.aten
ADAM = dict(lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.05, eps=1e-8)

# ---------------------------------------------------------------------------------------------
# Products

@operation("matmul")
def matmul(case):
    m, n, k = case("m", "n", "k")
    if case.has("dweight") or case.has("dW"):
        a, b = case.random(k, m), case.random(k, n)
        with_bias = case.has("bias")

        def formula(a, b):
            return (a.t() @ b, a.sum(0)) if with_bias else a.t() @ b

        peers = {"torch mm and sum" if with_bias else "torch mm": lambda: formula(a, b)}
        return Work(formula, (a, b), peers)
    if case.has("dx"):
        a, b = case.random(m, k), case.random(k, n)
        return Work(torch.matmul, (a, b), {"torch mm": lambda: a @ b})
    a, b, bias = case.random(m, k), case.random(n, k), case.random(n)
    gelu = case.has("gelu")
    approximate = "none" if case.has("gelu_erf") else "tanh"

    def formula(a, b, *bias):
        y = F.linear(a, b, *bias)
        return F.gelu(y, approximate=approximate) if gelu else y

    inputs = (a, b, bias) if case.has("bias") else (a, b)
    return Work(formula, inputs, case.compiled({"torch linear": lambda: formula(*inputs)}, formula,
                                               *inputs))


@operation("patch_convolution", "patch_embed")
def patch_projection(case):
    batch, channels, size, p = case("B", "C", "size", "p")
    if "D" not in case.keys:
        return unfold(case, batch, channels, size, p)
    hidden = case("D")
    images = case.random(batch, channels, size, size)
    weight, bias = case.random(hidden, channels, p, p), case.random(hidden)
    dy = case.random(batch, hidden, size // p, size // p)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (images, weight, dy)]

    def unfolded(images):
        return patches_of(images, p).flatten(0, 1)

    def by_matmul(images, weight, bias):
        y = F.linear(unfolded(images), weight.flatten(1), bias)
        return y.reshape(batch, size // p, size // p, hidden).permute(0, 3, 1, 2)

    def gradient(images, weight, dy):
        return aten.convolution_backward(dy, images, weight, [hidden], [p, p], [0, 0], [1, 1],
                                         False, [0, 0], 1, [False, True, True])[1:]

    def gradient_by_matmul(images, weight, dy):
        dy = dy.permute(0, 2, 3, 1).reshape(-1, hidden)
        return (dy.t() @ unfolded(images)).reshape(weight.shape), dy.sum(0)

    if case.backward:
        return Work(gradient_by_matmul, (images, weight, dy), {
            "torch conv2d": lambda: gradient(images, weight, dy),
            "torch conv2d channels-last": lambda: gradient(*last),
            "torch unfold and matmul": lambda: gradient_by_matmul(images, weight, dy)})
    peers = {"torch conv2d": lambda: F.conv2d(images, weight, bias, stride=p),
             "torch conv2d channels-last": lambda: F.conv2d(last[0], last[1], bias, stride=p),
             "torch unfold and matmul": lambda: by_matmul(images, weight, bias)}
    return Work(by_matmul, (images, weight, bias), peers)


def patches_of(images, p):
    """[B,C,height,width] -> [B,P,C·p·p]"""
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // p, p, width // p, p)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)


def unfold(case, batch, channels, size, p):
    """Bytes to normalised patches; the rows of a data set are gathered, nothing is cropped."""
    if case.has("views"):
        raise NoPeer("crops, resizes and flips each image by itself")
    if case.backward:
        raise NoPeer("the gradient is a matmul")
    store = torch.randint(256, (2 * batch, channels, size, size), dtype=torch.uint8,
                          device=case.device)
    rows = torch.randperm(2 * batch, device=case.device)[:batch]
    mean, std = (torch.rand(1, channels, 1, 1, device=case.device) + 1 for _ in range(2))

    def formula(store, rows, mean, std):
        images = store[rows].to(mean.dtype) / 255
        return patches_of((images - mean) / std, p)

    def function(*inputs):
        return formula(*inputs).to(case.dtype)

    inputs = (store, rows, mean, std)
    return Work(formula, inputs, case.compiled({"torch gather and unfold":
                                                lambda: function(*inputs)}, function, *inputs))


# ---------------------------------------------------------------------------------------------
# Loss and update

@operation("cross_entropy")
def cross_entropy(case):
    batch, classes = case("B", "K")
    logits = case.random(batch, classes)
    labels = torch.randint(classes, (batch,), device=case.device)
    smoothing = 0.1 if case.has("smoothing") else 0.0
    twice = case.has("head_softmax")  # a softmax in the head, before that of the loss

    def loss(logits):
        scores = F.softmax(logits, 1) if twice else logits
        return F.cross_entropy(scores, labels, label_smoothing=smoothing)

    def formula(logits):
        target = torch.full_like(logits, smoothing / classes)
        target.scatter_add_(1, labels[:, None],
                            torch.full_like(logits[:, :1], 1 - smoothing))
        scores = F.softmax(logits, 1) if twice else logits
        value = -(target * F.log_softmax(scores, 1)).sum(1).mean()
        gradient = (F.softmax(scores, 1) - target) / batch
        if twice:
            gradient = scores * (gradient - (scores * gradient).sum(1, keepdim=True))
        return value, gradient

    def eager():
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(leaf)
        return value.detach(), *torch.autograd.grad(value, leaf)

    def both(logits):
        dlogits, value = torch.func.grad_and_value(loss)(logits)
        return value, dlogits

    return Work(formula, (logits,), case.compiled({"torch eager": eager}, both, logits))


def vit_base_sizes(n):
    """The sizes of ViT-B/16's tensors one after another, until there are n numbers."""
    hidden = 768
    block = [hidden, hidden, 3 * hidden * hidden, 3 * hidden, hidden * hidden, hidden, hidden,
             hidden, 4 * hidden * hidden, 4 * hidden, 4 * hidden * hidden, hidden]
    sizes = [hidden, 197 * hidden, hidden * hidden, hidden, *block * 12, hidden, hidden,
             1000 * hidden, 1000]
    chosen, left = [], n
    while left > 0:
        for size in sizes:
            if left > 0:
                chosen.append(min(size, left))
                left -= chosen[-1]
    return chosen


@operation("adamw")
def adamw(case):
    """In bf16 the weights that a step reads are a copy in that type, which the update writes."""
    n, copies = case("n"), case.dtype != torch.float32
    p, g, m = (case.random(n, dtype=torch.float32) for _ in range(3))
    v = case.random(n, dtype=torch.float32).square()

    def formula(p, g, m, v):
        p = p * (1 - ADAM["lr"] * ADAM["weight_decay"])
        m = ADAM["beta1"] * m + (1 - ADAM["beta1"]) * g
        v = ADAM["beta2"] * v + (1 - ADAM["beta2"]) * g * g
        root = (v / (1 - ADAM["beta2"])).sqrt() + ADAM["eps"]
        p = p - ADAM["lr"] * (m / (1 - ADAM["beta1"])) / root
        return (p, m, v, p) if copies else (p, m, v)

    def fused(sizes):  # as torch.optim.AdamW(fused=True) calls it; changes its own copies
        lists = [list(t.clone().split(sizes)) for t in (p, g, m, v)]
        steps = [torch.zeros((), device=case.device) for _ in sizes]
        working = [t.to(case.dtype) for t in lists[0]] if copies else None

        def update():
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(*lists, [], steps, amsgrad=False, maximize=False, **ADAM)
            if copies:
                torch._foreach_copy_(working, lists[0])
                return lists[0], lists[2], lists[3], working
            return lists[0], lists[2], lists[3]
        return update

    peers = {"torch fused, one tensor": Later(fused, [n]),
             "torch fused, tensors of ViT-B": Later(fused, vit_base_sizes(n))}
    return Work(formula, (p, g, m, v), peers,
                lambda outputs: tuple(torch.cat(tensors) for tensors in outputs))


@operation("gradient_norm")
def gradient_norm(case):
    n = case("n")
    g = case.random(n, dtype=torch.float32)
    parts = list(g.split(vit_base_sizes(n)))

    def by_tensor():  # as torch.nn.utils.clip_grad_norm_
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))

    return Work(lambda g: g.square().sum().sqrt(), (g,),
                {"torch vector_norm": lambda: torch.linalg.vector_norm(g),
                 "torch foreach_norm, tensors of ViT-B": by_tensor})
