"""The reference models as their documents' own code builds them, in plain PyTorch.

Four published tutorials, each with its own modules, and a small Vision Transformer in timm's.
Nothing here knows of reference_model.py, Vitrine's one model for all of them: that both compute
the same numbers is what tools/make_pytorch_values.py asserts. Where a document's prose and code
differ, the code is followed. There is no dropout here: nothing random in a check.

Every model has `logits(images)` and `loss(images, labels)`; document_parameters.py says which of
its parameters are which of Vitrine's. Needs torch (1.13 or newer) and numpy.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# B images, C channels, p x p pixels a patch, P patches, T tokens, D hidden size, H heads of d


class Classifier(nn.Module):
    def loss(self, images, labels):
        return F.cross_entropy(self.logits(images), labels)


# ---------------------------------------------------------------------------------------------
# mnist-tutorial: "Vision Transformers from Scratch (PyTorch): A step-by-step guide", B. Pulfer


def patchify(images, side):
    """[B,C,h,w] -> [B, side x side, C x p x p], cut out one by one."""
    batch, channels, height, width = images.shape
    patches = images.new_zeros(batch, side ** 2, channels * height * width // side ** 2)
    size = height // side
    for b, i, j in itertools.product(range(batch), range(side), range(side)):
        patch = images[b, :, i * size:(i + 1) * size, j * size:(j + 1) * size]
        patches[b, i * side + j] = patch.flatten()
    return patches


def interleaved_positions(tokens, hidden):
    table = torch.ones(tokens, hidden)
    for i, j in itertools.product(range(tokens), range(hidden)):
        table[i][j] = (np.sin(i / 10000 ** (j / hidden)) if j % 2 == 0
                       else np.cos(i / 10000 ** ((j - 1) / hidden)))
    return table


class TutorialAttention(nn.Module):
    """Each head maps its own slice of a token by d x d maps; the heads are not mixed afterwards."""

    def __init__(self, hidden, heads):
        super().__init__()
        self.heads, self.head_size = heads, hidden // heads

        def maps():
            return nn.ModuleList(nn.Linear(self.head_size, self.head_size) for _ in range(heads))

        self.q_mappings, self.k_mappings, self.v_mappings = maps(), maps(), maps()

    def forward(self, sequences):
        results = []
        for sequence in sequences:  # [T,D]
            by_head = []
            for head in range(self.heads):
                part = sequence[:, head * self.head_size:(head + 1) * self.head_size]
                q, k, v = (maps[head](part) for maps in
                           (self.q_mappings, self.k_mappings, self.v_mappings))
                attention = torch.softmax(q @ k.T / self.head_size ** 0.5, dim=-1)
                by_head.append(attention @ v)
            results.append(torch.hstack(by_head))
        return torch.stack(results)


class TutorialBlock(nn.Module):
    def __init__(self, hidden, heads, mlp_ratio=4):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden)
        self.mhsa = TutorialAttention(hidden, heads)
        self.norm2 = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, mlp_ratio * hidden), nn.GELU(),
                                 nn.Linear(mlp_ratio * hidden, hidden))

    def forward(self, x):
        x = x + self.mhsa(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TutorialVit(nn.Module):
    """Ends in a softmax, and its loss is torch's cross-entropy, which takes another."""

    def __init__(self, channels=1, size=28, side=7, blocks=2, hidden=8, heads=2, classes=10):
        super().__init__()
        self.side = side
        self.linear_mapper = nn.Linear(channels * (size // side) ** 2, hidden)
        self.class_token = nn.Parameter(torch.rand(1, hidden))
        self.register_buffer("positions", interleaved_positions(side ** 2 + 1, hidden))
        self.blocks = nn.ModuleList(TutorialBlock(hidden, heads) for _ in range(blocks))
        self.mlp = nn.Sequential(nn.Linear(hidden, classes), nn.Softmax(dim=-1))

    def encode(self, images):
        tokens = self.linear_mapper(patchify(images, self.side))
        batch = len(tokens)
        tokens = torch.cat((self.class_token.expand(batch, 1, -1), tokens), dim=1)
        x = tokens + self.positions.repeat(batch, 1, 1)
        for block in self.blocks:
            x = block(x)
        return x[:, 0]

    def logits(self, images):
        return self.mlp[0](self.encode(images))

    def loss(self, images, labels):
        return F.cross_entropy(self.mlp(self.encode(images)), labels)


# ---------------------------------------------------------------------------------------------
# notes-encoder: lecture notes on the Vision Transformer with torch.nn.TransformerEncoder


def image_to_embedding_naive(images, patch_size, weight):
    """[B,C,h,w] by a weight [C x p x p, D] -> [B,P,D]: patches, then a matrix product."""
    patches = F.unfold(images, kernel_size=patch_size, stride=patch_size).transpose(-1, -2)
    return patches @ weight


def image_to_embedding_conv(images, patch_size, weight):
    """The same as a convolution whose stride is the size of its kernel."""
    kernel = weight.transpose(0, 1).reshape(-1, images.shape[1], patch_size, patch_size)
    return F.conv2d(images, kernel, stride=patch_size).flatten(2).transpose(-1, -2)


class NotesEncoder(Classifier):
    """torch's encoder layers as they are: post-norm, ReLU, 2048 inside. Batch-first, unlike the
    notes, whose layers take the images of a batch for tokens; one class token for all images."""

    def __init__(self, channels=3, patch_size=4, hidden=8, max_tokens=16, classes=10):
        super().__init__()
        self.patch_size = patch_size
        self.embed = image_to_embedding_conv
        self.weight = nn.Parameter(torch.randn(patch_size * patch_size * channels, hidden))
        self.class_token = nn.Parameter(torch.randn(1, 1, hidden))
        self.position_table = nn.Parameter(torch.randn(max_tokens, hidden))
        layer = nn.TransformerEncoderLayer(d_model=hidden, nhead=8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=6)
        self.linear = nn.Linear(hidden, classes)

    def logits(self, images):
        tokens = self.embed(images, self.patch_size, self.weight)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + torch.tile(self.position_table[:tokens.shape[1]], [len(tokens), 1, 1])
        return self.linear(self.encoder(tokens)[:, 0, :])


# ---------------------------------------------------------------------------------------------
# d2l-224: a Vision Transformer with the attention of "Dive into Deep Learning"


class D2lPatches(nn.Module):
    def __init__(self, patch_size):
        super().__init__()
        hidden = 3 * patch_size ** 2
        self.conv = nn.Conv2d(3, hidden, kernel_size=patch_size, stride=patch_size)

    def forward(self, images):
        return self.conv(images).flatten(2).transpose(1, 2)


class D2lPositions(nn.Module):
    """The class token comes last."""

    def __init__(self, tokens, hidden):
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, hidden))
        self.pos_emb = nn.Parameter(torch.randn(1, tokens, hidden))

    def forward(self, x):
        return self.pos_emb + torch.cat((x, self.cls.expand(x.shape[0], -1, -1)), dim=1)


