#!/usr/bin/env python3
"""Exchanges models between a `vitrine` binary and the libraries installed here, both ways.

  python3 -m venv v && v/bin/pip install torch torchvision timm safetensors 'transformers>=5'
  v/bin/python tools/exchange_check.py build/vitrine
  v/bin/python tools/exchange_check.py build/vitrine --only timm

From a library: it builds a model of random weights, saves it by its own functions, and
`vitrine step` computes the logits of a random batch. To a library: `vitrine export` writes a
checkpoint, which the library loads strictly, no tensor missing, none unexpected. Logits are
compared by the norm of their difference, relative to the norm of the library's; 1e-4 passes. Both
ways are done at real sizes (ViT-Ti/16 at 224 pixels) and with the options that change names or
numbers. Positions for another image size and new heads are held against timm's.

Prints a table; exit status 1 when a case fails or none ran. Cases of libraries not installed are
"not run". transformers 4 and 5 are checked by one environment each.
"""

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4
IMAGES = 2


class Vitrine:
    def __init__(self, program):
        self.program = Path(program).resolve()

    def __call__(self, *words):
        result = subprocess.run([str(self.program), *map(str, words)], capture_output=True,
                                text=True)
        if result.returncode != 0:
            raise RuntimeError(f"vitrine {words[0]} ended with {result.returncode}: "
                               + result.stderr.strip())
        return result.stdout

    def logits(self, directory, images):
        """Of a checkpoint, an export or a library's directory."""
        batch, out = directory / "batch.safetensors", directory / "out.safetensors"
        save_file({"images": images.contiguous(),
                   "labels": torch.zeros(len(images), dtype=torch.int64)}, batch)
        self("step", "--config", directory / "config.json", "--weights",
             directory / "model.safetensors", "--batch", batch, "--output", out)
        return load_file(out)["logits"][0]


def difference(found, expected):
    found, expected = found.double(), expected.double()
    if found.shape != expected.shape:
        raise RuntimeError(f"logits {list(found.shape)}, expected {list(expected.shape)}")
    result = ((found - expected).norm() / expected.norm()).item()
    return result if math.isfinite(result) else math.inf


