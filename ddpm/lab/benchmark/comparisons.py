"""The comparisons of the benchmark (COMPARISONS), each a function of what is measured."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ddpm.data import ImageData
from ddpm.devices import find_peak
from ddpm.lab.benchmark.fresh_process import call_in_processes
from ddpm.lab.benchmark.launches import Counts, count_kernels, count_pretended_step
from ddpm.lab.benchmark.peak_memory import measure_peak_memory
from ddpm.lab.benchmark.pretended_gpu import why_not_pretend
from ddpm.lab.benchmark.rounds import compare_sides, time_alternately
from ddpm.lab.benchmark.setting import (
    TOLERANCE,
    Setting,
    check_equal_outputs,
    copy_to_diffusers,
    draw_inputs,
    full_precision,
)
from ddpm.lab.benchmark.sides import (
    GUIDANCE_SCALE,
    TRAINING,
    Batch,
    Sampling,
    Training,
    build_our_sampling,
    build_pipeline,
    build_their_sampling,
    compile_side,
)
from ddpm.models.operations import FORWARD_PASSES, multiply_adds
from ddpm.models.unet import UNet
from ddpm.training.batches import build_samples, load_micro_batches
from ddpm.training.build import build_schedule
from ddpm.training.dry_run import count_parameters
from ddpm.training.launch import start_accelerator
from ddpm.training.timeline import Timeline

# Mean difference of the images in gray levels. Another step or label changes images by tens of levels.
IMAGE_TOLERANCE = {"fp32": 1.0, "bf16": 8.0, "fp16": 4.0}


class LeftOut(Exception):
    """A comparison is not possible here; says why."""


class Bench(NamedTuple):
    """What is measured.

    Attributes:
        setting: its configuration.
        data: the images.
        accelerator: the device and the precision.
        unet: our network, in evaluation mode.
        theirs: the UNet2DModel with its weights.
        rounds: number of rounds.
        sampling_steps: DDIM steps.
        difference: of the outputs of both, by precision.
    """

    setting: Setting
    data: ImageData
    accelerator: Accelerator
    unet: UNet
    theirs: nn.Module
    rounds: int
    sampling_steps: int
    difference: Mapping[str, float]

    @property
    def device(self) -> torch.device:
        """The device of both sides."""
        return self.accelerator.device

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        return self.setting.config.train.mixed_precision

    @property
    def batch_size(self) -> int:
        """B, of all comparisons."""
        return self.setting.config.train.batch_size

    def autocast(self) -> AbstractContextManager:
        """Return the context in which networks compute in the precision."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def batches(self) -> Iterator[Batch]:
        """Return the batches of training."""
        config = self.setting.config
        samples, timeline = build_samples(config, self.data), Timeline.of(config.train)
        return load_micro_batches(samples, timeline, 0, 0, 1, config, self.device)

    def describe(self) -> dict[str, Any]:
        """Return the setting for benchmark.json."""
        return {
            "name": self.setting.name,
            "images": self.setting.images,
            "resolution": self.data.resolution,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "parameters": count_parameters(self.unet),
            "multiply_adds": multiply_adds(self.unet),
            "sampling_steps": self.sampling_steps,
            "difference_of_outputs": dict(self.difference),
            "tolerance": {precision: TOLERANCE[precision] for precision in self.difference},
        }


def set_up_bench(setting: Setting, rounds: int, sampling_steps: int) -> Bench:
    """Build both networks, and check that their outputs are equal, in fp32 and in the precision of the setting.

    Raises:
        ValueError: if UNet2DModel does not support the network.
        RuntimeError: if the outputs differ.
    """
    accelerator, data = start_accelerator(setting.config), setting.load_images()
    unet = setting.build_network(data, accelerator.device)
    theirs = copy_to_diffusers(unet)
    bench = Bench(setting, data, accelerator, unet, theirs, rounds, sampling_steps, {})
    inputs, difference = draw_inputs(data, setting.config, accelerator.device), {}
    with full_precision():
        difference["fp32"] = check_equal_outputs(unet, theirs, inputs, TOLERANCE["fp32"])
    if bench.precision != "fp32":
        with bench.autocast():
            difference[bench.precision] = check_equal_outputs(unet, theirs, inputs, TOLERANCE[bench.precision])
    return bench._replace(difference=difference)


def build_training_steps(bench: Bench, compiled: bool) -> dict[str, Callable[[], object]]:
    """Build the training step of each side, from the same weights and on the same batches."""
    config = bench.setting.config
    common = config, bench.data, build_schedule(config), bench.unet, bench.accelerator
    return {side: build(Training(*common, bench.batches(), compiled)) for side, build in TRAINING.items()}


# ------------------------------------------------------------------------------------------------------ comparisons


def compare_training(bench: Bench, compiled: bool, deadline: float) -> dict[str, Any]:
    """Compare the training step, including the loading of its batch, which is the trainer's on both sides."""
    steps = build_training_steps(bench, compiled)
    found = _time(bench, steps, deadline)
    gpu = torch.cuda.get_device_name() if bench.device.type == "cuda" else None
    peak = find_peak(gpu, bench.precision)
    if peak is not None:
        operations = 2 * FORWARD_PASSES * multiply_adds(bench.unet) * bench.batch_size
        found["mfu"] = {side: operations / (found[side]["median"] / 1e3) / peak for side in steps}
    return found


@torch.no_grad()
def compare_forward(bench: Bench, compiled: bool, deadline: float) -> dict[str, Any]:
    """Compare the forward pass without gradients."""
    inputs = draw_inputs(bench.data, bench.setting.config, bench.device)

    def call(network: nn.Module) -> Tensor:
        with bench.autocast():
            return network(*inputs).sample

    ours, theirs = _find_networks(bench, compiled)
    return _time(bench, {"ours": partial(call, ours), "diffusers": partial(call, theirs)}, deadline)


