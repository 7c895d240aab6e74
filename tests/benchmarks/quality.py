"""Measure how solvers, guidance, inversion and the class swap change the images of a trained model.

python tests/benchmarks/quality.py runs/digits --out quality
python tests/benchmarks/quality.py runs/cifar10_small --out quality --only solvers --images 300 --budgets 5 10 20 50

Digits are classified by scikit-learn's SVC, trained on the pixels of 1,500 real images. For other data there is no
classifier, so accuracies and the class swap are left out. Other measures apply to any data: the Fréchet distance
between real and generated images in pixels (means over at most 8x8 blocks, in [-1, 1]), and the root mean square
difference in gray levels from images that 200 evaluations of UniPC generate from the same noise.
Writes quality.json and a plot.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor

from ddpm.config.yaml_files import read_config
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.sampling import batches
from ddpm.diffusion.timesteps import timestep_grid
from ddpm.evaluation.frechet import frechet_distance, moments
from ddpm.io.pipelines import load_pipeline
from ddpm.training.build import build_data

SCALES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
INTERVAL = (0.3, 3.0)
TIMED_STEPS = 50
FIRST_SEED = 10_000
IMAGES_OF_DATA = 10_000         # maximum number of real images


class DigitClassifier:
    """Classifies digits. Its accuracy on the 297 real images that are not in its training set is 0.993."""

    def __init__(self) -> None:
        digits = load_digits()
        images, labels = np.round(digits.images.reshape(-1, 64) * (255 / 16)) / 127.5 - 1, digits.target
        known = np.random.RandomState(0).permutation(len(images))[:1500]
        self.model = SVC().fit(images[known], labels[known])

    def __call__(self, images: Tensor) -> np.ndarray:
        return self.model.predict(images.flatten(1).numpy() / 127.5 - 1)


def features(images: Tensor) -> Tensor:
    """Average images over at most 8x8 blocks: uint8 (N, C, H, W) -> float64 (N, D)."""
    size = min(8, images.shape[2])
    return F.adaptive_avg_pool2d(images.double() / 127.5 - 1, size).flatten(1)


def distance_between(a: Tensor, b: Tensor) -> float:
    return frechet_distance(moments(a), moments(b))


class Model:
    """A trained model, its data, and the labels of the images to draw.

    Raises:
        ValueError: if there are too few or too many images to draw.
    """

    def __init__(self, run: Path, images: int, budgets: list[int]) -> None:
        config = read_config(run / "config.yaml")
        self.pipeline, data = load_pipeline(run), build_data(config)
        self.classifier = DigitClassifier() if config.data.source == "digits" else None
        self.budgets = budgets
        least, most = 2 * data.num_classes, min(len(data), IMAGES_OF_DATA) - 2
        if not least <= images <= most:
            raise ValueError(f"--images: {images} is out of range; allowed are {least} to {most} with this data")
        self.labels = torch.arange(images) % data.num_classes
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:IMAGES_OF_DATA].tolist()
        self.images, self.classes = data.__getitems__(chosen)
        self.real = features(self.images)

    def draw(self, labels: object = None, **options: object) -> Tensor:
        labels = self.labels if labels is None else self.pipeline.labels(labels)
        seeds = range(FIRST_SEED, FIRST_SEED + len(labels))
        draw = self.pipeline.make_draw_batch(labels, seeds, **{"batch_size": 100, **options})
        return torch.cat([draw(indices) for indices in batches(len(labels), 100)])

    def accuracy(self, images: Tensor) -> float | None:
        return None if self.classifier is None else float((self.classifier(images) == self.labels.numpy()).mean())

    def distance(self, images: Tensor) -> float:
        return distance_between(features(images), self.real)


def solvers(setup: Model, out: Path) -> dict:
    limit = setup.draw(sampler="unipc", timestep_spacing="logsnr", steps=200).float()
    ancestral = setup.draw(sampler="ddpm", steps=250)
    rows = [{"sampler": "ddpm", "timestep_spacing": "trailing", "steps": 250, "accuracy": setup.accuracy(ancestral),
             "distance": setup.distance(ancestral), "difference": None}]
    real_baseline = distance_between(setup.real[: len(setup.labels)], setup.real[len(setup.labels) :])
    print(rows[0], "; the same number of real images against the other real images:", real_baseline, flush=True)
    for sampler in (name for name in SAMPLERS if name != "ddpm"):
        for spacing in ("trailing", "logsnr"):
            for steps in setup.budgets:
                images = setup.draw(sampler=sampler, timestep_spacing=spacing, steps=steps)
                difference = float((images.float() - limit).square().mean().sqrt())
                rows.append({"sampler": sampler, "timestep_spacing": spacing, "steps": steps,
                             "accuracy": setup.accuracy(images), "distance": setup.distance(images),
                             "difference": difference})
                print(rows[-1], flush=True)
    for key in ("accuracy", "distance", "difference"):
        if rows[-1][key] is None:
            continue
        print(f"\n| {key} | " + " | ".join(map(str, setup.budgets)) + " |\n| --- |" + " --- |" * len(setup.budgets))
        for sampler, spacing in dict.fromkeys((r["sampler"], r["timestep_spacing"]) for r in rows[1:]):
            own = (r for r in rows[1:] if (r["sampler"], r["timestep_spacing"]) == (sampler, spacing))
            values = [r[key] for r in own]
            print(f"| {sampler}, {spacing} | " + " | ".join(f"{value:.3g}" for value in values) + " |")
    return {"rows": rows, "real against real": real_baseline}


def guidance(setup: Model, out: Path) -> dict:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = []
    for scale in SCALES:
        images = setup.draw(guidance_scale=scale, steps=25)
        pixels = images.flatten(1).double()
        of_class = torch.stack([pixels[setup.labels == c].std(dim=0).mean() for c in setup.labels.unique()])
        rows.append({"scale": scale, "accuracy": setup.accuracy(images), "diversity": float(of_class.mean())})
        print(rows[-1], flush=True)
    seconds: dict[str, list[float]] = {"everywhere": [], "interval": [], "nowhere": []}
    few = setup.labels[:100]
    options = {"everywhere": {"guidance_scale": 2.0}, "nowhere": {},
               "interval": {"guidance_scale": 2.0, "guidance_interval": INTERVAL}}
    for _ in range(5):
        for name, how in options.items():
            begin = time.perf_counter()
            setup.draw(few.tolist(), steps=TIMED_STEPS, **how)
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    schedule = setup.pipeline.schedule
    levels = schedule.sigmas[timestep_grid(schedule, TIMED_STEPS, "trailing")]
    share = float(((levels > INTERVAL[0]) & (levels <= INTERVAL[1])).double().mean())
    print({"seconds": medians, "share of steps inside the interval": share})
    fig, left = plt.subplots(figsize=(5, 3))
    left.plot(SCALES, [r["accuracy"] for r in rows], "o-", color="tab:blue")
    left.set_xlabel("guidance_scale")
    left.set_ylabel("classified as their class", color="tab:blue")
    right = left.twinx()
    right.plot(SCALES, [r["diversity"] for r in rows], "s--", color="tab:orange")
    right.set_ylabel("diversity within a class\n(gray levels)", color="tab:orange")
    fig.tight_layout()
    fig.savefig(out / "guidance.png", dpi=110)
    return {"rows": rows, "seconds": medians, "share of steps inside the interval": share}


def inversion(setup: Model, out: Path) -> dict:
    images, labels = setup.images[:200], setup.classes[:200].tolist()
    result = {}
    for iterations in (1, 3):
        noise = setup.pipeline.invert(images, labels, 100, iterations=iterations)
        again = setup.draw(labels, steps=100, noise=noise, clip=False)
        errors = (again.float() - images.float()).square().mean(dim=(1, 2, 3))
        each = 10 * torch.log10(255**2 / errors.clamp(min=1e-9))
        result[f"{iterations} iterations"] = {
            "psnr_of_all": float(10 * torch.log10(255**2 / errors.mean())), "worst": float(each.min()),
            "noise_mean": float(noise.mean()), "noise_std": float(noise.std()),
        }
    print(json.dumps(result, indent=2))
    return result


def swap(setup: Model, out: Path) -> dict | None:
    if setup.classifier is None:
        print("swap: skipped, there is no classifier for these images", flush=True)
        return None
    levels, classes = len(setup.pipeline.unet.config.channel_mult), int(setup.labels.max()) + 1
    count = len(setup.labels)
    coarse = [i % classes for i in range(count)]
    fine = [(i % classes + 1 + i // classes % (classes - 1)) % classes for i in range(count)]      # every pair in turn
    rows = []
    for guidance in (1.0, 2.0):
        for depth in range(levels + 1):
            labels = [[f] * depth + [c] * (levels - depth) for f, c in zip(fine, coarse, strict=True)]
            predicted = setup.classifier(setup.draw(labels, guidance_scale=guidance, steps=25))
            rows.append({"guidance_scale": guidance, "levels with the fine class": depth,
                         "coarse wins": float((predicted == np.array(coarse)).mean()),
                         "fine wins": float((predicted == np.array(fine)).mean())})
            print(rows[-1], flush=True)
    return {"rows": rows}


PARTS = {"solvers": solvers, "guidance": guidance, "inversion": inversion, "swap": swap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--budgets", type=int, nargs="+", default=[5, 8, 10, 15, 20, 50])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        setup = Model(args.run, args.images, args.budgets)
    except ValueError as problem:
        parser.error(str(problem))
    result = {name: PARTS[name](setup, args.out) for name in args.only}
    (args.out / "quality.json").write_text(json.dumps({"images": args.images, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
