"""On a GPU, everything runs and finds what it finds on a CPU.

The commands are run as people run them. Those that do not depend on each other share the GPU at the same time, so the
tests take one to two minutes; nothing here is timed.
"""

import copy
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm.cli.parser import parse_command
from ddpm.config.commands import TrainCommand
from ddpm.diffusion.objective import PREDICTIONS, WEIGHTINGS, diffusion_loss
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.pipelines import load_pipeline
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet
from ddpm.randomness import Purpose, bits, normal
from ddpm.training import trainer as trainer_module
from ddpm.training.batches import load_micro_batches
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.launch import start_accelerator
from ddpm.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
DEVICE = "cuda"
TIME_LIMIT = 150        # seconds, of a command

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
# The libraries round the inputs of products to TF32 unless configured otherwise, which is not what a CPU computes.
FULL_PRECISION = {"NVIDIA_TF32_OVERRIDE": "0"}

SMALL = ("--model.channels", "16", "--model.head_channels", "16", "--tracking.wandb", "off")
STUDY = """
question: Does a study run on this device?
base:
  model: {channels: 16, channel_mult: [1, 2], head_channels: 16}
  train: {steps: 20, warmup_steps: 5, batch_size: 32, checkpoint_every: 20, sample_every: 0}
  sample: {per_class: 1, steps: 5}
  tracking: {wandb: "off"}
metric: accuracy
evaluation: {count: 120, sampler: dpmpp, steps: 5, timestep_spacing: logsnr, metrics: accuracy}
arms:
  both: {}
  timestep: {model.conditioning: timestep}
seeds: [0]
"""


# -------------------------------------------------------------------------------------------------------- commands


class Command:
    """A script that runs in a process of its own.

    Args:
        output: file that takes what it prints.
        script: name of the script.
        options: its command line.
        environment: variables that differ from this process's.
    """

    def __init__(self, output: Path, script: str, *options: object, environment: dict[str, str] | None = None) -> None:
        self.output = output
        environment = {**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})}
        words = [sys.executable, f"scripts/{script}", *map(str, options)]
        with output.open("w") as file:
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)

    def end(self, code: int = 0) -> str:
        """Wait for the end of the script, and return what it printed.

        Args:
            code: the exit code that is expected.
        """
        try:
            found = self.process.wait(TIME_LIMIT)
        finally:
            self.process.kill()
        text = self.output.read_text()
        assert found == code, text[-4000:]
        return text


class Commands(NamedTuple):
    """Commands that were started together.

    Attributes:
        folder: of all that they write.
        dry: a dry run of the first command of the README.
        digits: 40 steps of that command.
        curve_gpu: 10 steps of that command in full precision.
        curve_cpu: the same on the CPU.
        evaluated: training with an evaluation every 20 steps.
        study: two arms with one seed of 20 steps.
        refused: float16 training without a GPU.
    """

    folder: Path
    dry: Command
    digits: Command
    curve_gpu: Command
    curve_cpu: Command
    evaluated: Command
    study: Command
    refused: Command


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Start the commands that depend on no other, and end those that still run after the tests."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "study.yaml").write_text(STUDY)

    def train(name: str, *options: object, environment: dict[str, str] | None = None) -> Command:
        options = ("--run-dir", folder / name, "--tracking.wandb", "off", "--train.log_every", 1, *options)
        return Command(folder / f"{name}.txt", "train.py", *options, environment=environment)

    curve = "--train.steps", 10, "--train.sample_every", 0, "--sample.per_class", 1, "--sample.steps", 2
    evaluation = "--evaluation.every", 20, "--evaluation.count", 240, "--evaluation.steps", 5
    started = Commands(
        folder,
        dry=train("dry", "--dry_run"),
        digits=train("digits", "--train.steps", 40),
        curve_gpu=train("curve_gpu", *curve, environment=FULL_PRECISION),
        curve_cpu=train("curve_cpu", *curve, environment=ON_CPU),
        evaluated=train("evaluated", "--train.steps", 40, *evaluation, *SMALL),
        study=Command(
            folder / "study.txt", "ablate.py", "--study", folder / "study.yaml", "--run-dir", folder / "study"
        ),
        refused=train("refused", "--train.mixed_precision", "fp16", environment=ON_CPU),
    )
    yield started
    for command in started[1:]:
        command.process.kill()
        command.process.wait()


@pytest.fixture(scope="module")
def digits(commands: Commands) -> Path:
    """Return the run directory of 40 steps of digits."""
    commands.digits.end()
    return commands.folder / "digits"


