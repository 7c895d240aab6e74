"""Measure how long this package and a plain diffusers loop train until their digits are recognized.

python tests/benchmarks/time_to_quality.py --out quality
python tests/benchmarks/time_to_quality.py --out quality --trials tests/benchmarks/time_to_quality.yaml

A run is good if scikit-learn's SVC, trained on 1,500 real digits, assigns at least 98 % of 1,000 samples to the
requested class. Samples are drawn from the averaged weights by 50 steps of DDIM without guidance, with one sampler and
the same noise for both sides. The learning rate decays over a run, so half of a run is not a run of half the length.
Each seed therefore trains complete runs, each with its whole schedule, of 100, 120, 144, ... steps, until one is good.
The time to quality is its number of steps times the duration of a step, the median of all steps of short runs in which
the two sides take turns, without those that other programs disturbed. Building, sampling and judging do not count.

The recipe of this side is OURS, and that of the other is the default of `Recipe`. With --trials, each line of a YAML
file changes one or more options of a recipe and trains one run per seed. Results are in results.jsonl; without
--trials, a run that is there is not trained again.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from quality import DigitClassifier, distance_between, features
from torch import Tensor

from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.devices import processor_name
from ddpm.diffusion.sampling import seeded_noise, to_uint8
from ddpm.randomness import Purpose
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.trainer import Trainer

GOOD = 0.98
FIRST_SEED = 10_000
CPUS = os.cpu_count() or 1
# The recipe of this package. It has no null class, which only guidance needs, and the other side has none either.
OURS = Config().with_options(
    {
        "model.channels": 16, "model.head_channels": 16, "model.attention_resolutions": [], "model.resample": "conv",
        "diffusion.class_dropout_prob": 0.0, "train.batch_size": 64, "train.optimizer": "muon",
        "train.learning_rate": 1.2e-2, "train.warmup_steps": 20, "train.ema_warmup": 0.1,
    }
)
STEPS_AT_ONCE, ROUNDS, ATTEMPTS = 40, 7, 100
DISTURBED = 0.05                                        # share of the processors that other programs take
LENGTHS = [round(100 * 1.2**i) for i in range(15)]      # steps; to 1,284


class Trained(NamedTuple):
    """What a run leaves.

    Attributes:
        seconds: duration of each step.
        others: share of the machine's processors that other programs took meanwhile.
        network: the averaged network, x_t, t, labels -> output.
        scheduler: its forward process and prediction.
    """

    seconds: list[float]
    others: float
    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    scheduler: Mapping[str, Any]


def time_steps(step: Callable[[], object], count: int) -> tuple[list[float], float]:
    """Make steps; return the seconds of each, and the share of the processors that other programs took meanwhile."""
    busy, own, times = find_busy(), time.process_time(), [time.perf_counter()]
    for _ in range(count):
        step()
        times.append(time.perf_counter())
    others = find_busy() - busy - (time.process_time() - own)
    return [after - before for before, after in pairwise(times)], max(0, others) / (times[-1] - times[0]) / CPUS


def find_busy() -> float:
    """Return the processor time of all programs since the machine was started, in seconds."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


@dataclass(frozen=True)
class Recipe:
    """A plain loop over diffusers' UNet2DModel, DDPMScheduler, AdamW and EMAModel.

    Args:
        channels, multipliers, layers, attention: shape of the network; attention at 4x4, and otherwise in the middle.
        head: channels per attention head.
        groups: number of groups of a norm.
        scale_shift: whether the embedding scales the norms too.
        resample: `resnet` or `conv`.
        channels_last: memory format of weights and images.
        schedule, prediction: of DDPMScheduler.
        batch_size, learning_rate, beta2, warmup, decay, max_norm: of the loop; decay is `cosine` or `constant`.
        ema_decay, ema_warmup, ema_power: of EMAModel.
        fused: of AdamW.
    """

    channels: int = 16
    multipliers: tuple[float, ...] = (1, 2)
    layers: int = 1
    attention: bool = False
    head: int = 16
    groups: int = 8
    scale_shift: bool = False
    resample: str = "conv"
    channels_last: bool = False
    schedule: str = "squaredcos_cap_v2"
    prediction: str = "v_prediction"
    batch_size: int = 64
    learning_rate: float = 6e-3
    beta2: float = 0.999
    warmup: int = 20
    decay: str = "cosine"
    max_norm: float = 1.0
    ema_decay: float = 0.9999
    ema_warmup: bool = False
    ema_power: float = 0.75
    fused: bool = True


