"""PyTorch's kernels beside Vitrine's: attention, normalisation, activation, what is added, dropped
or summed by element.

Layouts are those of training: q, k and v are views of one packed tensor, statistics of the forward
pass are at hand. Where PyTorch has a backward kernel of its own it is called directly, without
autograd around it. "torch compiled" is torch.compile of the operation in one function.
"""

import math

import torch
import torch.nn.functional as F

from pytorch_work import Later, NoPeer, Work, gradients, operation, replay

aten = torch.ops.aten
EPS, DROPOUT = 1e-6, 0.1

# ---------------------------------------------------------------------------------------------
# Attention

def backends(case):
    from torch.nn.attention import SDPBackend
    names = dict(flash="FLASH_ATTENTION", math="MATH")
    if case.device == "cuda":
        names.update(cudnn="CUDNN_ATTENTION", efficient="EFFICIENT_ATTENTION")
    return {name: getattr(SDPBackend, attribute) for name, attribute in names.items()
            if hasattr(SDPBackend, attribute)}


@operation("attention")
def attention(case):
    from torch.nn.attention import sdpa_kernel
    batch, tokens, heads, size = case("B", "T", "H", "d")
    queries = case.keys.get("Tq", tokens)
    qkv = case.random(batch, tokens, 3, heads, size)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B,H,T,d], as they lie
    if queries != tokens:
        q = case.random(batch, queries, heads, size).transpose(1, 2)
    dout = case.random(batch, queries, heads, size).transpose(1, 2)
    if case.has("dropout"):
        raise NoPeer("another sequence of random numbers")

    def formula(q, k, v):
        return torch.softmax(q @ k.transpose(2, 3) / math.sqrt(size), dim=-1) @ v

    def by(backend):
        def function(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)
        return function

    inputs, some = (q, k, v), min(2, batch)
    peers = {}
    for name, backend in backends(case).items():
        function = by(backend)
        peers[f"torch sdpa {name}"] = (
            Later(replay, function, q, k, v, dout) if case.backward
            else lambda function=function: function(q, k, v))
    if case.backward:  # of the last images: float64 takes its memory and time
        return Work(lambda *inputs: gradients(formula, *inputs),
                    tuple(x[-some:] for x in (*inputs, dout)), peers,
                    lambda outputs: tuple(x[-some:] for x in outputs))
    return Work(formula, tuple(x[-some:] for x in inputs), peers, lambda y: y[-some:])


# ---------------------------------------------------------------------------------------------
# Normalisation, activation and what is added or dropped by element

@operation("layer_norm")
def layer_norm(case):
    rows, cols = case("rows", "cols")
    x, branch, dy, skip = (case.random(rows, cols) for _ in range(4))
    weight, bias = case.random(cols), case.random(cols)
    residual = case.has("residual")

    def norm(x, weight, bias):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        return (x - mean) * torch.rsqrt(var + EPS) * weight + bias

    if case.backward:
        past = skip if case.has("skip") else None
        return layer_norm_backward(norm, x, weight, bias, dy, past, case)
    if not residual:
        inputs = (x, weight, bias)
        peers = {"torch layer_norm":
                 lambda: aten.native_layer_norm(x, [cols], weight, bias, EPS)[0]}
        return Work(norm, inputs, peers)

    def fused(x, branch, weight, bias):
        x = x + branch
        return x, F.layer_norm(x, [cols], weight, bias, EPS)

    def formula(x, branch, weight, bias):
        x = x + branch
        return x, norm(x, weight, bias)

    inputs = (x, branch, weight, bias)
    peers = {"torch add and layer_norm": lambda: fused(*inputs)}
    return Work(formula, inputs, case.compiled(peers, fused, *inputs))


def layer_norm_backward(norm, x, weight, bias, dy, skip, case):
    """dx, dweight, dbias; `skip` is the gradient that goes past the norm."""
    shape = [x.shape[1]]
    mean, rstd = aten.native_layer_norm(x, shape, weight, bias, EPS)[1:]

    def formula(x, weight, bias, dy, *skip):
        dx, dweight, dbias = gradients(norm, x, weight, bias, dy)
        return dx + skip[0] if skip else dx, dweight, dbias

    def kernel(x, weight, bias, dy, mean, rstd, *skip):
        dx, dweight, dbias = aten.native_layer_norm_backward(dy, x, shape, mean, rstd, weight,
                                                             bias, [True] * 3)
        return dx + skip[0] if skip else dx, dweight, dbias

    past = () if skip is None else (skip,)
    inputs = (x, weight, bias, dy, mean, rstd, *past)
    peers = {"torch layer_norm" + (" and add" if past else ""): lambda: kernel(*inputs)}
    return Work(formula, (x, weight, bias, dy, *past), case.compiled(peers, kernel, *inputs))


