"""Parts of tools/gpu_check.sh: steps, train, pytorch."""

import filecmp
import json
import sys
import time

from gpu_check_data import differences, write_batch, write_cifar10, write_mnist
from gpu_check_part import BUILD, DATA, NotRun, require_device


# ---------------------------------------------------------------------------------------------
# Steps

MODELS = {  # preset: (channels, side, classes)
    "mnist-tutorial": (1, 28, 10), "notes-encoder": (3, 8, 10), "cifar10-small": (3, 32, 10),
    "d2l-224": (3, 224, 1000), "vit_tiny_patch16_224": (3, 224, 1000)}
QUICK_MODELS = ("mnist-tutorial", "notes-encoder", "cifar10-small")
# Largest relative error against the CPU's fp32. In tf32 and bf16 the numbers of the first step
# tell whether the arithmetic is sane, by a wide margin (8 wide and post-norm, notes-encoder loses
# most: 8e-2 of its gradients in bf16); later ones grow apart.
BOUNDS = {
    "fp32": dict.fromkeys(("first_logits", "gradients", "logits", "loss", "weights"), 1e-4),
    "tf32": dict(first_logits=2e-2, gradients=5e-2, loss=5e-2),
    "bf16": dict(first_logits=5e-2, gradients=2e-1, loss=1e-1)}


def prepare_model(part, preset, batch):
    """(untrained weights, batch) as files; fails the part when they cannot be made."""
    run = part.scratch / preset
    if run.exists():
        return run / "last/model.safetensors", part.scratch / f"{preset}.batch"
    result = part.run([BUILD / "vitrine", "train", "--preset", preset, "--epochs", "0", "--device",
                       "cpu", "-o", run])
    if result.status != 0:
        raise RuntimeError(f"untrained {preset}: {result.last_words()}")
    channels, side, classes = MODELS[preset]
    return (run / "last/model.safetensors",
            write_batch(part.scratch / f"{preset}.batch", (batch, channels, side, side), classes))


def step_command(part, preset, steps, files, flags):
    def command(device, name, precision="fp32"):
        return [BUILD / "vitrine", "step", "--preset", preset, *flags, "--weights", files[0], "--batch",
                files[1], "--steps", steps, "--lr", "1e-3", "--opt", "adamw", "--device", device,
                "--precision", precision, "--output", part.scratch / f"{preset}.{name}"]
    return command


def steps_of(part, preset, *flags):
    """One model: errors by precision, and which pairs of runs have the same bits."""
    batch, steps = (2, 3) if part.quick else (8, 10)
    command = step_command(part, preset, steps, prepare_model(part, preset, batch), flags)

    def run(device, name, precision="fp32", *flags):
        result = part.run([*command(device, name, precision), *flags])
        if result.status != 0:
            part.fail(f"{preset} {name}: {result.last_words()}")
        return part.scratch / f"{preset}.{name}" if result.status == 0 else None

    def same(what, one, other):
        if one and other and not filecmp.cmp(one, other, shallow=False):
            part.fail(f"{preset}: {what}: bits differ")
        record["same_bits"][what] = bool(one and other and filecmp.cmp(one, other, shallow=False))

    record = dict(batch=batch, steps=steps, errors={}, same_bits={})
    expected = run("cpu", "cpu")
    for precision in BOUNDS:
        actual = run("cuda", precision, precision)
        if expected and actual:
            record["errors"][precision] = check_errors(part, preset, precision, expected, actual)
        if precision != "tf32":
            same(f"{precision} launch by launch", actual,
                 run("cuda", "launches", precision, "--no-cuda-graph"))
            same(f"{precision} again", actual, run("cuda", "again", precision))
    return record


def check_errors(part, preset, precision, expected, actual):
    errors = differences(expected, actual)
    part.log(f"{preset} {precision}: {json.dumps(errors)}")
    for what, bound in BOUNDS[precision].items():
        if not errors[what] <= bound:
            part.fail(f"{preset} {precision}: {what} differs by {errors[what]:.1e}, "
                      f"allowed {bound:.0e}")
    return errors