class D2lAttention(nn.Module):
    """d2l.MultiHeadAttention: heads go into the batch, scaled dot products, and back."""

    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.W_q = nn.Linear(hidden, hidden, bias=False)
        self.W_k = nn.Linear(hidden, hidden, bias=False)
        self.W_v = nn.Linear(hidden, hidden, bias=False)
        self.W_o = nn.Linear(hidden, hidden, bias=False)

    def heads_to_batch(self, x):  # [B,T,D] -> [B·H,T,d]
        x = x.reshape(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)
        return x.reshape(-1, x.shape[2], x.shape[3])

    def batch_to_heads(self, x):  # and back
        x = x.reshape(-1, self.heads, x.shape[1], x.shape[2]).permute(0, 2, 1, 3)
        return x.reshape(x.shape[0], x.shape[1], -1)

    def forward(self, queries, keys, values):
        queries, keys, values = (self.heads_to_batch(maps(x)) for maps, x in (
            (self.W_q, queries), (self.W_k, keys), (self.W_v, values)))
        scores = torch.bmm(queries, keys.transpose(1, 2)) / math.sqrt(queries.shape[-1])
        return self.W_o(self.batch_to_heads(torch.bmm(F.softmax(scores, dim=-1), values)))


class D2lBlock(nn.Module):
    """The first norm stands before the residual, which therefore carries normalised tokens."""

    def __init__(self, hidden, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden)
        self.attention = D2lAttention(hidden, heads)
        self.norm2 = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(),
                                 nn.Linear(2 * hidden, hidden))

    def forward(self, x):
        x = self.norm1(x)
        x = x + self.attention(x, x, x)
        return x + self.mlp(self.norm2(x))


