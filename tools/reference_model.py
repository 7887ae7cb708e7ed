"""Vitrine's Vision Transformer in plain PyTorch, written for reading.

The model is driven by the keys of `config.json`, and its parameters have the names and shapes of
`model.safetensors`, so this file is also the specification of what each key means.

`complete_config` checks a config and fills in defaults, `PRESETS` are the named ones, `ViT` is the
model and `loss_of` its loss. Needs torch (1.13 or newer) and numpy.
"""

import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------
# Configuration

DEFAULTS = dict(
    # HuggingFace's keys
    image_size=224, patch_size=16, num_channels=3, hidden_size=768, num_hidden_layers=12,
    num_attention_heads=12, intermediate_size=3072, hidden_act="gelu", hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, layer_norm_eps=1e-6, initializer_range=0.02, qkv_bias=True,
    # Vitrine's keys
    num_classes=1000, class_token="first", pool="token", pool_norm="before", norm_order="pre",
    final_norm=True, qkv_layout="dense", output_projection=True, proj_bias=True, patch_bias=True,
    position="learned", position_rows=None, head_softmax=False, activation_dropout_prob=0.0,
    drop_path_rate=0.0, init_values=0.0, reg_tokens=0, no_embed_class=False, qk_norm=False)

DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout_prob",
            "drop_path_rate")

CHOICES = dict(class_token=("first", "last", "none"), pool=("token", "mean"),
               pool_norm=("before", "after"), norm_order=("pre", "post", "d2l"),
               qkv_layout=("dense", "per_head"),
               position=("learned", "sincos1d", "sincos2d", "none"),
               hidden_act=("gelu", "gelu_tanh", "gelu_new", "gelu_pytorch_tanh", "relu"))

SMALL = dict(image_size=12, patch_size=4, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=2, intermediate_size=40, num_classes=7)

PRESETS = {
    "mnist-tutorial": dict(
        image_size=28, patch_size=4, num_channels=1, hidden_size=8, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, layer_norm_eps=1e-5, num_classes=10,
        position="sincos1d", qkv_layout="per_head", output_projection=False, final_norm=False,
        head_softmax=True),
    "notes-encoder": dict(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=6, num_attention_heads=8,
        intermediate_size=2048, hidden_act="relu", hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1, activation_dropout_prob=0.1, layer_norm_eps=1e-5,
        num_classes=10, norm_order="post", final_norm=False, patch_bias=False, position_rows=16),
    "d2l-224": dict(
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=1536, hidden_act="relu",
        attention_probs_dropout_prob=0.2, layer_norm_eps=1e-5, qkv_bias=False, proj_bias=False,
        class_token="last", norm_order="d2l", final_norm=False),
    "cifar10-small": dict(
        image_size=32, patch_size=4, hidden_size=48, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=192, hidden_act="gelu_tanh", layer_norm_eps=1e-5, num_classes=10,
        final_norm=False),
    "mnist-small": dict(
        image_size=28, patch_size=4, num_channels=1, hidden_size=64, num_hidden_layers=4,
        num_attention_heads=4, intermediate_size=128, num_classes=10),
    "vit_tiny_patch16_224": dict(hidden_size=192, num_attention_heads=3, intermediate_size=768),
    # Small models that together set every key to every value.
    "small-timm": dict(SMALL),
    "small-mean-before": dict(SMALL, pool="mean", layer_norm_eps=1e-5),
    "small-mean-after": dict(
        SMALL, image_size=[8, 20], class_token="none", pool="mean", pool_norm="after",
        position="sincos2d"),
    "small-post-none": dict(
        SMALL, class_token="none", pool="mean", norm_order="post", hidden_act="relu",
        position="none", final_norm=False),
    "small-post-softmax": dict(
        SMALL, image_size=[8, 12], class_token="last", norm_order="post", position="sincos2d",
        pool="mean", pool_norm="after", head_softmax=True),
    "small-d2l-last": dict(
        SMALL, class_token="last", norm_order="d2l", hidden_act="relu", position="sincos1d",
        qkv_bias=False, proj_bias=False, num_attention_heads=4),
    "small-no-projection": dict(
        SMALL, output_projection=False, qkv_bias=False, hidden_act="gelu_new", patch_bias=False,
        num_classes=5),
    "small-no-proj-bias": dict(
        SMALL, proj_bias=False, hidden_act="gelu_pytorch_tanh", num_attention_heads=16,
        num_hidden_layers=3, class_token="last", pool="mean", pool_norm="before"),
    "small-per-head": dict(
        SMALL, qkv_layout="per_head", class_token="last", position_rows=23, num_channels=2),
    "small-per-head-no-bias": dict(
        SMALL, image_size=[10, 15], patch_size=5, num_channels=1, qkv_layout="per_head",
        qkv_bias=False, output_projection=False, norm_order="d2l", class_token="none",
        pool="mean", num_attention_heads=1),
    "small-layer-scale": dict(SMALL, init_values=0.1, reg_tokens=2),
    "small-registers": dict(
        SMALL, image_size=[8, 12], reg_tokens=3, no_embed_class=True, pool="mean", qk_norm=True,
        init_values=1e-5),
    "small-registers-last": dict(
        SMALL, class_token="last", reg_tokens=1, position="sincos2d", qkv_layout="per_head",
        qk_norm=True),
    "small-one-token": dict(SMALL, image_size=4, class_token="none", pool="mean"),
}