def train_ours(config: Config, data: ImageData, steps: int, seed: int) -> Trained:
    """Train with the trainer's steps."""
    config = config.with_options({"train.steps": steps, "train.seed": seed, "train.compile": False})
    config = derive_config(config, data)
    trainer = Trainer(config, Accelerator(cpu=True), data, build_schedule(config), build_unet(config, data), Path())
    inputs = trainer.load_inputs()
    seconds, others = time_steps(lambda: trainer.train_step(inputs), steps)
    inputs.close()
    network, scheduler = trainer.pipeline.unet, trainer.pipeline.scheduler.config
    return Trained(seconds, others, lambda x, t, labels: network(x, t, labels).sample, scheduler)


def train_theirs(recipe: Recipe, data: ImageData, steps: int, seed: int) -> Trained:
    """Train with a plain loop over images in memory."""
    torch.manual_seed(seed)
    widths = tuple(int(recipe.channels * factor) for factor in recipe.multipliers)
    plain = "Resnet{}sampleBlock2D" if recipe.resample == "resnet" else "{}Block2D"
    levels = [recipe.attention and i > 0 for i in range(len(widths))]
    model = UNet2DModel(
        sample_size=data.resolution, in_channels=data.channels, out_channels=data.channels,
        block_out_channels=widths, layers_per_block=recipe.layers, num_class_embeds=data.num_classes,
        down_block_types=tuple("AttnDownBlock2D" if a else plain.format("Down") for a in levels),
        up_block_types=tuple("AttnUpBlock2D" if a else plain.format("Up") for a in reversed(levels)),
        downsample_type=recipe.resample, upsample_type=recipe.resample, attention_head_dim=recipe.head,
        norm_num_groups=recipe.groups, attn_norm_num_groups=recipe.groups,
        resnet_time_scale_shift="scale_shift" if recipe.scale_shift else "default",
    )
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    scheduler = DDPMScheduler(beta_schedule=recipe.schedule, prediction_type=recipe.prediction)
    find_target = {"v_prediction": scheduler.get_velocity, "epsilon": lambda x_0, noise, t: noise,
                   "sample": lambda x_0, noise, t: x_0}[recipe.prediction]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, recipe.beta2), weight_decay=0.0, fused=recipe.fused
    )
    name = "cosine" if recipe.decay == "cosine" else "constant_with_warmup"
    rates = get_scheduler(name, optimizer, num_warmup_steps=recipe.warmup, num_training_steps=steps)
    average = EMAModel(
        model.parameters(), decay=recipe.ema_decay, use_ema_warmup=recipe.ema_warmup, power=recipe.ema_power
    )
    every_image, every_label = data.__getitems__([*range(len(data))])
    order = torch.empty(0, dtype=torch.int64)

    def step() -> None:
        nonlocal order
        if len(order) < recipe.batch_size:
            order = torch.cat([order, torch.randperm(len(data))])
        chosen, order = order[: recipe.batch_size], order[recipe.batch_size :]
        x_0, labels = every_image[chosen].float() / 127.5 - 1, every_label[chosen]
        noise = torch.randn_like(x_0)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x_0),))
        x_t = scheduler.add_noise(x_0, noise, t).contiguous(memory_format=layout)
        F.mse_loss(model(x_t, t, labels).sample, find_target(x_0, noise, t)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_norm)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        average.step(model.parameters())

    seconds, others = time_steps(step, steps)
    average.copy_to(model.parameters())
    model.eval()
    return Trained(seconds, others, lambda x, t, labels: model(x, t, labels).sample, scheduler.config)


class Judge:
    """Draws samples of a network and judges them."""

    def __init__(self, data: ImageData, samples: int, steps: int) -> None:
        self.classifier, self.steps = DigitClassifier(), steps
        self.real = features(data.__getitems__([*range(len(data))])[0])
        self.labels = torch.arange(samples) % data.num_classes
        shape = (data.channels, data.resolution, data.resolution)
        self.noise = seeded_noise(range(FIRST_SEED, FIRST_SEED + samples), Purpose.INITIAL_NOISE, 0, shape)

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        """Return the share of samples of the requested class, and the Fréchet distance in pixels to the real images."""
        scheduler = DDIMScheduler.from_config(trained.scheduler, timestep_spacing="trailing")
        scheduler.set_timesteps(self.steps)
        drawn = []
        for x, labels in zip(self.noise.split(100), self.labels.split(100), strict=True):
            for t in scheduler.timesteps:
                output = trained.network(x, t.expand(len(x)), labels)
                x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
            drawn.append(to_uint8(x))
        images = torch.cat(drawn)
        right = self.classifier(images) == self.labels.numpy()
        return {"accuracy": float(right.mean()), "distance": distance_between(features(images), self.real)}