def activation_function(kind, x):
    if kind == "relu":
        return x.clamp(min=0)
    if kind == "gelu_erf":
        return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def activation_gradient(kind, x, dy):
    if kind == "relu":
        return aten.threshold_backward(dy, x, 0)
    return aten.gelu_backward(dy, x, approximate="tanh" if kind == "gelu_tanh" else "none")


@operation("activation")
def activation(case):
    """With /derivative the forward pass writes it, for the backward pass to multiply by."""
    rows, cols = case("rows", "cols")
    kind = next((word for word in case.words if word in ("gelu_erf", "gelu_tanh", "relu")), None)
    if kind is None:
        raise NoPeer("the name has no gelu_erf, gelu_tanh or relu")
    x, dy = case.random(rows, cols), case.random(rows, cols)
    with_bias, with_derivative = case.has("bias"), case.has("derivative")
    if case.backward:
        return activation_backward(case, kind, x, dy, with_bias, with_derivative)

    def formula(x, *bias):
        x = x + bias[0] if bias else x
        y = activation_function(kind, x)
        if not with_derivative:
            return y
        return y, *gradients(lambda x: activation_function(kind, x), x, torch.ones_like(x))

    def forward(x, *bias):
        x = x + bias[0] if bias else x
        y = F.relu(x) if kind == "relu" else \
            F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")
        return (y, activation_gradient(kind, x, torch.ones_like(x))) if with_derivative else y

    inputs = (x, case.random(cols)) if with_bias else (x,)
    return Work(formula, inputs, case.compiled({"torch eager": lambda: forward(*inputs)}, forward,
                                               *inputs))


def activation_backward(case, kind, x, dy, with_bias, with_derivative):
    """dx, and its sum over the rows; `x` stands for the derivative where forward has kept it."""
    def backward(x, dy):
        dx = x * dy if with_derivative else activation_gradient(kind, x, dy)
        return (dx, dx.sum(0)) if with_bias else dx

    def formula(x, dy):
        if with_derivative:
            dx = x * dy
        else:
            dx, = gradients(lambda x: activation_function(kind, x), x, dy)
        return (dx, dx.sum(0)) if with_bias else dx

    inputs = (x, dy)
    return Work(formula, inputs, case.compiled({"torch eager": lambda: backward(*inputs)},
                                               backward, *inputs))


@operation("residual")
def residual(case):
    rows, cols = case("rows", "cols")
    if case.backward or case.has("drop"):
        raise NoPeer("a copy without dropout, with it other random numbers")
    x, branch, bias = case.random(rows, cols), case.random(rows, cols), case.random(cols)

    def formula(x, branch, *bias):
        return x + (branch + bias[0] if bias else branch)

    inputs = (x, branch, bias) if case.has("bias") else (x, branch)
    return Work(formula, inputs, case.compiled({"torch eager": lambda: formula(*inputs)}, formula,
                                               *inputs))


@operation("dropout")
def dropout(case):
    """Random numbers are not Vitrine's: held against its definition on the elements it kept."""
    x = case.random(*case("rows", "cols"))

    def checked(y):
        kept = y != 0
        share, n = kept.float().mean().item(), x.numel()
        if abs(share - (1 - DROPOUT)) > 6 * math.sqrt(DROPOUT * (1 - DROPOUT) / n) + 1e-3:
            return torch.zeros_like(x)
        return torch.where(kept, y, x / (1 - DROPOUT))

    def function(x):
        return F.dropout(x, DROPOUT)

    peers = case.compiled({"torch dropout": lambda: function(x)}, function, x)
    return Work(lambda x: x / (1 - DROPOUT), (x,), peers, checked)


@operation("tokens")
def tokens(case):
    batch, hidden = case("B", "D")
    count = case.keys["P"] if "P" in case.keys else case("T") - 1
    patches, token = case.random(batch, count, hidden), case.random(1, 1, hidden)
    position, dx = case.random(1, count + 1, hidden), case.random(batch, count + 1, hidden)

    def formula(patches, token, position):
        return torch.cat((token.expand(batch, -1, -1), patches), 1) + position

    def backward(dx):
        return dx[:, 1:].contiguous(), dx[:, 0].sum(0), dx.sum(0)

    function, inputs = (backward, (dx,)) if case.backward else \
        (formula, (patches, token, position))
    return Work(function, inputs, case.compiled({"torch eager": lambda: function(*inputs)},
                                                function, *inputs))


@operation("column_sum")
def column_sum(case):
    x = case.random(*case("rows", "cols"))
    return Work(lambda x: x.sum(0), (x,), {"torch sum": lambda: x.sum(0)})
