"""Which parameters of the models in document_models.py are which of Vitrine's.

A Vitrine parameter consists of the document's parameters in its list, one below the other (along
their first dimension), in Vitrine's shape. So the rows of `attn.qkv` are q|k|v, head by head, and
per-head maps [3,H,d,d] are q|k|v, head, out, in.
"""

from collections import namedtuple

import torch

from document_models import CifarVit, D2lVit, NotesEncoder, TimmVit, TutorialVit

# ---------------------------------------------------------------------------------------------
# Names: {Vitrine's: [the document's]}


def renamed(modules):
    return {f"{ours}.{kind}": [f"{theirs}.{kind}"]
            for ours, theirs in modules.items() for kind in ("weight", "bias")}


def same(modules):
    return renamed({module: module for module in modules})


def in_block(names, ours, theirs):
    return {f"{ours}.{name}": [f"{theirs}.{part}" for part in parts]
            for name, parts in names.items()}


def of_blocks(names_of_block, count):
    return {name: parts for block in range(count) for name, parts in names_of_block(block).items()}


def tutorial_names(block, heads=2):
    names = {f"attn.qkv.{kind}": [f"mhsa.{map}_mappings.{head}.{kind}"
                                  for map in "qkv" for head in range(heads)]
             for kind in ("weight", "bias")}
    names.update(same(["norm1", "norm2"]), **renamed({"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}))
    return in_block(names, f"blocks.{block}", f"blocks.{block}")


def notes_names(block):
    names = {"attn.qkv.weight": ["self_attn.in_proj_weight"],
             "attn.qkv.bias": ["self_attn.in_proj_bias"]}
    names.update(same(["norm1", "norm2"]), **renamed(
        {"attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}))
    return in_block(names, f"blocks.{block}", f"encoder.layers.{block}")


def d2l_names(block):
    names = {"attn.qkv.weight": [f"attention.W_{map}.weight" for map in "qkv"],
             "attn.proj.weight": ["attention.W_o.weight"]}
    names.update(same(["norm1", "norm2"]), **renamed({"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}))
    return in_block(names, f"blocks.{block}", f"transformer.transformer{block}")


def cifar_names(block, heads=4):
    names = {f"attn.qkv.{kind}": [f"attention.heads.{head}.{map}.{kind}"
                                  for map in ("query", "key", "value") for head in range(heads)]
             for kind in ("weight", "bias")}
    names.update(renamed({"norm1": "layernorm_1", "norm2": "layernorm_2",
                          "attn.proj": "attention.output_projection",
                          "mlp.fc1": "mlp.dense_1", "mlp.fc2": "mlp.dense_2"}))
    return in_block(names, f"blocks.{block}", f"blocks.{block}")


def timm_names(block):
    names = same(["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"])
    return in_block(names, f"blocks.{block}", f"blocks.{block}")


# ---------------------------------------------------------------------------------------------
# Models and tensors

# The parameters named in `transposed` are [in, out] in the document.
DocumentModel = namedtuple("DocumentModel", "module names transposed")


def gathered(document, tensors, name, shape):
    """Vitrine's tensor from the document's."""
    parts = [tensors[part].T if part in document.transposed else tensors[part]
             for part in document.names[name]]
    return torch.cat(parts).reshape(shape)


def scattered(document, tensor, name):
    """Yields the document's parameters (name, numbers) that Vitrine's tensor consists of."""
    parameters = dict(document.module.named_parameters())
    rows = [parameters[part] for part in document.names[name]]
    pieces = torch.split(tensor.flatten(), [row.numel() for row in rows])
    for part, row, piece in zip(document.names[name], rows, pieces):
        if part in document.transposed:
            yield part, piece.reshape(row.T.shape).T
        else:
            yield part, piece.reshape(row.shape)


def tutorial():
    return DocumentModel(TutorialVit(), {
        "cls_token": ["class_token"], **of_blocks(tutorial_names, 2),
        **renamed({"patch_embed.proj": "linear_mapper", "head": "mlp.0"})}, ())


def notes_encoder():
    return DocumentModel(NotesEncoder(), {
        "cls_token": ["class_token"], "pos_embed": ["position_table"],
        "patch_embed.proj.weight": ["weight"], **of_blocks(notes_names, 6),
        **renamed({"head": "linear"})}, ("weight",))


def d2l_224():
    return DocumentModel(D2lVit(), {
        "cls_token": ["pos.cls"], "pos_embed": ["pos.pos_emb"], **of_blocks(d2l_names, 2),
        **renamed({"patch_embed.proj": "patch.conv", "head": "head"})}, ())


def cifar10_small():
    return DocumentModel(CifarVit(), {
        "cls_token": ["embedding.cls_token"], "pos_embed": ["embedding.position_embeddings"],
        **of_blocks(cifar_names, 4),
        **renamed({"patch_embed.proj": "embedding.projection", "head": "classifier"})}, ())


def timm_32():
    return DocumentModel(TimmVit(), {
        "cls_token": ["cls_token"], "pos_embed": ["pos_embed"], **of_blocks(timm_names, 3),
        **same(["patch_embed.proj", "norm", "head"])}, ())


DOCUMENT_MODELS = {"mnist-tutorial": tutorial, "notes-encoder": notes_encoder, "d2l-224": d2l_224,
                   "cifar10-small": cifar10_small, "timm-32": timm_32}
