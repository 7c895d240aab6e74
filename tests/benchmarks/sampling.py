"""Guided sampling compared with a plain loop over diffusers' UNet2DModel and DDIMScheduler with the same weights.

python scripts/train.py --model.norm_groups 8 --run-dir runs/digits8
python tests/benchmarks/sampling.py runs/digits8

UNet2DModel has one number of groups for all widths, hence 8 groups. The two sides alternate in one run, batch by
batch; the result is the ratio of their median rates. Both start from the same noise, so their images must agree up to
rounding, which is one gray level.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ddpm.diffusion.sampling import seeded_noise, to_uint8
from ddpm.io.pipelines import load_pipeline
from ddpm.io.unet2d import to_unet2d
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose


@torch.no_grad()
def plain_loop(
    pipeline: ClassConditionalPipeline, unet: torch.nn.Module, x: Tensor, labels: Tensor, steps: int, guidance: float
) -> Tensor:
    """Sample as one does with UNet2DModel, with both halves of the guidance in one batch."""
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    both = torch.cat([labels, torch.full_like(labels, pipeline.unet.null_label)])
    for t in scheduler.timesteps:
        given, null = unet(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)
        output = null + guidance * (given - null)
        x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    return to_uint8(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    args = parser.parse_args()

    pipeline = load_pipeline(args.run)
    theirs = to_unet2d(pipeline.unet).eval()
    config = pipeline.unet.config
    shape = (config.in_channels, config.resolution, config.resolution)
    labels = torch.arange(args.images) % config.num_classes
    seeds = list(range(args.images))
    options = {"steps": args.steps, "guidance_scale": args.guidance_scale, "batch_size": args.batch_size}
    draw = pipeline.make_draw_batch(labels, seeds, **options)

    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    worst, different, total = 0, 0, 0
    starts = range(0, args.images, args.batch_size)
    for number, start in enumerate([0, *starts]):           # the first is a warm-up
        indices = list(range(start, min(start + args.batch_size, args.images)))
        begin = time.perf_counter()
        a = draw(indices)
        middle = time.perf_counter()
        x_T = seeded_noise([seeds[i] for i in indices], Purpose.INITIAL_NOISE, 0, shape)
        b = plain_loop(pipeline, theirs, x_T, labels[indices], args.steps, args.guidance_scale)
        end = time.perf_counter()
        if number > 0:
            seconds["ours"].append((middle - begin) / len(indices))
            seconds["theirs"].append((end - middle) / len(indices))
            difference = (a.int() - b.int()).abs()
            worst, total = max(worst, int(difference.max())), total + difference.numel()
            different += int((difference > 0).sum())
    rates = {side: 1 / statistics.median(values) for side, values in seconds.items()}
    print(f"{args.images} images, {args.steps} steps, guidance {args.guidance_scale}, batches of {args.batch_size}")
    ratio = rates["ours"] / rates["theirs"]
    print(f"ours {rates['ours']:.1f} images/s, theirs {rates['theirs']:.1f}: ratio {ratio:.2f}")
    print(f"largest difference {worst} gray levels; {different} of {total} pixels differ at all")


if __name__ == "__main__":
    main()
