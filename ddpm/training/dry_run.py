"""What a run would take, before it starts: parameters, operations, memory, time, devices, data."""

import time

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.diffusion.objective import diffusion_loss
from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.processes import device_map

TRIAL_IMAGES = 8
AFFORDABLE_SECONDS = 10
FORWARD_PASSES = 3      # that a forward and a backward pass take the time of


def multiply_adds(unet: UNet) -> int:
    """Multiply-adds of one forward pass on one image, in convolutions, linear layers and attention."""
    device = next(unet.parameters()).device
    c = unet.config
    sample = torch.zeros(1, c.in_channels, c.resolution, c.resolution, device=device)
    # The counter knows attention as matrix products, not by the name of every fast path.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(sample, 0, torch.zeros(1, dtype=torch.int64, device=device))
    return counter.get_total_flops() // 2


def plan(config: Config, data: ImageData, unet: UNet, schedule: NoiseSchedule, accelerator: Accelerator) -> str:
    """Measures a few images on this machine and scales up.

    Args:
        config: the run's.
        data: its images.
        unet: its model.
        schedule: its forward process.
        accelerator: its processes.

    Returns:
        Several lines for people.
    """
    device, train = accelerator.device, config.train
    part = train.batch_size // accelerator.num_processes // train.accumulation
    unet = unet.to(device).train()
    if config.model.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    macs = multiply_adds(unet)
    parameters = sum(p.numel() for p in unet.parameters())
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def seconds(images: int) -> float:
        """Of a forward and a backward pass, the faster of two."""
        x_0, labels = data.__getitems__([i % len(data) for i in range(images)])
        x_0, labels = x_0.to(device).float() / 127.5 - 1, labels.to(device)
        t = torch.arange(images, device=device) * (schedule.num_timesteps - 1) // images
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            with accelerator.autocast():
                loss = diffusion_loss(
                    unet,
                    schedule,
                    x_0,
                    labels,
                    t,
                    torch.randn_like(x_0),
                    config.diffusion.prediction,
                    config.diffusion.weighting,
                )
            loss.mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return min(taken)

    images = min(part, TRIAL_IMAGES)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        per_image = seconds(images) / images
    activations = sum(saved.values()) / images * part
    if per_image * part < AFFORDABLE_SECONDS:       # a whole part tells more: small ones keep the machine less busy
        per_image = seconds(part) / part
    per_step = per_image * train.batch_size / accelerator.num_processes
    unet.zero_grad(set_to_none=True)
    fixed = 5 * 4 * parameters      # weights, gradient, two moments, average
    lines = [
        f"data         {data.summary()}",
        f"model        {parameters:,} parameters, {macs / 1e6:,.1f} million multiply-adds per image",
        f"devices      {device_map(accelerator)}",
        f"batch        {train.batch_size} = {accelerator.num_processes} process(es) x {train.accumulation} "
        f"accumulation step(s) x {part} images; {train.precision}",
        f"memory       about {(fixed + activations) / 1e9:.2f} GB per process: {fixed / 1e9:.2f} for weights, "
        f"gradient, moments and average, {activations / 1e9:.2f} for activations",
        f"time         about {per_step:.3f} s per step, {duration(per_step * train.steps)} for {train.steps} "
        f"steps ({train.steps * train.batch_size / len(data):.1f} epochs), grids and evaluations aside",
    ]
    if config.evaluation.every > 0:
        lines.append(_evaluations(config, per_image / FORWARD_PASSES / accelerator.num_processes))
    return "\n".join(lines)


def _evaluations(config: Config, seconds: float) -> str:
    """What evaluations take; `seconds` is what a network call takes per image."""
    settings, steps = config.evaluation, config.train.steps
    number = -(-steps // settings.every)
    calls = settings.steps * (1 if settings.guidance == 1 else 2)
    each = settings.count * calls * seconds
    return (
        f"evaluation   {number}, each of {settings.count} images in {settings.steps} steps, about {each:.1f} s; "
        f"{duration(number * each)} in all"
    )


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s} s"