def metrics(run: Path) -> list[dict]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_dry_run_tells_device_memory_and_time(commands: Commands) -> None:
    said = commands.dry.end()
    assert re.search(rf"^devices +1 process on {DEVICE}", said, re.MULTILINE), said
    assert re.search(r"^memory +about [0-9.]+ GB per process", said, re.MULTILINE), said
    assert re.search(r"^time +about [0-9.]+ s per step", said, re.MULTILINE), said
    assert not (commands.folder / "dry").exists()


def test_training_lowers_the_loss(commands: Commands, digits: Path) -> None:
    assert f"1 process on {DEVICE}" in commands.digits.output.read_text()
    losses = [line["loss"] for line in metrics(digits)]
    assert len(losses) == 40 and sum(losses[-5:]) / 5 < 0.6 * losses[0], losses
    assert (digits / "samples" / "step_00000040.png").is_file() and (digits / "pipeline").is_dir()


def test_losses_and_gradients_are_those_of_the_cpu(commands: Commands) -> None:
    commands.curve_gpu.end()
    commands.curve_cpu.end()
    here, there = (metrics(commands.folder / name) for name in ("curve_gpu", "curve_cpu"))
    for key in ("loss", "grad_norm"):
        assert here[0][key] == pytest.approx(there[0][key], rel=1e-4)
        assert [line[key] for line in here] == pytest.approx([line[key] for line in there], rel=1e-2)


def test_float16_without_a_gpu_is_refused_in_one_line(commands: Commands) -> None:
    said = commands.refused.end(2).strip().splitlines()
    assert len(said) == 1 and "train.mixed_precision: fp16 needs a GPU" in said[0], said


def test_training_evaluates(commands: Commands) -> None:
    commands.evaluated.end()
    run = commands.folder / "evaluated"
    found = {line["step"]: line for line in metrics(run) if "evaluation/frechet_distance" in line}
    assert [*found] == [20, 40]
    assert all(math.isfinite(line[f"evaluation/{name}"]) for line in found.values()
               for name in ("frechet_distance", "kernel_distance", "accuracy"))
    assert (run / "best" / "model_index.json").is_file()


def test_a_study_runs_and_reports(commands: Commands) -> None:
    commands.study.end()
    run = commands.folder / "study"
    outcome = json.loads((run / "outcome.json").read_text())
    assert {*outcome["runs"]} == {"both", "timestep"} and (run / "report.html").is_file()
    assert json.loads((run / "timing.json").read_text())["machine"] == torch.cuda.get_device_name()


def test_probe_writes_its_page(commands: Commands, digits: Path) -> None:
    page = commands.folder / "probe.html"
    options = "--images", 20, "--timesteps", 4, "--samples", 1
    Command(commands.folder / "probe.txt", "probe.py", digits, "--out", page, *options).end()
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["freezing"] and found["sensitivity"] and found["swap"] is not None, found["left_out"]


@pytest.fixture(scope="module")
def evaluations(commands: Commands, digits: Path) -> tuple[dict, dict]:
    """Evaluate the digits run on the GPU, then the same images with the same classifier on the CPU."""
    folder = commands.folder
    found = []
    for name, environment in (("evaluated_gpu", FULL_PRECISION), ("evaluated_cpu", ON_CPU)):
        cache = folder / f"{name}_cache"
        if found:       # a reference classifier that the CPU trains would be another
            shutil.copytree(folder / "evaluated_gpu_cache" / "classifiers", cache / "classifiers")
        options = "--count", 240, "--steps", 10, "--bound_images", 16, "--bound_steps", 5, "--out", folder / name
        Command(
            folder / f"{name}.txt", "evaluate.py", digits, *options,
            environment={**environment, "DDPM_CACHE": str(cache)},
        ).end()
        found.append(json.loads((folder / name / "evaluation.json").read_text()))
    return found[0], found[1]


def test_evaluation_writes_all_metrics(commands: Commands, evaluations: tuple[dict, dict]) -> None:
    here, _ = evaluations
    assert {*here["metrics"]} >= {
        "frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "inception_score",
        "accuracy", "memorised", "denoising_error", "bits_per_dim",
    }
    assert not here["skipped"]
    assert (commands.folder / "evaluated_gpu" / "neighbours.png").is_file()