def complete_config(given):
    """All keys, with defaults; HuggingFace's `num_labels` and `id2label` give `num_classes`."""
    given = dict(given)
    labels = given.pop("id2label", None)
    count = given.pop("num_labels", len(labels) if labels else None)
    if count is not None:
        given.setdefault("num_classes", count)
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        sys.exit(f"config: unknown keys {', '.join(unknown)}")
    config = {**DEFAULTS, **given}
    for key, values in CHOICES.items():
        if config[key] not in values:
            sys.exit(f"config: {key} is {config[key]!r}, expected one of {', '.join(values)}")
    if config["class_token"] == "none" and config["pool"] == "token":
        sys.exit("config: pool is 'token' but class_token is 'none'")
    if any(side % config["patch_size"] for side in image_sides(config)):
        sys.exit("config: image_size is not a multiple of patch_size")
    if config["position_rows"] is None:
        del config["position_rows"]
    elif config["position_rows"] < num_positions(config):
        sys.exit(f"config: position_rows is below the {num_positions(config)} of an image")
    return config


def image_sides(config):
    size = config["image_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def grid_sides(config):
    return tuple(side // config["patch_size"] for side in image_sides(config))


def num_tokens(config):
    rows, columns = grid_sides(config)
    return rows * columns + config["reg_tokens"] + (config["class_token"] != "none")


def first_patch(config):
    """The class token may be first; registers are always before the patches."""
    return config["reg_tokens"] + (config["class_token"] == "first")


def position_slice(config):
    """The tokens that have a position."""
    patches = math.prod(grid_sides(config))
    first = first_patch(config)
    return slice(first, first + patches) if config["no_embed_class"] else slice(None)


def num_positions(config):
    return len(range(num_tokens(config))[position_slice(config)])


# ---------------------------------------------------------------------------------------------
# Fixed position tables, computed in double and rounded to float

def sincos_1d(tokens, hidden):
    """table[i, j] = sin(i / 10000^(j/D)) for even j, cos(i / 10000^((j-1)/D)) for odd j.

    All T tokens are counted, the class token included, in the order of the sequence.
    """
    i = np.arange(tokens)[:, None]
    j = np.arange(hidden)[None, :]
    angle = i / 10000.0 ** ((j - j % 2) / hidden)
    return np.where(j % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def sincos_2d(rows, columns, hidden):
    """table[y·columns + x] = [sin(y·ω), cos(y·ω), sin(x·ω), cos(x·ω)], four blocks of D/4,

    ω_k = 10000^(-k / (D/4)), k = 0 … D/4 - 1, y and x in whole patches: moco-v3's table (Chen et
    al. 2021, arXiv:2104.02057) on its square grids. MAE puts the x blocks first; big_vision too,
    and it divides by D/4 - 1.
    """
    if hidden % 4:
        sys.exit(f"config: position sincos2d needs hidden_size in multiples of 4, not {hidden}")
    omega = 10000.0 ** (-np.arange(hidden // 4) / (hidden // 4))
    y = np.repeat(np.arange(rows), columns)[:, None] * omega
    x = np.tile(np.arange(columns), rows)[:, None] * omega
    return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], 1).astype(np.float32)


def fixed_positions(config):
    """[num_positions, D]; rows of a 2-D table that are no patch's are zero."""
    hidden = config["hidden_size"]
    if config["position"] == "sincos1d":
        return sincos_1d(num_positions(config), hidden)
    patches = sincos_2d(*grid_sides(config), hidden)
    table = np.zeros((num_tokens(config), hidden), np.float32)
    table[first_patch(config):first_patch(config) + len(patches)] = patches
    return table[position_slice(config)]


# ---------------------------------------------------------------------------------------------
# Model
#
# B images, C channels, P patches of p x p, T tokens, D hidden size, H heads of d = D / H, K classes

class PatchEmbed(nn.Module):
    """[B,C,height,width] -> [B,P,D]; patches do not overlap: the same as unfold and a matmul."""

    def __init__(self, config):
        super().__init__()
        p = config["patch_size"]
        self.proj = nn.Conv2d(config["num_channels"], config["hidden_size"], kernel_size=p,
                              stride=p, bias=config["patch_bias"])

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


class PerHeadLinear(nn.Module):
    """q, k and v by a d x d map of each head's own slice of x: [B,T,D] -> [B,T,3,H,d]."""

    def __init__(self, heads, head_size, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, heads, head_size, head_size))  # q|k|v head out in
        self.bias = nn.Parameter(torch.empty(3, heads, head_size)) if bias else None

    def forward(self, x):
        slices = x.unflatten(2, self.weight.shape[1:3])
        y = torch.einsum("bthi,phoi->btpho", slices, self.weight)
        return y if self.bias is None else y + self.bias


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v for every head, the heads side by side, and the output projection."""

    def __init__(self, config):
        super().__init__()
        hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.head_size = hidden // self.heads
        if config["qkv_layout"] == "dense":
            self.qkv = nn.Linear(hidden, 3 * hidden, bias=config["qkv_bias"])
        else:
            self.qkv = PerHeadLinear(self.heads, self.head_size, config["qkv_bias"])
        if config["qk_norm"]:  # over a head's channels, the same weights for all heads
            self.q_norm = nn.LayerNorm(self.head_size, eps=config["layer_norm_eps"])
            self.k_norm = nn.LayerNorm(self.head_size, eps=config["layer_norm_eps"])
        self.qk_norm = config["qk_norm"]
        self.proj = (nn.Linear(hidden, hidden, bias=config["proj_bias"])
                     if config["output_projection"] else nn.Identity())
        self.dropout = config["attention_probs_dropout_prob"]

    def forward(self, x):
        batch, tokens, hidden = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B,H,T,d]
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        out = self.attend(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, hidden))

    def attend(self, q, k, v):
        probabilities = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(self.head_size), dim=-1)
        return F.dropout(probabilities, self.dropout, self.training) @ v


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config["hidden_size"], config["intermediate_size"])
        self.fc2 = nn.Linear(config["intermediate_size"], config["hidden_size"])
        self.activation = config["hidden_act"]
        self.dropout = config["activation_dropout_prob"]

    def forward(self, x):
        x = self.fc1(x)
        if self.activation == "relu":
            x = F.relu(x)
        else:
            x = F.gelu(x, approximate="none" if self.activation == "gelu" else "tanh")
        return self.fc2(F.dropout(x, self.dropout, self.training))


class LayerScale(nn.Module):
    """Touvron et al. 2021, arXiv:2103.17239."""

    def __init__(self, hidden, init_values):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((hidden,), init_values))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, config, drop_path):
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.norm1 = nn.LayerNorm(hidden, eps=eps)
        self.attn = Attention(config)
        scale = config["init_values"]
        self.ls1 = LayerScale(hidden, scale) if scale else nn.Identity()
        self.norm2 = nn.LayerNorm(hidden, eps=eps)
        self.mlp = Mlp(config)
        self.ls2 = LayerScale(hidden, scale) if scale else nn.Identity()
        self.norm_order = config["norm_order"]
        self.dropout = config["hidden_dropout_prob"]
        self.drop_path = drop_path

    def forward(self, x):
        if self.norm_order == "post":
            x = self.norm1(x + self.drop(self.ls1(self.attn(x))))
            return self.norm2(x + self.drop(self.ls2(self.mlp(x))))
        if self.norm_order == "d2l":  # the residual starts after the first norm
            x = self.norm1(x)
            x = x + self.drop(self.ls1(self.attn(x)))
        else:
            x = x + self.drop(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop(self.ls2(self.mlp(self.norm2(x))))

    def drop(self, branch):
        branch = F.dropout(branch, self.dropout, self.training)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            branch = branch * torch.empty_like(branch[:, :1, :1]).bernoulli_(keep) / keep
        return branch


class ViT(nn.Module):
    """[B,C,height,width] -> logits [B,K], before the softmax of a `head_softmax` model."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, depth = config["hidden_size"], config["num_hidden_layers"]
        if config["class_token"] != "none":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden))
        if config["reg_tokens"]:  # Darcet et al. 2024, arXiv:2309.16588
            self.reg_token = nn.Parameter(torch.zeros(1, config["reg_tokens"], hidden))
        if config["position"] == "learned":
            rows = config.get("position_rows", num_positions(config))
            self.pos_embed = nn.Parameter(torch.zeros(1, rows, hidden))
        elif config["position"] != "none":
            table = torch.from_numpy(fixed_positions(config))[None]
            self.register_buffer("pos_embed", table, persistent=False)
        self.patch_embed = PatchEmbed(config)
        rates = torch.linspace(0, config["drop_path_rate"], depth).tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        norm = nn.LayerNorm(hidden, eps=config["layer_norm_eps"])
        # Names as timm has them: fc_norm normalises the mean of the tokens, norm the tokens.
        self.norm_name = ("fc_norm" if (config["pool"], config["pool_norm"]) == ("mean", "after")
                          else "norm")
        if config["final_norm"]:
            self.add_module(self.norm_name, norm)
        self.head = nn.Linear(hidden, config["num_classes"])

    def forward(self, images):
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        norm = getattr(self, self.norm_name) if self.config["final_norm"] else nn.Identity()
        pooled = self.pool(norm(x)) if self.norm_name == "norm" else norm(self.pool(x))
        return self.head(pooled)

    def embed(self, images):
        x = self.patch_embed(images)
        if self.config["reg_tokens"]:
            x = torch.cat((self.reg_token.expand(len(x), -1, -1), x), 1)
        if self.config["class_token"] != "none":
            token = self.cls_token.expand(len(x), -1, -1)
            x = torch.cat((token, x) if self.config["class_token"] == "first" else (x, token), 1)
        if self.config["position"] != "none":
            positioned = torch.zeros_like(x)
            positioned[:, position_slice(self.config)] = self.pos_embed[
                :, :num_positions(self.config)].to(x.dtype)
            x = x + positioned
        return F.dropout(x, self.config["hidden_dropout_prob"], self.training)

    def pool(self, x):
        """The class token, or the mean of the patch tokens (never of class token or registers)."""
        place = self.config["class_token"]
        if self.config["pool"] == "token":
            return x[:, 0] if place == "first" else x[:, -1]
        first = first_patch(self.config)
        return x[:, first:first + math.prod(grid_sides(self.config))].mean(1)


def loss_of(config, logits, labels, smoothing=0.0):
    """Mean cross-entropy. The tutorial's head ends in a softmax, and its loss takes another."""
    if config["head_softmax"]:
        logits = torch.softmax(logits, -1)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)