def resume_of(part, preset, data, precision):
    """Stopped and resumed against uninterrupted."""
    half, whole = (2, 4) if part.quick else (15, 40)  # the second epoch begins between them

    def train(name, *arguments):
        result = part.run([BUILD / "vitrine", "train", "--device", "cuda", *arguments, "-o",
                           part.scratch / name])
        if result.status != 0:
            part.fail(f"{preset} {name}: {result.last_words()}")
        return part.scratch / name / "last/model.safetensors"

    start = ["--preset", preset, "--data-dir", data, "--precision", precision, "--epochs", "3",
             "--batch-size", "16" if part.quick else "64", "--max-steps"]
    one = train(f"{preset}-whole", *start, whole)
    other = train(f"{preset}-parts", *start, half)
    train(f"{preset}-parts", "--resume", part.scratch / f"{preset}-parts", "--max-steps", whole)
    same = one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)
    if one.exists() and other.exists() and not same:
        part.fail(f"{preset} {precision}: stop and resume gives other bits than no stop")
    return same


def steps(part):
    require_device(part)
    for preset in QUICK_MODELS if part.quick else MODELS:
        part.figures[preset] = steps_of(part, preset)
    part.figures["cifar10-small by convolution"] = steps_of(
        part, "cifar10-small", "--patch-projection", "convolution")
    images = (48, 16) if part.quick else (1280, 64)
    mnist = write_mnist(part.scratch / "mnist", *images)
    cifar10 = write_cifar10(part.scratch / "cifar10", images[0] // 5 * 5, images[1])
    part.figures["resume"] = {
        "mnist-tutorial fp32": resume_of(part, "mnist-tutorial", mnist, "fp32"),
        "notes-encoder bf16": resume_of(part, "notes-encoder", cifar10, "bf16")}
    for precision in BOUNDS:
        errors = [each["errors"][precision] for each in part.figures.values()
                  if "errors" in each and precision in each["errors"]]
        if errors:
            part.remark(f"{precision} gradients within "
                        f"{max(each['gradients'] for each in errors):.1e}")


# ---------------------------------------------------------------------------------------------
# Training and speed

def trained(part, name, *arguments, device="cuda", seconds=120):
    """A run of `vitrine train`: what its epochs say, or None."""
    output = part.scratch / name.replace(" ", "-")
    result = part.run([BUILD / "vitrine", "train", "--device", device, "--json", *arguments, "-o",
                       output], seconds)
    if result.status != 0:
        part.fail(f"{name}: {result.last_words()}")
        return None
    epochs = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
    state = json.loads((output / "last/trainer_state.json").read_text())
    return dict(seconds=round(result.seconds, 2), epochs=epochs,
                curve=[[each["step"], each["loss"]] for each in state["steps"]])


def short_training(part, name, *arguments):
    record = trained(part, name, *arguments)
    if record is None:
        return
    part.figures[name] = record
    first, last = record["curve"][0][1], record["epochs"][-1]
    if not last["train_loss"] < first:
        part.fail(f"{name}: the loss went from {first:.4f} to {last['train_loss']:.4f}")
    part.remark(f"{name}: loss {last['train_loss']:.3f}, top-1 {100 * last['test_top1']:.1f} %, "
                f"{last['images_per_second']:,.0f} images/s")


def loss_curve(part, preset, data):
    """Running means of the loss over the same steps on both devices. How far two right answers may
    part is measured: the CPU once more, with a learning rate that differs in the sixth digit."""
    length = ["--preset", preset, "--data-dir", data, "--log-interval", "5", "--max-steps",
              "10" if part.quick else "200"]
    if part.quick:
        length += ["--batch-size", "16"]
    rate = {"mnist-tutorial": 5e-3, "cifar10-small": 1e-2}[preset]
    runs = {"cpu": trained(part, f"{preset} curve cpu", *length, device="cpu"),
            "control": trained(part, f"{preset} curve control", *length, "--lr",
                               rate * (1 + 1e-6), device="cpu")}
    for precision in ALLOWANCES:
        runs[precision] = trained(part, f"{preset} curve {precision}", *length, "--precision",
                                  precision)
    part.figures[f"{preset} curves"] = {name: run and run["curve"] for name, run in runs.items()}
    if runs["cpu"] is None or runs["control"] is None:
        return
    control = largest_gap(runs["cpu"], runs["control"])
    for precision, allowance in ALLOWANCES.items():
        if runs[precision]:
            check_curve(part, f"{preset} {precision}", largest_gap(runs["cpu"], runs[precision]),
                        3 * control + allowance)


ALLOWANCES = {"fp32": 0.01, "tf32": 0.03, "bf16": 0.03}


def largest_gap(one, other):
    if [step for step, _ in one["curve"]] != [step for step, _ in other["curve"]]:
        return float("inf")
    return max((abs(b - a) for (_, a), (_, b) in zip(one["curve"], other["curve"])),
               default=float("inf"))


def check_curve(part, name, gap, allowed):
    if not gap <= allowed:
        part.fail(f"{name}: the loss curve leaves the CPU's by {gap:.4f}, allowed {allowed:.4f}")
    part.remark(f"{name} curve within {gap:.4f} of the CPU's ({allowed:.4f} allowed)")


def first_step(part, preset, data):
    """Seconds from the start of the process through one step, a small test set and a checkpoint."""
    record = trained(part, f"{preset} first step", "--preset", preset, "--data-dir", data,
                     "--batch-size", "16", "--max-steps", "1")
    if record:
        part.figures[f"{preset} first step seconds"] = record["seconds"]
        part.remark(f"{preset}: {record['seconds']:.1f} s to the end of the first step")


def data_or_synthetic(part, name, write, images):
    if (DATA / name).is_dir() and not part.quick:
        return DATA / name
    part.remark(f"{name} is synthetic")
    return write(part.scratch / name, *images)


def train(part):
    require_device(part)
    mnist = data_or_synthetic(part, "mnist", write_mnist, (64, 32) if part.quick else (20000, 1000))
    cifar10 = data_or_synthetic(part, "cifar10", write_cifar10,
                                (60, 20) if part.quick else (20000, 1000))
    small = write_cifar10(part.scratch / "small", *((40, 10) if part.quick else (2000, 200)))
    one = write_cifar10(part.scratch / "one", 40, 10)
    first_step(part, "mnist-tutorial", mnist)
    if part.quick:
        loss_curve(part, "mnist-tutorial", mnist)
        short_training(part, "mnist-tutorial fp32", "--preset", "mnist-tutorial", "--data-dir",
                       mnist, "--epochs", "3", "--batch-size", "16", "--log-interval", "1")
        return
    first_step(part, "vit_base_patch16_224", one)
    for preset, data in (("mnist-tutorial", mnist), ("cifar10-small", cifar10)):
        loss_curve(part, preset, data)
    for name, preset, data, epochs, batch, precision in (
            ("digits fp32", "digits", mnist, 5, 128, "fp32"),
            ("digits bf16", "digits", mnist, 5, 128, "bf16"),
            ("mnist-tutorial fp32", "mnist-tutorial", mnist, 5, 128, "fp32"),
            ("mnist-small bf16", "mnist-small", mnist, 5, 128, "bf16"),
            ("cifar10-small fp32", "cifar10-small", cifar10, 5, 256, "fp32"),
            ("cifar10-small bf16", "cifar10-small", cifar10, 10, 256, "bf16"),
            ("notes-encoder bf16", "notes-encoder", cifar10, 2, 256, "bf16"),
            ("d2l-224 bf16", "d2l-224", small, 3, 64, "bf16"),
            ("vit_base_patch16_224 bf16", "vit_base_patch16_224", small, 3, 64, "bf16")):
        short_training(part, name, "--preset", preset, "--data-dir", data, "--epochs", epochs,
                       "--batch-size", batch, "--precision", precision, "--log-interval", "1")


VARIANTS = ("eager-sdpa", "autotune-sdpa", "graph-sdpa")  # more take more than the part's time


def pytorch(part):
    """The tool's own file, which results_table.py reads, is OUT/compare_pytorch.json."""
    require_device(part)
    asked = part.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], 120)
    if asked.out.strip() != "True":
        raise NotRun("PyTorch sees no GPU" if asked.status == 0 else "no PyTorch for this Python")
    program = BUILD / "train_step_bench"
    if not program.exists():
        raise NotRun(f"no {program} to compare PyTorch with")
    file = part.json_file.with_name("compare_pytorch.json")
    file.unlink(missing_ok=True)
    models = ["--models", "vit_tiny_patch16_224"] if part.quick else []
    seconds = part.deadline - time.monotonic() - 5
    result = part.run([sys.executable, "tools/compare_pytorch.py", "--device", "cuda", "--json",
                       file, "--time-limit", int(seconds) - 60, "--seconds", "2", "--rounds", "3",
                       "--variants", *VARIANTS, "--tune", part.scratch / "tune.json", "--vitrine",
                       program, *models], seconds)
    records = json.loads(file.read_text())["results"] if file.exists() else []
    if not any("ratio" in record for record in records):
        part.fail(f"nothing was compared: {result.last_words()}")
    part.incomplete |= result.status != 0
    for record in records:
        if "ratio" in record:
            part.figures[record["model"]] = {key: record[key] for key in (
                "batch", "best", "ratio", "ratio_spread")}
            part.remark(f"{record['model']}: {record['ratio']:.2f} times as fast as PyTorch's "
                        f"{record['best']}")