def test_metrics_are_those_of_the_cpu(evaluations: tuple[dict, dict]) -> None:
    here, there = ({name: metric["value"] for name, metric in found["metrics"].items()} for found in evaluations)
    # Of what is counted, among drawn or among real images, one more or less is rounding.
    of_images = dict.fromkeys(("precision", "density", "accuracy", "memorised"), 240)
    of_images |= dict.fromkeys(("recall", "coverage"), 1797)
    allowed = {name: {"abs": 1.1 / of_images[name]} if name in of_images else {"rel": 1e-3} for name in there}
    different = {name: (here[name], there[name]) for name in there
                 if here[name] != pytest.approx(there[name], **allowed[name])}
    assert here.keys() == there.keys() and not different, different


# --------------------------------------------------------------------------------------------------------- numbers


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Compute products of float32 in float32, without TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Compute the same numbers each time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def network(**options: object) -> UNet:
    """Return a small U-Net for 16x16 images of 4 classes, with weights as after training.

    Args:
        options: of the U-Net.
    """
    shape = {"resolution": 16, "in_channels": 3, "out_channels": 3, "num_classes": 4, "channels": 16}
    levels = {"channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,), "head_channels": 16}
    unet = UNet(**{**shape, **levels, **options})
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=draws)
    return unet


def batch(size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy images, timesteps and labels as a network takes them.

    Args:
        size: number of images.
    """
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 16, 16, generator=draws)
    return images, torch.arange(size) * 1000 // size, torch.arange(size) % 5


def gradient(model: nn.Module) -> Tensor:
    """Return the gradients of all parameters as one vector on the CPU.

    Args:
        model: after a backward pass.
    """
    return torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, per that of what is expected.

    Args:
        found: on any device.
        expected: of the same shape.
    """
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def test_random_bits_are_those_of_the_cpu() -> None:
    index = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 7, 2**63 - 1])
    seeds = torch.arange(7) * 2**59
    for purpose in Purpose:
        here = bits(2**62 + 5, purpose, index.to(DEVICE), 11).cpu()
        assert torch.equal(here, bits(2**62 + 5, purpose, index, 11)), purpose
        assert torch.equal(bits(seeds, purpose, index.to(DEVICE), 5).cpu(), bits(seeds, purpose, index, 5)), purpose


def test_normal_numbers_are_those_of_the_cpu() -> None:
    index = torch.arange(100) * 2**27
    here, there = (normal(3, Purpose.NOISE, at, (3, 16, 16)).cpu() for at in (index.to(DEVICE), index))
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.usefixtures("full_precision")
def test_network_is_that_of_the_cpu(norm: str) -> None:
    for conditioning in CONDITIONINGS:
        check_network(norm, conditioning)


def check_network(norm: str, conditioning: str) -> None:
    """Compare outputs and gradients of one network on the GPU with those on the CPU."""
    there = network(norm=norm, conditioning=conditioning)
    here = copy.deepcopy(there).to(DEVICE)
    expected = there(*batch()).sample
    expected.square().mean().backward()
    found = here(*(x.to(DEVICE) for x in batch())).sample
    found.square().mean().backward()
    assert float((found.cpu() - expected).detach().abs().max() / expected.detach().std()) < 1e-4
    assert relative_error(gradient(here), gradient(there)) < 1e-3
    for dtype in (torch.bfloat16, torch.float16):
        with torch.no_grad(), torch.autocast(DEVICE, dtype):
            assert relative_error(here(*(x.to(DEVICE) for x in batch())).sample, expected) < 3e-2


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.usefixtures("full_precision")
def test_objective_is_that_of_the_cpu(learned_variance: bool) -> None:
    there, (x_0, t, labels) = network(out_channels=3 + 3 * learned_variance), batch()
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
    for kind in itertools.product(PREDICTIONS, WEIGHTINGS):
        found = []
        for device, unet in (("cpu", there), (DEVICE, copy.deepcopy(there).to(DEVICE))):
            inputs = [x.to(device) for x in (x_0.clamp(-1, 1), labels, t, noise)]
            found.append(diffusion_loss(unet, NoiseSchedule(SCHEDULES["cosine"](1000)), *inputs, *kind))
        torch.testing.assert_close(found[1].cpu(), found[0], rtol=1e-3, atol=1e-6)


def test_gradient_checkpointing_keeps_the_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        unet = network(dropout=0.3).to(DEVICE).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        torch.manual_seed(0)
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = unet(*(x.to(DEVICE) for x in batch())).sample.square().mean()
        loss.backward()
        found.append(gradient(unet))
    assert relative_error(found[1], found[0]) < 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.usefixtures("full_precision")
def test_samples_are_those_of_the_cpu(digits: Path, sampler: str) -> None:
    for scale in (1.0, 2.0):
        check_samples(digits, sampler, scale)


