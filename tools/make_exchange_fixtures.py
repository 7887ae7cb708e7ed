#!/usr/bin/env python3
"""Makes tests/exchange: tiny models of timm, HuggingFace transformers and torchvision, written by
those libraries' own functions, with the logits that the libraries compute.

  python3 -m venv v5 && v5/bin/pip install torch torchvision timm safetensors 'transformers>=5'
  python3 -m venv v4 && v4/bin/pip install torch safetensors 'transformers>=4.57,<5'
  v5/bin/python tools/make_exchange_fixtures.py    # timm, torchvision, HuggingFace v5
  v4/bin/python tools/make_exchange_fixtures.py    # HuggingFace v4

A fixture is a directory with what the library wrote (config.json, model.safetensors,
preprocessor_config.json) and

  expected.safetensors   images F32 [B,C,H,W] (normalised), labels I64 [B], logits F32 [B,K];
                         of a model without a classifier also the head.weight and head.bias that
                         the logits are made with
  resized.safetensors    timm: the same of the model that timm makes of the checkpoint for images
                         of another size (positions interpolated)

and beside the directories there is

  resample.safetensors   timm's resample_abs_pos_embed: CASE.from [1,prefix+h·w,D] and CASE.to, the
                         CASE being "4x4_to_7x7" or "7x7_to_3x5_prefix"

Logits are computed in double precision and rounded once; float32 must agree with them to 1e-5.
Every weight, norms and biases too, is drawn at random, and every tensor must move the logits, so
that a reader which drops or swaps one is noticed.
"""

import argparse
import copy
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from exchange_check import randomise

IMAGES = 2
FLOAT32_ERROR = 1e-5


def installed(library):
    return importlib.util.find_spec(library) is not None


# ---------------------------------------------------------------------------------------------
# Weights, batches, expectations

def drawn(model, seed):
    """Weights that exchange_check draws; none of them 0 or 1."""
    for name, parameter in randomise(model, seed).named_parameters():
        assert not ((parameter == 0) | (parameter == 1)).any(), name
    return model


def batch(channels, height, width, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(IMAGES, channels, height, width, generator=generator),
            torch.randint(classes, (IMAGES,), generator=generator))


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def logits_of(model, forward, images):
    """`forward(model, images)` in double precision, held against float32."""
    with torch.no_grad():
        exact = forward(copy.deepcopy(model).double(), images.double())
        error = relative(forward(model, images), exact)
    assert error < FLOAT32_ERROR, f"float32 logits differ by {error}"
    return exact.float()


def check_every_tensor_matters(model, forward, images, without_effect):
    """A tensor that never moves the logits could be lost without notice. A key's bias shifts all
    scores of a query alike, so that no model's logits tell it."""
    reference = logits_of(model, forward, images)
    for name, parameter in model.named_parameters():
        if any(part in name for part in without_effect):
            continue
        changed = copy.deepcopy(model)
        with torch.no_grad():
            dict(changed.named_parameters())[name].mul_(1.1)
            difference = relative(forward(changed, images), reference)
        assert difference > 1e-4, f"{name} moves the logits by {difference} only"


def write_expected(path, library, images, labels, logits, **more):
    tensors = dict(images=images, labels=labels, logits=logits, **more)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path,
              metadata={"library": library})


