"""Training throughput and peak memory compared with diffusers' UNet2DModel of equal architecture, alternating.

python tests/benchmarks/throughput.py --source path/to/cifar10/train.parquet

The other side is the loop of diffusers' training example: UNet2DModel, DDPMScheduler.add_noise, AdamW, EMAModel. This
side is the trainer's whole step, including random draws, gradient clipping, EMA and the check for non-finite values.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

from ddpm.config.sections import Config, DataConfig, DiffusionConfig, ModelConfig, TrainConfig
from ddpm.data import ImageData
from ddpm.training.batches import build_samples, load_micro_batches
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.timeline import Timeline
from ddpm.training.trainer import Trainer


def configure(source: Path, batch: int, width: int, mixed_precision: str) -> Config:
    return Config(
        data=DataConfig(source=str(source)),
        model=ModelConfig(
            channels=width,
            channel_mult=[1, 2, 2, 2],
            num_res_blocks=2,
            attention_resolutions=[16, 8],
            head_channels=64,
        ),
        diffusion=DiffusionConfig(schedule="linear", prediction="eps", timestep_sampler="uniform"),
        train=TrainConfig(batch_size=batch, steps=100_000, learning_rate=2e-4, mixed_precision=mixed_precision),
    )


def build_ours(config: Config, data: ImageData) -> tuple[Callable[[], None], int]:
    unet = build_unet(config, data)
    precision = "no" if config.train.mixed_precision == "fp32" else config.train.mixed_precision
    trainer = Trainer(config, Accelerator(mixed_precision=precision), data, build_schedule(config), unet, Path())
    batches = load_micro_batches(trainer.samples, trainer.timeline, 0, 0, 1, trainer.config)
    return lambda: trainer.train_step([next(batches)]), sum(p.numel() for p in unet.parameters())


def build_theirs(config: Config, data: ImageData) -> tuple[Callable[[], None], int]:
    width = config.model.channels
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(int(width * factor) for factor in config.model.channel_mult),
        layers_per_block=2,
        down_block_types=(
            "ResnetDownsampleBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
            "ResnetDownsampleBlock2D",
        ),
        up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
        norm_eps=1e-5,
        attn_norm_num_groups=32,
        num_class_embeds=11,
    )
    precision = "no" if config.train.mixed_precision == "fp32" else config.train.mixed_precision
    accelerator = Accelerator(mixed_precision=precision)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-4, weight_decay=0.0)
    model, optimizer = accelerator.prepare(unet, optimizer)
    average = EMAModel(unet.parameters(), decay=0.9999)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    batches = load_micro_batches(build_samples(config, data), Timeline.of(config.train), 0, 0, 1, config)

    def step() -> None:
        _, images, labels = next(batches)
        x_0, labels = images.to(accelerator.device).float() / 127.5 - 1, labels.to(accelerator.device)
        noise = torch.randn_like(x_0)
        t = torch.randint(0, 1000, (len(x_0),), device=x_0.device)
        loss = F.mse_loss(model(scheduler.add_noise(x_0, noise, t), t, labels).sample.float(), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(unet.parameters())

    return step, sum(p.numel() for p in unet.parameters())


SIDES = {"ours": build_ours, "diffusers": build_theirs}


def time_step(step: Callable[[], None]) -> float:
    """Run a step and return its duration in seconds."""
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(side: str, config: Config, steps: int) -> float:
    """Return the peak memory of training steps in MB: of the GPU if there is one, else of this process."""
    data = build_data(config)
    torch.ones(256, 256) @ torch.ones(256, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    step, _ = SIDES[side](config, data)
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="CIFAR-10 as parquet")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--mixed-precision", default="fp32")
    args = parser.parse_args()
    config = configure(args.source, args.batch, args.width, args.mixed_precision)

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:     # a new process for each side
        memory = dict(zip(SIDES, processes.map(peak_memory, SIDES, repeat(config), repeat(4)), strict=True))

    data = build_data(config)
    steps, parameters = {}, {}
    for side, build in SIDES.items():
        steps[side], parameters[side] = build(config, data)
    for _ in range(3):
        for step in steps.values():
            time_step(step)
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side, step in steps.items():
            taken[side].append(time_step(step))
    for side in SIDES:
        median = statistics.median(taken[side])
        print(
            f"{side:10} {parameters[side]:,} parameters  {median * 1e3:8.1f} ms/step (median of {args.rounds})  "
            f"{args.batch / median:7.1f} images/s  peak memory {memory[side]:7.0f} MB"
        )
    ratio = statistics.median(taken["diffusers"]) / statistics.median(taken["ours"])
    print(f"ratio of medians: {ratio:.3f} x throughput, {memory['ours'] / memory['diffusers']:.3f} x memory")


if __name__ == "__main__":
    main()
