"""The two sides of the comparison: this package, and diffusers' UNet2DModel with the loops of diffusers' examples.

Both have the same weights, and get the same images, labels and settings.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.diffusion.sampling import seeded_noise, to_uint8
from ddpm.diffusion.schedule import NoiseSchedule
from ddpm.io.unet2d import to_unet2d
from ddpm.models.compilation import compile_network
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose
from ddpm.training.step_inputs import InputQueue
from ddpm.training.trainer import Trainer

Batch = tuple[Tensor, Tensor, Tensor]       # positions in the run, uint8 images, labels

Network = TypeVar("Network", bound=nn.Module)

AVERAGE_DECAY = 0.9999      # of diffusers' training example, as its weight decay and betas are AdamW's arguments here
GUIDANCE_SCALE = 1.5


class Training(NamedTuple):
    """What both sides train.

    Attributes:
        config: the run's configuration.
        data: the images.
        schedule: the forward process.
        unet: the weights to start from, which are copied.
        accelerator: the device and the precision.
        batches: the batches of the steps.
        compiled: whether to compile the network with torch.compile.
    """

    config: Config
    data: ImageData
    schedule: NoiseSchedule
    unet: UNet
    accelerator: Accelerator
    batches: Iterator[Batch]
    compiled: bool = False


class Sampling(NamedTuple):
    """What both sides draw.

    Attributes:
        labels: class ids, int64 (B,), on the CPU.
        seeds: one per image.
        steps: DDIM steps.
        guidance_scale: 1 without guidance.
        precision: fp32, bf16 or fp16, of the networks.
        autocast: returns the context in which the UNet2DModel computes in it; the pipeline has an option.
    """

    labels: Tensor
    seeds: list[int]
    steps: int
    guidance_scale: float
    precision: str
    autocast: Callable[[], AbstractContextManager]


def build_pipeline(config: Config, data: ImageData, schedule: NoiseSchedule, unet: UNet) -> ClassConditionalPipeline:
    """Build the pipeline that draws from a U-Net."""
    return ClassConditionalPipeline.from_parts(unet, schedule, config.diffusion.prediction, data.class_names)


def compile_side(network: Network) -> Network:
    """Return a compiled copy of a network, for calls without gradients, with CUDA graphs on a GPU."""
    copied = copy.deepcopy(network)
    compile_network(copied, cuda_graphs=next(copied.parameters()).is_cuda)
    return copied


# ---------------------------------------------------------------------------------------------------------- training


def build_our_training(training: Training) -> Callable[[], object]:
    """Build the trainer's whole step, with random draws, clipping, average and the check for non-finite values."""
    config, data, schedule, unet, accelerator, batches, compiled = training
    config = config.with_options({"train.compile": compiled})
    trainer = Trainer(config, accelerator, data, schedule, copy.deepcopy(unet), Path())
    inputs = InputQueue(batches, 1, trainer.prepare)
    return lambda: trainer.train_step(inputs)


def build_their_training(training: Training) -> Callable[[], object]:
    """Build a step of the loop in diffusers' examples/unconditional_image_generation, with class labels.

    That is add_noise, the network, the mean squared error, clipping, AdamW and EMAModel.
    """
    config, data, schedule, unet, accelerator, batches, compiled = training
    train, device, channels = config.train, accelerator.device, data.channels
    model = to_unet2d(unet).train().to(device)
    if config.model.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train.learning_rate, betas=(0.9, train.beta2), weight_decay=train.weight_decay
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    if compiled:
        compile_network(model, cuda_graphs=device.type == "cuda")
    average = EMAModel(model.parameters(), decay=AVERAGE_DECAY)
    scheduler = DDPMScheduler.from_config(build_pipeline(config, data, schedule, unet).scheduler.config)
    targets = {
        "epsilon": lambda x_0, noise, t: noise,
        "v_prediction": lambda x_0, noise, t: scheduler.get_velocity(x_0, noise, t),
        "sample": lambda x_0, noise, t: x_0,
    }
    find_target = targets[scheduler.config.prediction_type]

    def step() -> None:
        _, images, labels = next(batches)
        x_0, labels = images.to(device, non_blocking=True).float() / 127.5 - 1, labels.to(device, non_blocking=True)
        noise = torch.randn_like(x_0)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x_0),), device=device)
        x_t = scheduler.add_noise(x_0, noise, t)
        output = model(x_t, t, labels if data.num_classes else None).sample[:, :channels]
        accelerator.backward(F.mse_loss(output.float(), find_target(x_0, noise, t)))
        accelerator.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())

    return step


TRAINING = {"ours": build_our_training, "diffusers": build_their_training}


# ---------------------------------------------------------------------------------------------------------- sampling


def build_our_sampling(pipeline: ClassConditionalPipeline, sampling: Sampling) -> Callable[[], Tensor]:
    """Build the drawing of one batch with the pipeline, which returns uint8 images (B, C, H, W) on the CPU."""
    count = len(sampling.seeds)
    draw = pipeline.make_draw_batch(
        sampling.labels, sampling.seeds,
        steps=sampling.steps, guidance_scale=sampling.guidance_scale, batch_size=count,
        mixed_precision=sampling.precision,
    )
    return lambda: draw(list(range(count)))


def build_their_sampling(
    pipeline: ClassConditionalPipeline, model: nn.Module, sampling: Sampling
) -> Callable[[], Tensor]:
    """Build the same with UNet2DModel and DDIMScheduler, with both halves of the guidance in one batch.

    The noise is that of the pipeline, and is drawn before the time is taken.

    Args:
        pipeline: has the noise schedule and the classes.
        model: the UNet2DModel.
        sampling: what to draw.
    """
    config, device = pipeline.unet.config, next(model.parameters()).device
    shape = (config.in_channels, config.resolution, config.resolution)
    x_T = seeded_noise(sampling.seeds, Purpose.INITIAL_NOISE, 0, shape).to(device)
    given_labels, guided = sampling.labels.to(device), sampling.guidance_scale != 1
    both_labels = [given_labels, torch.full_like(given_labels, pipeline.unet.null_label)] if guided else [given_labels]
    labels = torch.cat(both_labels) if config.num_classes else None

    @torch.no_grad()
    def draw_batch() -> Tensor:
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
        scheduler.set_timesteps(sampling.steps, device=device)
        x = x_T
        for t in scheduler.timesteps:
            with sampling.autocast():
                output = model(torch.cat([x, x]) if guided else x, t, labels).sample[:, : config.in_channels].float()
            if guided:
                given, null = output.chunk(2)
                output = null + sampling.guidance_scale * (given - null)
            x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
        return to_uint8(x).cpu()

    return draw_batch