class D2lVit(Classifier):
    """The document hands all tokens to its head; the head here gets the class token, the last."""

    def __init__(self, size=224, patch_size=16, blocks=2, heads=4, classes=1000):
        super().__init__()
        hidden = 3 * patch_size ** 2
        self.patch = D2lPatches(patch_size)
        self.pos = D2lPositions((size // patch_size) ** 2 + 1, hidden)
        self.transformer = nn.Sequential()
        for i in range(blocks):
            self.transformer.add_module(f"transformer{i}", D2lBlock(hidden, heads))
        self.head = nn.Linear(hidden, classes)

    def logits(self, images):
        return self.head(self.transformer(self.pos(self.patch(images)))[:, -1])


# ---------------------------------------------------------------------------------------------
# cifar10-small: "Implementing Vision Transformer (ViT) from Scratch", T. Nguyen


class CifarEmbeddings(nn.Module):
    def __init__(self, size, patch_size, channels, hidden):
        super().__init__()
        self.projection = nn.Conv2d(channels, hidden, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, hidden))
        self.position_embeddings = nn.Parameter(
            torch.randn(1, (size // patch_size) ** 2 + 1, hidden))

    def forward(self, images):
        x = self.projection(images).flatten(2).transpose(1, 2)
        return torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.position_embeddings


class CifarHead(nn.Module):
    def __init__(self, hidden, head_size):
        super().__init__()
        self.query = nn.Linear(hidden, head_size)
        self.key = nn.Linear(hidden, head_size)
        self.value = nn.Linear(hidden, head_size)

    def forward(self, x):
        scores = torch.matmul(self.query(x), self.key(x).transpose(-1, -2))
        scores = scores / math.sqrt(self.query.out_features)
        return torch.matmul(F.softmax(scores, dim=-1), self.value(x))


class CifarAttention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = nn.ModuleList(CifarHead(hidden, hidden // heads) for _ in range(heads))
        self.output_projection = nn.Linear(hidden, hidden)

    def forward(self, x):
        return self.output_projection(torch.cat([head(x) for head in self.heads], dim=-1))


class NewGelu(nn.Module):
    """GELU by tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415), as GPT and BERT have it."""

    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) *
                                           (x + 0.044715 * torch.pow(x, 3.0))))


class CifarMlp(nn.Module):
    def __init__(self, hidden, intermediate):
        super().__init__()
        self.dense_1 = nn.Linear(hidden, intermediate)
        self.activation = NewGelu()
        self.dense_2 = nn.Linear(intermediate, hidden)

    def forward(self, x):
        return self.dense_2(self.activation(self.dense_1(x)))


class CifarBlock(nn.Module):
    def __init__(self, hidden, heads, intermediate):
        super().__init__()
        self.attention = CifarAttention(hidden, heads)
        self.layernorm_1 = nn.LayerNorm(hidden)
        self.mlp = CifarMlp(hidden, intermediate)
        self.layernorm_2 = nn.LayerNorm(hidden)

    def forward(self, x):
        x = x + self.attention(self.layernorm_1(x))
        return x + self.mlp(self.layernorm_2(x))


class CifarVit(Classifier):
    """The encoder's output goes to the classifier as it is, without a last norm."""

    def __init__(self, size=32, patch_size=4, channels=3, hidden=48, blocks=4, heads=4,
                 intermediate=192, classes=10):
        super().__init__()
        self.embedding = CifarEmbeddings(size, patch_size, channels, hidden)
        self.blocks = nn.ModuleList(CifarBlock(hidden, heads, intermediate) for _ in range(blocks))
        self.classifier = nn.Linear(hidden, classes)

    def logits(self, images):
        x = self.embedding(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x[:, 0])


# ---------------------------------------------------------------------------------------------
# timm-32: a small Vision Transformer as timm's vision_transformer.py builds one


class TimmPatchEmbed(nn.Module):
    def __init__(self, patch_size, channels, hidden):
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden, kernel_size=patch_size, stride=patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class TimmAttention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.num_heads = heads
        self.scale = (hidden // heads) ** -0.5
        self.qkv = nn.Linear(hidden, hidden * 3, bias=True)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x):
        batch, tokens, hidden = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, hidden // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, hidden))


class TimmMlp(nn.Module):
    def __init__(self, hidden, intermediate):
        super().__init__()
        self.fc1 = nn.Linear(hidden, intermediate)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(intermediate, hidden)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class TimmBlock(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, eps=1e-6)
        self.attn = TimmAttention(hidden, heads)
        self.norm2 = nn.LayerNorm(hidden, eps=1e-6)
        self.mlp = TimmMlp(hidden, 4 * hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TimmVit(Classifier):
    def __init__(self, size=32, patch_size=8, channels=3, hidden=32, blocks=3, heads=4, classes=10):
        super().__init__()
        self.patch_embed = TimmPatchEmbed(patch_size, channels, hidden)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch_size) ** 2 + 1, hidden))
        self.blocks = nn.Sequential(*[TimmBlock(hidden, heads) for _ in range(blocks)])
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.head = nn.Linear(hidden, classes)

    def logits(self, images):
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x[:, 0])