class Side:
    """One side of the comparison, with a recipe.

    Args:
        name: `ours` or `diffusers`.
        recipe: a Config or a Recipe.
        data: the images.
        judge: judges samples.
    """

    def __init__(self, name: str, recipe: Config | Recipe, data: ImageData, judge: Judge) -> None:
        self.name, self.recipe, self.data, self.judge = name, recipe, data, judge

    def change(self, options: dict[str, Any]) -> "Side":
        """Return the side with other options of the recipe."""
        if isinstance(self.recipe, Config):
            return Side(self.name, self.recipe.with_options(options), self.data, self.judge)
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        return Side(self.name, replace(self.recipe, **lists), self.data, self.judge)

    def train(self, steps: int, seed: int) -> Trained:
        """Train a complete run."""
        train = train_ours if isinstance(self.recipe, Config) else train_theirs
        return train(self.recipe, self.data, steps, seed)

    def run(self, steps: int, seed: int) -> dict[str, Any]:
        """Train a complete run and judge its samples."""
        trained = self.train(steps, seed)
        took = {"seconds": round(sum(trained.seconds), 2), "others": round(trained.others, 3)}
        return {"side": self.name, "steps": steps, "seed": seed, **took, **self.judge(trained)}


def find_steps(side: Side, first: int, seed: int, known: list[dict], note: Callable[[dict], None]) -> int:
    """Return the length of the shortest good run of a seed, of at least `first` steps."""
    for steps in (n for n in LENGTHS if n >= first):
        of_run = {"side": side.name, "steps": steps, "seed": seed}
        row = next((row for row in known if of_run.items() <= row.items()), None)
        if row is None:
            note(row := side.run(steps, seed))
        if row["accuracy"] >= GOOD:
            return steps
    raise SystemExit(f"{side.name}: no run of at most {LENGTHS[-1]} steps is good")


def time_sides(sides: list[Side]) -> dict[str, float]:
    """Return the median seconds of a step of each side, measured in turns.

    What other programs disturbed is repeated.
    """
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(ATTEMPTS):
        measured = [side.train(STEPS_AT_ONCE, 0) for side in sides]
        if max(trained.others for trained in measured) > DISTURBED:
            print("disturbed by other programs:", [round(trained.others, 2) for trained in measured], flush=True)
            time.sleep(5)
            continue
        for side, trained in zip(sides, measured, strict=True):
            seconds[side.name].append(float(np.median(trained.seconds)))
        print({name: round(1e3 * values[-1], 1) for name, values in seconds.items()}, "ms per step", flush=True)
        if len(seconds[sides[0].name]) == ROUNDS:
            return {name: float(np.median(values)) for name, values in seconds.items()}
    raise SystemExit("other programs work on this machine; try again when it is idle")


def compare(
    sides: list[Side], first: dict[str, int], seeds: list[int], known: list[dict], note: Callable[[dict], None]
) -> None:
    """Find the time to quality of each side and seed, and print medians and quartiles."""
    steps = {side.name: [find_steps(side, first[side.name], seed, known, note) for seed in seeds] for side in sides}
    print("steps of the seeds:", steps, flush=True)
    medians = {}
    for name, per_step in time_sides(sides).items():
        low, medians[name], high = np.quantile(steps[name], [0.25, 0.5, 0.75]) * per_step
        print(f"{name}: {medians[name]:.1f} s, quartiles {low:.1f} and {high:.1f}, {1e3 * per_step:.1f} ms per step")
    if len(medians) == 2:
        print(f"ours / diffusers: {medians['ours'] / medians['diffusers']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["ours", "diffusers"], nargs="+", default=["ours", "diffusers"])
    parser.add_argument("--first", type=int, nargs=2, default=[100, 100], help="shortest runs of ours and diffusers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--ddim-steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trials", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{processor_name()}, {args.threads} threads, torch {torch.__version__}", flush=True)
    data = build_data(OURS)
    judge = Judge(data, args.samples, args.ddim_steps)
    recipes: dict[str, Config | Recipe] = {"ours": OURS, "diffusers": Recipe()}
    sides = [Side(name, recipes[name], data, judge) for name in args.only]

    def note(row: dict[str, Any]) -> None:
        print(row, flush=True)
        with (args.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    if args.trials is None:
        results = args.out / "results.jsonl"
        known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        compare(sides, dict(zip(["ours", "diffusers"], args.first, strict=True)), args.seeds, known, note)
        return
    trials = yaml.safe_load(args.trials.read_text())
    for side in sides:
        for trial in trials[side.name]:
            options = {key: value for key, value in trial.items() if key != "steps"}
            for seed in args.seeds:
                note({**side.change(options).run(trial["steps"], seed), "options": options})


if __name__ == "__main__":
    main()