def new_directory(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def check_files(directory):
    """No path of the machine that made the fixture may be in it."""
    for file in directory.iterdir():
        contents = file.read_bytes()
        for private in (str(directory.parent), str(Path.home())):
            assert private.encode() not in contents, f"{file}: names {private}"
        if file.suffix == ".json":
            config = json.loads(contents)
            assert "_name_or_path" not in config and '"/' not in contents.decode(), file


# ---------------------------------------------------------------------------------------------
# timm

def make_timm(directory, seed, size, channels=3, resized=None, **arguments):
    import timm
    arguments = dict(img_size=size, patch_size=8, embed_dim=16, depth=2, num_classes=4) | arguments
    if channels != 3:
        arguments["in_chans"] = channels
    model = drawn(timm.create_model("vit_tiny_patch16_224", **arguments), seed)
    new_directory(directory)
    timm.models.save_for_hf(model, directory, safe_serialization=True)
    library = "timm " + timm.__version__
    classes = arguments["num_classes"]

    def forward(model, images):
        return model(images)

    images, labels = batch(channels, *size, classes, seed + 1)
    check_every_tensor_matters(model, forward, images, without_effect=("k_norm.bias",))
    write_expected(directory / "expected.safetensors", library, images, labels,
                   logits_of(model, forward, images))
    if resized:
        larger = copy.deepcopy(model)
        larger.set_input_size(img_size=resized)
        images, labels = batch(channels, *resized, classes, seed + 2)
        write_expected(directory / "resized.safetensors", library, images, labels,
                       logits_of(larger, forward, images))
    check_files(directory)


def make_resample(path):
    import timm
    generator = torch.Generator().manual_seed(11)
    tensors = {}
    for old, new, prefix in (((4, 4), (7, 7), 0), ((7, 7), (3, 5), 1), ((2, 6), (5, 3), 1),
                             ((14, 14), (6, 24), 0), ((3, 3), (1, 1), 1), ((1, 2), (2, 4), 0)):
        case = f"{old[0]}x{old[1]}_to_{new[0]}x{new[1]}" + ("_prefix" if prefix else "")
        positions = torch.randn(1, prefix + old[0] * old[1], 6, generator=generator)
        tensors[case + ".from"] = positions
        tensors[case + ".to"] = timm.layers.resample_abs_pos_embed(
            positions, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path,
              metadata={"library": "timm " + timm.__version__})


def make_all_timm(out):
    # Three heads and four times the width in the MLP are the architecture's defaults, told nowhere.
    make_timm(out / "timm_token", 100, (16, 16), embed_dim=18, resized=(24, 16))
    make_timm(out / "timm_avg", 200, (32, 16), channels=1, num_heads=4, mlp_ratio=2,
              global_pool="avg")
    make_timm(out / "timm_avg_no_class_token", 300, (16, 16), channels=1, num_heads=2, mlp_ratio=2,
              global_pool="avg", class_token=False, resized=(24, 32))
    make_timm(out / "timm_avg_norm_first", 400, (24, 16), num_heads=2, mlp_ratio=2.5, channels=1,
              global_pool="avg", fc_norm=False, act_layer="gelu_tanh", qkv_bias=False,
              num_classes=3)
    make_timm(out / "timm_layer_scale", 450, (16, 16), channels=1, num_heads=2, mlp_ratio=2,
              num_classes=3, init_values=1e-5)
    make_timm(out / "timm_registers", 460, (16, 16), channels=1, num_heads=2, mlp_ratio=2,
              num_classes=3, reg_tokens=3, no_embed_class=True, global_pool="avg",
              resized=(24, 32))
    make_timm(out / "timm_registers_positions", 470, (16, 16), channels=1, num_heads=2,
              mlp_ratio=2, num_classes=3, reg_tokens=2, qk_norm=True, resized=(24, 32))
    make_resample(out / "resample.safetensors")


# ---------------------------------------------------------------------------------------------
# HuggingFace transformers

def huggingface_config(**arguments):
    from transformers import ViTConfig
    return ViTConfig(**dict(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2,
                            num_attention_heads=2, intermediate_size=24) | arguments)


def huggingface_batch(config, classes, seed):
    size = config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return batch(config.num_channels, height, width, classes, seed)


def save_huggingface(model, directory, **options):
    import transformers
    from transformers import ViTImageProcessor
    new_directory(directory)
    model.save_pretrained(directory, **options)
    size = model.config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = model.config.num_channels
    ViTImageProcessor(size={"height": height, "width": width},
                      image_mean=[0.48, 0.46, 0.41][:channels],
                      image_std=[0.23, 0.24, 0.25][:channels]).save_pretrained(directory)
    return "transformers " + transformers.__version__


def make_huggingface(directory, seed, options=None, **arguments):
    from transformers import ViTForImageClassification
    config = huggingface_config(**arguments)
    model = drawn(ViTForImageClassification(config), seed)
    library = save_huggingface(model, directory, **(options or {}))

    def forward(model, images):
        return model(pixel_values=images).logits

    images, labels = huggingface_batch(config, config.num_labels, seed + 1)
    check_every_tensor_matters(model, forward, images, ("key.bias", "k_proj.bias"))
    write_expected(directory / "expected.safetensors", library, images, labels,
                   logits_of(model, forward, images))
    check_files(directory)


def make_huggingface_base(directory, seed, classes):
    """A ViTModel: no classifier but a pooler, which classification does not use."""
    from transformers import ViTModel
    config = huggingface_config(num_channels=1)
    model = drawn(ViTModel(config, add_pooling_layer=True), seed)
    library = save_huggingface(model, directory)
    assert any("pooler" in name for name in load_file(directory / "model.safetensors"))
    generator = torch.Generator().manual_seed(seed + 2)
    weight = torch.randn(classes, config.hidden_size, generator=generator)
    bias = torch.randn(classes, generator=generator)

    def forward(model, images):
        features = model(pixel_values=images).last_hidden_state[:, 0]
        return features @ weight.to(features.dtype).T + bias.to(features.dtype)

    images, labels = huggingface_batch(config, classes, seed + 1)
    check_every_tensor_matters(model, forward, images, ("key.bias", "k_proj.bias", "pooler"))
    write_expected(directory / "expected.safetensors", library, images, labels,
                   logits_of(model, forward, images),
                   **{"head.weight": weight, "head.bias": bias})
    check_files(directory)


def names(*labels):
    return {"id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)}}


def make_all_huggingface(out):
    import transformers
    version = int(transformers.__version__.split(".")[0])
    prefix = f"huggingface_v{version}"
    make_huggingface(out / prefix, 500 + version, num_channels=1, num_labels=5,
                     image_size={4: 24, 5: 16}[version])
    if version == 4:
        make_huggingface(out / f"{prefix}_no_qkv_bias", 520, num_channels=1, qkv_bias=False,
                         hidden_act="gelu_new", layer_norm_eps=1e-5, image_size=[16, 32],
                         **names("tench", "goldfish", "great white shark"))
        make_huggingface_base(out / "huggingface_base", 540, classes=3)
        return
    # save_pretrained writes v4's names unless it is told to write the module's own ones.
    own_names = {"save_original_format": False}
    labels = ["Löwe", "ant, \"emmet\"", "c/d"] + [f"class {i}" for i in range(3, 11)]
    make_huggingface(out / f"{prefix}_own_names", 560, own_names, num_channels=1, **names(*labels))
    stored = load_file(out / f"{prefix}_own_names" / "model.safetensors")
    assert "vit.layers.0.attention.q_proj.weight" in stored, sorted(stored)
    make_huggingface(out / f"{prefix}_no_qkv_bias", 580, own_names, num_channels=1, qkv_bias=False,
                     hidden_act="gelu_new", image_size=16, **names("ant", "bee", "cat"))


# ---------------------------------------------------------------------------------------------
# torchvision

def make_torchvision(directory, seed):
    import torchvision
    sizes = dict(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24,
                 num_classes=5)
    model = drawn(torchvision.models.VisionTransformer(**sizes), seed)
    new_directory(directory)
    save_file(model.state_dict(), directory / "model.safetensors")
    # torchvision has no configuration files: this one is in Vitrine's keys.
    config = dict(image_size=16, patch_size=8, num_channels=3, hidden_size=16, num_hidden_layers=2,
                  num_attention_heads=2, intermediate_size=24, num_classes=5, hidden_act="gelu",
                  layer_norm_eps=1e-6)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def forward(model, images):
        return model(images)

    images, labels = batch(3, 16, 16, 5, seed + 1)
    check_every_tensor_matters(model, forward, images, without_effect=())
    write_expected(directory / "expected.safetensors", "torchvision " + torchvision.__version__,
                   images, labels, logits_of(model, forward, images))
    check_files(directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests" / "exchange")
    out = parser.parse_args().output
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if installed("timm"):
        make_all_timm(out)
    if installed("torchvision"):
        make_torchvision(out / "torchvision", 600)
    if installed("transformers"):
        make_all_huggingface(out)
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    for directory in sorted(path for path in out.iterdir() if path.is_dir()):
        size = sum(file.stat().st_size for file in directory.iterdir())
        print(f"{directory.name:28} {size:8} bytes  {', '.join(sorted(os.listdir(directory)))}")
    print(f"{total} bytes together")
    return 0 if total < 500_000 else f"{total} bytes together, expected fewer than 500000"


if __name__ == "__main__":
    sys.exit(main())