def check_samples(digits: Path, sampler: str, scale: float) -> None:
    """Compare samples drawn on the GPU with those drawn on the CPU, at one guidance scale."""
    options = {"sampler": sampler, "num_inference_steps": 10, "guidance_scale": scale, "output_type": "uint8"}
    options["eta"] = 0.5 if SAMPLERS[sampler].takes_eta else 0.0
    there = load_pipeline(digits / "pipeline")
    here = load_pipeline(digits / "pipeline").to(DEVICE)
    for pipeline in (here, there):
        pipeline.set_progress_bar_config(disable=True)
    expected = there([*range(10)], **options).images
    found, again = (here([*range(10)], **options).images for _ in range(2))
    assert found.dtype == torch.uint8 and found.device.type == "cpu" and torch.equal(found, again)
    assert float(((found.int() - expected.int()).abs() <= 1).double().mean()) >= 0.99


# -------------------------------------------------------------------------------------------------------- training


def trainer(path: Path, *options: str) -> tuple[Trainer, Callable[[int], list[float]]]:
    """Make a trainer of a small model of digits in this process.

    Args:
        path: the run directory.
        options: of scripts/train.py.

    Returns:
        The trainer, and what makes it train a number of steps and returns their losses, 0 for a skipped one.
    """
    config = parse_command(TrainCommand, "train.py", [*SMALL, *options]).config
    accelerator = start_accelerator(config)
    data = build_data(config)
    made = Trainer(config, accelerator, data, build_schedule(config), build_unet(config, data), path)

    def advance(steps: int) -> list[float]:
        batches, losses = load_micro_batches(data, config.train, made.step, 0, 1, 0), []
        for _ in range(steps):
            before = made.sums["loss"]
            made.train_step([next(batches)])
            losses.append(made.sums["loss"] - before)
        return losses

    return made, advance


@pytest.mark.usefixtures("deterministic")
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    options = "--model.dropout", "0.1", "--train.steps", "8"
    whole, advance = trainer(tmp_path / "whole", *options)
    advance(4)
    expected = advance(4)
    whole.save()
    first, advance = trainer(tmp_path / "parts", *options)
    advance(4)
    first.save()
    second, advance = trainer(tmp_path / "parts", *options)
    second.restore(tmp_path / "parts" / "checkpoints" / "step_00000004")
    assert {value.device.type for state in second.optimizer.optimizer.state.values() for value in state.values()} == {
        DEVICE
    }
    assert advance(4) == pytest.approx(expected, rel=1e-12)     # differences of a running sum
    second.save()
    for file in ("training/model", "training/optimizer", "unet/diffusion_pytorch_model"):
        one, other = (load_file(tmp_path / run / "checkpoints" / "step_00000008" / f"{file}.safetensors")
                      for run in ("whole", "parts"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), file


def test_offloading_layer_by_layer_keeps_the_samples(digits: Path) -> None:
    pipeline = load_pipeline(digits / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "output_type": "uint8"}
    expected = load_pipeline(digits / "pipeline").to(DEVICE)([0, 1, 2], **options).images
    pipeline.enable_sequential_cpu_offload()
    found = pipeline([0, 1, 2], **options).images
    assert float(((found.int() - expected.int()).abs() <= 1).double().mean()) >= 0.99


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path: Path, precision: str) -> None:
    made, advance = trainer(tmp_path, "--train.mixed_precision", precision, "--train.steps", "40")
    losses = [loss for loss in advance(40) if loss > 0]
    assert made.skipped <= 20 and sum(losses[-5:]) / 5 < 0.8 * losses[0], (made.skipped, losses)
    assert 0 < made.sums["grad_norm"] / made.sums["steps"] < 100        # not times the loss scale, of thousands


def test_a_loss_that_is_not_finite_changes_the_loss_scale_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, advance = trainer(tmp_path, "--train.mixed_precision", "fp16")
    advance(5)
    scaler = made.accelerator.scaler
    models = made.unet, made.ema.model
    before = [[parameter.clone() for parameter in model.parameters()] for model in models]
    scale, skipped = scaler.get_scale(), made.skipped
    with monkeypatch.context() as patched:
        patched.setattr(trainer_module, "diffusion_loss", lambda *inputs: diffusion_loss(*inputs) * math.inf)
        advance(1)
    assert made.skipped == skipped + 1 and scaler.get_scale() == scale / 2
    for model, parameters in zip(models, before, strict=True):
        assert all(torch.equal(new, old) for new, old in zip(model.parameters(), parameters, strict=True))
    state = json.loads(json.dumps(scaler.state_dict()))
    assert advance(1)[0] > 0
    scaler.load_state_dict(state)
    assert scaler.get_scale() == scale / 2