def compare_memory(bench: Bench, compiled: bool, deadline: float) -> dict[str, Any]:
    """Compare the peak memory of training steps, each side in a process of its own."""
    calls = {side: (measure_peak_memory, (bench.setting, side, compiled)) for side in TRAINING}
    found = call_in_processes(calls, deadline)
    unit = "MB of tensors" if bench.device.type == "cuda" else "MB of resident memory"
    return {"unit": unit, **compare_sides({side: [peak / 1e6] for side, peak in found.items()})}


def compare_launches(bench: Bench, compiled: bool, deadline: float) -> dict[str, Any]:
    """Count what a training step launches on the GPU, and how often the program waits for the GPU.

    Raises:
        LeftOut: if there is no GPU, and torch cannot pretend to have one.
    """
    if bench.device.type == "cuda":
        counts = {}
        for side, step in build_training_steps(bench, compiled).items():
            for _ in range(3):      # the first makes the state of the optimizer
                step()
            counts[side] = count_kernels(step)
        unit = "launches by the host"
    elif (reason := why_not_pretend()) is not None:
        raise LeftOut(reason)
    else:
        calls = {side: (count_in_process, (bench.setting, side)) for side in TRAINING}
        counts = call_in_processes(calls, deadline)
        unit = "operations on a pretended GPU"
    found = compare_sides({side: [count.launches] for side, count in counts.items()})
    waits = {side: count.waits for side, count in counts.items()}
    most = {side: dict([*count.by_name.items()][:20]) for side, count in counts.items()}
    kernels = {side: dict(count.milliseconds) for side, count in counts.items() if count.milliseconds}
    return {"unit": unit, **found, "waits": waits, "most_frequent": most, "kernel_ms": kernels}


def compare_sampling(bench: Bench, compiled: bool, deadline: float) -> dict[str, Any]:
    """Compare guided sampling with DDIM from the same noise, and the images.

    Raises:
        RuntimeError: if the images differ.
    """
    count, config = bench.batch_size, bench.setting.config
    labels = torch.arange(count) % max(1, bench.data.num_classes)
    guided = bench.data.num_classes > 0 and bench.unet.null_label is not None
    scale = GUIDANCE_SCALE if guided else 1.0
    sampling = Sampling(labels, list(range(count)), bench.sampling_steps, scale, bench.precision, bench.autocast)
    unet, theirs = _find_networks(bench, compiled)
    pipeline = build_pipeline(config, bench.data, build_schedule(config), unet)
    draws = {
        "ours": build_our_sampling(pipeline, sampling), "diffusers": build_their_sampling(pipeline, theirs, sampling)
    }
    difference = (draws["ours"]().int() - draws["diffusers"]().int()).abs().double()
    images = {
        "mean_difference": float(difference.mean()),
        "largest_difference": int(difference.max()),
        "above_one_level": float((difference > 1).double().mean()),
    }
    if images["mean_difference"] > IMAGE_TOLERANCE[bench.precision]:
        raise RuntimeError(
            f"the images of the two sides differ by {images['mean_difference']:.2f} gray levels in the mean, and "
            f"{IMAGE_TOLERANCE[bench.precision]} is allowed; they are not compared"
        )
    return {**_time(bench, draws, deadline), "images": images, "guidance_scale": scale}


def compare_data(bench: Bench, compiled: bool, deadline: float) -> dict[str, Any]:
    """Measure how fast batches are loaded, without training; the other side loads the same batches."""
    batches = bench.batches()
    return _time(bench, {"ours": lambda: next(batches)}, deadline)


def count_in_process(setting: Setting, side: str) -> Counts:
    """Count the operations of a training step on a pretended GPU, for a process of its own."""
    return count_pretended_step(side, setting.config, setting.load_images())


class Contest(NamedTuple):
    """A comparison of both sides.

    Attributes:
        compare: function of what is measured, whether both sides are compiled, and the `time.monotonic()` until which
            rounds begin.
        compiled_on: types of devices on which it can compare compiled sides.
    """

    compare: Callable[[Bench, bool, float], dict[str, Any]]
    compiled_on: tuple[str, ...]


# The most important first.
COMPARISONS = {
    "training": Contest(compare_training, ("cpu", "cuda")),
    "forward": Contest(compare_forward, ("cpu", "cuda")),
    "memory": Contest(compare_memory, ("cpu", "cuda")),
    "launches": Contest(compare_launches, ("cuda",)),       # code for a GPU cannot be generated without one
    "sampling": Contest(compare_sampling, ("cpu", "cuda")),
    "data": Contest(compare_data, ()),
}


def _find_networks(bench: Bench, compiled: bool) -> tuple[UNet, nn.Module]:
    """Return both networks for calls without gradients, or compiled copies of them."""
    return (compile_side(bench.unet), compile_side(bench.theirs)) if compiled else (bench.unet, bench.theirs)


def _time(bench: Bench, acts: Mapping[str, Callable[[], object]], deadline: float) -> dict[str, Any]:
    """Time what both sides do with one batch, in milliseconds."""
    rounds = time_alternately(acts, bench.rounds, deadline)
    found = compare_sides({side: [1e3 * second for second in seconds] for side, seconds in rounds.seconds.items()})
    per_second = {side: 1e3 * bench.batch_size / found[side]["median"] for side in acts}
    return {"unit": "ms", **found, "images_per_s": per_second, "warm_up_calls": rounds.warm_up}