def randomise(model, seed=0):
    """Weights of about the size that a trained model has: a fresh model's zero biases and unit norms
    would hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                is_norm = "norm" in name or ".ln" in name
                parameter.copy_(0.3 * noise + (1.0 if is_norm and name.endswith("weight") else 0.0))
            elif "pos" in name or "token" in name:
                parameter.copy_(0.7 * noise)
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(1.5 * noise / fan_in**0.5)
    return model.eval()


def random_images(*shape, seed=1):
    return torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------
# timm

class Timm:
    name = "timm"

    def __init__(self):
        import timm
        self.timm = timm
        self.version = timm.__version__

    def cases(self):
        tiny = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=5)
        real = "vit_tiny_patch16_224"
        yield "read " + real, self.read, (real, {})
        yield "read vit_small_patch32_224, 10 classes", self.read, ("vit_small_patch32_224",
                                                                    dict(num_classes=10, depth=3))
        yield "read avg", self.read, (real, tiny | dict(global_pool="avg"))
        yield "read avg, fc_norm=False, gelu_tanh", self.read, (
            real, tiny | dict(global_pool="avg", fc_norm=False, act_layer="gelu_tanh"))
        yield "read avg, no class token, 1 channel", self.read, (
            real, tiny | dict(global_pool="avg", class_token=False, in_chans=1))
        yield "read no qkv bias, 24x40 pixels", self.read, (
            real, tiny | dict(qkv_bias=False, img_size=(24, 40)))
        yield "export mnist-small after 30 steps", self.export_trained, ()
        yield f"export {real} (untrained)", self.export_preset, (real, [])
        yield f"export {real}, mean pool, 7 classes", self.export_preset, (
            real, ["--pool", "mean", "--pool-norm", "after", "--num-classes", 7])
        yield "read, export, load: the same bits", self.round_trip, (
            real, tiny | dict(global_pool="avg"))
        yield f"{real}: 224 to 160 pixels", self.resize, (real, {}, 160)
        yield "positions 4x4 to 7x7", self.resize, (real, tiny, 56)
        yield "positions 4x4 to 3x3, no class token", self.resize, (
            real, tiny | dict(global_pool="avg", class_token=False), 24)
        yield "new head of 9 classes", self.new_head, (real, tiny, 9)

    def save(self, directory, architecture, arguments):
        model = randomise(self.timm.create_model(architecture, **arguments))
        self.timm.models.save_for_hf(model, directory, safe_serialization=True,
                                     model_args=arguments)
        return model

    def images_of(self, model):
        height, width = model.patch_embed.img_size
        return random_images(model.patch_embed.proj.in_channels, height, width)

    def load(self, directory):
        """Strictly, by config.json alone; by "local-dir:" too where this timm has it."""
        config = json.loads((directory / "config.json").read_text())
        model = self.timm.create_model(config["architecture"], pretrained=False,
                                       **config["model_args"])
        model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)
        try:
            other = self.timm.create_model("local-dir:" + str(directory), pretrained=True)
        except (AssertionError, RuntimeError) as error:
            if "local-dir" not in str(error) and "Unknown" not in str(error):
                raise
            return model.eval()
        for (name, a), (other_name, b) in zip(model.state_dict().items(),
                                              other.state_dict().items(), strict=True):
            if name != other_name or not torch.equal(a, b):
                raise RuntimeError(f"local-dir: {name} differs")
        return model.eval()

    def read(self, vitrine, work, architecture, arguments):
        model = self.save(work, architecture, arguments)
        images = self.images_of(model)
        return difference(vitrine.logits(work, images), model(images))

    def export(self, vitrine, work, checkpoint):
        vitrine("export", checkpoint, "--format", "timm", "-o", work / "export")
        model = self.load(work / "export")
        images = self.images_of(model)
        expected = model(images)
        return max(difference(vitrine.logits(checkpoint, images), expected),
                   difference(vitrine.logits(work / "export", images), expected))

    def export_trained(self, vitrine, work):
        return self.export(vitrine, work, train_small(vitrine, work))

    def export_preset(self, vitrine, work, preset, options):
        vitrine("train", "--preset", preset, *options, "--epochs", 0, "-o", work / "run")
        return self.export(vitrine, work, work / "run" / "last")

    def round_trip(self, vitrine, work, architecture, arguments):
        (work / "a").mkdir()
        model = self.save(work / "a", architecture, arguments)
        error = self.export(vitrine, work, work / "a")
        loaded = self.load(work / "export").state_dict()
        if not all(torch.equal(loaded[name], tensor)
                   for name, tensor in model.state_dict().items()):
            raise RuntimeError("a tensor came back with other bits")
        return error

    def resize(self, vitrine, work, architecture, arguments, size):
        (work / "a").mkdir()
        self.save(work / "a", architecture, arguments)
        vitrine("train", "--initial-checkpoint", work / "a", "--image-size", size, "--epochs", 0,
                "-o", work / "run")
        # timm's own road for weights of another size: its filter, as pretrained=True takes it.
        model = self.timm.create_model(
            architecture, pretrained=True, **arguments | {"img_size": size},
            pretrained_cfg_overlay={"file": str(work / "a" / "model.safetensors"),
                                    "num_classes": arguments.get("num_classes", 1000),
                                    "custom_load": False}).eval()
        images = self.images_of(model)
        return difference(vitrine.logits(work / "run" / "last", images), model(images))

    def new_head(self, vitrine, work, architecture, arguments, classes):
        """The features are the old ones, the head is another one."""
        (work / "a").mkdir()
        model = self.save(work / "a", architecture, arguments)
        vitrine("train", "--initial-checkpoint", work / "a", "--num-classes", classes,
                "--epochs", 0, "-o", work / "run")
        weights = load_file(work / "run" / "last" / "model.safetensors")
        images = self.images_of(model)
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        expected = features @ weights["head.weight"].T + weights["head.bias"]
        return difference(vitrine.logits(work / "run" / "last", images), expected)


# ---------------------------------------------------------------------------------------------
# HuggingFace transformers

class HuggingFace:
    name = "transformers"

    def __init__(self):
        import transformers
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.transformers = transformers
        self.version = transformers.__version__

    def cases(self):
        tiny = dict(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2,
                    num_attention_heads=3, intermediate_size=40)
        small = dict(hidden_size=384, num_hidden_layers=4, num_attention_heads=6,
                     intermediate_size=1536, num_labels=1000)
        yield "read ViTConfig() but 384 wide, 4 deep", self.read, (small, {})
        yield "read no qkv bias, gelu_new, 1 channel", self.read, (
            tiny | dict(qkv_bias=False, hidden_act="gelu_new", num_channels=1), {})
        yield "read relu, 24x40 pixels, eps 1e-5", self.read, (
            tiny | dict(hidden_act="relu", image_size=[24, 40], layer_norm_eps=1e-5), {})
        if int(self.version.split(".")[0]) >= 5:
            yield "read the module's own names", self.read, (tiny,
                                                             dict(save_original_format=False))
        yield "read in bfloat16", self.read, (tiny | dict(num_labels=12), {}, torch.bfloat16)
        yield "ViTModel with pooler, new head", self.read_base, (tiny, 6)
        yield "export mnist-small after 30 steps", self.export_trained, ()
        yield "export vit_tiny_patch16_224 (untrained)", self.export_preset, (
            "vit_tiny_patch16_224", [])
        yield "read, export, load: the same bits", self.round_trip, (tiny | dict(num_labels=11),)

    def images_of(self, config):
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return random_images(config.num_channels, height, width)

    def save(self, directory, arguments, options=None, dtype=torch.float32):
        config = self.transformers.ViTConfig(**arguments)
        model = randomise(self.transformers.ViTForImageClassification(config)).to(dtype)
        model.save_pretrained(directory, **(options or {}))
        return model

    def load(self, directory):
        model, info = self.transformers.ViTForImageClassification.from_pretrained(
            str(directory), output_loading_info=True)
        wrong = {key: value for key, value in info.items() if value}
        if wrong:
            raise RuntimeError(f"from_pretrained: {wrong}")
        self.transformers.ViTImageProcessor.from_pretrained(str(directory))
        return model.eval()

    def read(self, vitrine, work, arguments, options, dtype=torch.float32):
        model = self.save(work, arguments, options, dtype).float()
        images = self.images_of(model.config)
        return difference(vitrine.logits(work, images), model(images).logits)

    def read_base(self, vitrine, work, arguments, classes):
        (work / "a").mkdir()
        model = randomise(self.transformers.ViTModel(self.transformers.ViTConfig(**arguments)))
        model.save_pretrained(work / "a")
        vitrine("train", "--initial-checkpoint", work / "a", "--num-classes", classes,
                "--epochs", 0, "-o", work / "run")
        weights = load_file(work / "run" / "last" / "model.safetensors")
        images = self.images_of(model.config)
        features = model(images).last_hidden_state[:, 0]
        return difference(vitrine.logits(work / "run" / "last", images),
                          features @ weights["head.weight"].T + weights["head.bias"])

    def export(self, vitrine, work, checkpoint):
        vitrine("export", checkpoint, "--format", "hf", "-o", work / "export")
        model = self.load(work / "export")
        images = self.images_of(model.config)
        expected = model(images).logits
        return max(difference(vitrine.logits(checkpoint, images), expected),
                   difference(vitrine.logits(work / "export", images), expected))

    def export_trained(self, vitrine, work):
        return self.export(vitrine, work, train_small(vitrine, work))

    def export_preset(self, vitrine, work, preset, options):
        vitrine("train", "--preset", preset, *options, "--epochs", 0, "-o", work / "run")
        return self.export(vitrine, work, work / "run" / "last")

    def round_trip(self, vitrine, work, arguments):
        (work / "a").mkdir()
        model = self.save(work / "a", arguments)
        error = self.export(vitrine, work, work / "a")
        loaded = self.load(work / "export")
        if not all(torch.equal(loaded.state_dict()[name], tensor)
                   for name, tensor in model.state_dict().items()):
            raise RuntimeError("a tensor came back with other bits")
        if loaded.config.id2label != model.config.id2label:
            raise RuntimeError(f"id2label came back as {loaded.config.id2label}")
        return error


# ---------------------------------------------------------------------------------------------
# torchvision: no configuration files, so that Vitrine's describes the model

class Torchvision:
    name = "torchvision"

    def __init__(self):
        import torchvision
        self.torchvision = torchvision
        self.version = torchvision.__version__

    def cases(self):
        yield "read, 2 blocks", self.read, (dict(image_size=32, patch_size=8, num_layers=2,
                                                 num_heads=4, hidden_dim=32, mlp_dim=50,
                                                 num_classes=5),)
        yield "read, 192 wide, 6 deep, 224 pixels", self.read, (
            dict(image_size=224, patch_size=16, num_layers=6, num_heads=3, hidden_dim=192,
                 mlp_dim=768, num_classes=1000),)

    def read(self, vitrine, work, sizes):
        model = randomise(self.torchvision.models.VisionTransformer(**sizes))
        save_file(model.state_dict(), work / "model.safetensors")
        config = dict(image_size=sizes["image_size"], patch_size=sizes["patch_size"],
                      hidden_size=sizes["hidden_dim"], num_hidden_layers=sizes["num_layers"],
                      num_attention_heads=sizes["num_heads"], intermediate_size=sizes["mlp_dim"],
                      num_classes=sizes["num_classes"], layer_norm_eps=1e-6)
        (work / "config.json").write_text(json.dumps(config))
        images = random_images(3, sizes["image_size"], sizes["image_size"])
        return difference(vitrine.logits(work, images), model(images))


# ---------------------------------------------------------------------------------------------

def train_small(vitrine, work):
    vitrine("train", "--preset", "mnist-small", "--dataset", "digits", "--max-steps", 30,
            "--epochs", 1, "-o", work / "run")
    return work / "run" / "last"


def run_case(vitrine, case, arguments):
    """(largest relative difference or None, "ok" or what is wrong)."""
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        try:
            error = case(vitrine, Path(work), *arguments)
        except Exception as problem:  # whatever a library throws is this case's failure
            traceback.print_exc()
            return None, "FAILED: " + str(problem).strip().split("\n")[0]
    return error, "ok" if error <= TOLERANCE else "FAILED"


def print_row(library, case, error, verdict):
    print(f"{library:24} {case:48} {'' if error is None else f'{error:.1e}':>9}  {verdict}",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("vitrine", help="the program")
    parser.add_argument("--only", choices=["timm", "transformers", "torchvision"],
                        help="one library's cases")
    arguments = parser.parse_args()
    vitrine = Vitrine(arguments.vitrine)
    failures = done = 0
    print_row("library", "case", None, "")
    for library in (Timm, HuggingFace, Torchvision):
        if arguments.only not in (None, library.name):
            continue
        if importlib.util.find_spec(library.name) is None:
            print_row(library.name, "all", None, "not run: not installed")
            continue
        checks = library()
        for name, case, case_arguments in checks.cases():
            error, verdict = run_case(vitrine, case, case_arguments)
            print_row(f"{library.name} {checks.version}", name, error, verdict)
            done += 1
            failures += verdict != "ok"
    print(f"{done - failures} of {done} cases ok")
    return 1 if failures or done == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
