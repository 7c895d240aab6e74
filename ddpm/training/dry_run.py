"""The cost of a run before it starts: parameters, operations, memory, time, devices, data."""

import time
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.data.notes import are_imbalanced, count_classes
from ddpm.diffusion.objective import diffusion_loss
from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.models.operations import FORWARD_PASSES, multiply_adds
from ddpm.models.unet import UNet
from ddpm.processes import describe_devices
from ddpm.training.batches import build_samples
from ddpm.training.build import build_augmentation
from ddpm.training.optim import build_optimizer, count_moments
from ddpm.training.step_inputs import prepare_inputs
from ddpm.training.timeline import Timeline

TRIAL_IMAGES = 8
AFFORDABLE_SECONDS = 10


def count_parameters(unet: UNet) -> int:
    """Count the parameters of the model that samples are drawn with, which takes no labels of augmentation."""
    return sum(p.numel() for p in unet.without_augmentation().parameters())


def describe_architecture(config: Config, unet: UNet) -> str:
    """Describe where the U-Net has attention and, for a pretrained model, where its weights come from."""
    sizes = " and ".join(f"{size}x{size}" for size in unet.config.attention_resolutions)
    pretrained = config.model.pretrained
    origin = "" if pretrained is None else f", architecture and weights of {pretrained}"
    return f", attention at {sizes or 'no resolution but the middle'}{origin}"


def describe_unconditional(unet: UNet) -> str:
    """Describe what training without classes means for the options on classes."""
    text = "the images have no classes, so the model is unconditional and diffusion.class_dropout_prob has no effect"
    conditioning = unet.config.conditioning
    if conditioning in ("class", "cross_attention"):
        text += f"; in place of the class, model.conditioning {conditioning} adds a constant (timestep adds nothing)"
    return text


def describe_samples(config: Config, data: ImageData, samples: int) -> list[str]:
    """Describe how balance and augmentation change the training images, in one sentence each.

    Args:
        config: the run's configuration.
        data: the images.
        samples: number of images that the steps to be made draw.
    """
    lines, augmentation = [], build_augmentation(config)
    if not config.data.balance and are_imbalanced(count_classes(data.labels, data.num_classes)):
        lines.append("classes are drawn in proportion to their sizes; equally often: --data.balance true")
    if config.data.balance:
        counts = data.labels.bincount(minlength=data.num_classes)
        classes = int((counts > 0).sum())
        drawn = samples / classes          # images of each class
        smallest, largest = int(torch.where(counts > 0, counts, len(data)).argmin()), int(counts.argmax())
        times = [f"{drawn / int(counts[label]):,.1f} times" for label in (smallest, largest)]
        sizes = [f"{data.class_names[label]} ({counts[label]:,} images)" for label in (smallest, largest)]
        if counts[smallest] == counts[largest]:
            each = f"all of them have {counts[largest]:,} images, each of which is drawn {times[0]}"
        else:
            each = f"an image of the smallest, {sizes[0]} {times[0]}, and of the largest, {sizes[1]} {times[1]}"
        lines.append(f"each of {classes} classes is drawn equally often: {each}")
    if augmentation is not None:
        lines.append(augmentation.describe())
    return lines


def estimate_cost(
    config: Config,
    data: ImageData,
    unet: UNet,
    schedule: NoiseSchedule,
    accelerator: Accelerator,
    timeline: Timeline,
    done: int = 0,
) -> str:
    """Measure training on a few images on this machine and extrapolate to the steps that are to be made.

    Args:
        config: the run's configuration.
        data: the images.
        unet: the model.
        schedule: the forward process.
        accelerator: the processes.
        timeline: the settings of all steps of the run.
        done: number of steps that the run has made.

    Returns:
        Several lines of text.
    """
    device, train = accelerator.device, config.train
    steps, samples = train.steps - done, timeline.position(train.steps) - timeline.position(done)
    micro_batch = train.batch_size // accelerator.num_processes // train.gradient_accumulation_steps
    unet, sequence, augmentation = unet.to(device).train(), build_samples(config, data), build_augmentation(config)
    if config.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    macs = multiply_adds(unet)
    parameters = count_parameters(unet)
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def seconds(images: int) -> float:
        """Return the seconds of the inputs, the forward and the backward pass of one micro-batch (best of two)."""
        prediction, weighting = config.diffusion.prediction, config.diffusion.weighting
        position, pixels, labels = sequence.__getitems__(range(images))
        taken = []
        for _ in range(2):
            saved.clear()
            start = time.perf_counter()
            x_0, given, t, noise, augment_labels = prepare_inputs(
                position, pixels.to(device), labels.to(device), config, unet.null_label, augmentation
            )
            model = partial(unet.forward, augment_labels=augment_labels)
            with accelerator.autocast():
                loss = diffusion_loss(model, schedule, x_0, given, t, noise, prediction, weighting)
            loss.mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return min(taken)

    images = min(micro_batch, TRIAL_IMAGES)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        per_image = seconds(images) / images
        # Small batches use the device less efficiently, and their norms store more.
        if per_image * micro_batch < AFFORDABLE_SECONDS:
            images = micro_batch
            per_image = seconds(images) / images
    activations = sum(saved.values()) / images * micro_batch
    per_step = per_image * train.batch_size / accelerator.num_processes
    unet.zero_grad(set_to_none=True)
    values = sum(p.numel() for p in unet.parameters())
    copied = 4 * (2 * values + count_moments(build_optimizer(unet, train)))    # weights, average and moments
    fixed = copied + 4 * values                                                 # and the gradient
    lines = [
        f"model        {parameters:,} parameters, {macs / 1e6:,.1f} million multiply-adds per image"
        f"{describe_architecture(config, unet)}",
        f"devices      {describe_devices(accelerator)}",
        f"batch        {train.batch_size} = {accelerator.num_processes} process(es) x "
        f"{train.gradient_accumulation_steps} accumulation step(s) x {micro_batch} images; {train.mixed_precision}",
        f"memory       about {(fixed + activations) / 1e9:.2f} GB per process: {fixed / 1e9:.2f} for weights, "
        f"gradient, moments and average, {activations / 1e9:.2f} for activations; and {copied / 1e9:.2f} of main "
        "memory in the first process, for a copy that is saved",
        f"time         about {per_step:.3f} s per step, {format_duration(per_step * steps)} for {steps} steps "
        f"({samples / len(data):.1f} epochs), excluding the optimizer, sample grids and evaluations"
        f"{', and without train.compile' * train.compile}",
    ]
    if data.num_classes == 0:
        lines.append(f"classes      {describe_unconditional(unet)}")
    lines += [f"images       {line}" for line in describe_samples(config, data, samples)]
    if config.evaluation.every > 0:
        lines.append(_describe_evaluations(config, steps, per_image / FORWARD_PASSES / accelerator.num_processes))
    return "\n".join(lines)


def _describe_evaluations(config: Config, steps: int, seconds: float) -> str:
    """Return the line on the evaluations of so many steps; `seconds` is the time of a network call per image."""
    settings = config.evaluation
    number = -(-steps // settings.every)
    calls = settings.steps * (1 if settings.guidance_scale == 1 else 2)
    each = settings.count * calls * seconds
    return (
        f"evaluation   {number}, each of {settings.count} images in {settings.steps} steps, about {each:.1f} s; "
        f"{format_duration(number * each)} in total"
    )


def format_duration(seconds: float) -> str:
    """Format seconds as hours and minutes, or minutes and seconds."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s} s"
