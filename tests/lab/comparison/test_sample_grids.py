"""Strips of the images that evaluations have written, as PNGs or in an .npz."""

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.io.image_formats import Request
from ddpm.io.image_writer import write_samples
from ddpm.io.pictures import count_tiles, describe_picture, to_picture
from ddpm.lab.comparison.runs import read_run
from ddpm.lab.comparison.sample_grids import ClassStrips, find_shared_samples

NAMES = ["cat", "dog & <co>"]
SIDE = 24           # pixels


def drawn(run: int, seed: int, channels: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(100 * run + seed)
    return torch.randint(0, 256, (channels, SIDE, SIDE), dtype=torch.uint8, generator=draws)


def write(folder: Path, run: int, channels: int, kind: str, classes: bool = True) -> None:
    """Write four images of each class, of which each run has other seeds."""
    seeds = range(run, run + 8)
    requests = [
        Request(NAMES[seed % 2] if classes else "none", f"seed{seed:06d}", seed % 2 if classes else -1, seed)
        for seed in seeds
    ]
    images = torch.stack([drawn(run, seed, channels) for seed in seeds])
    write_samples(folder, requests, lambda indices: images[indices], 8, NAMES if classes else [], {}, (kind,))


def shared(
    tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path], **options: object
) -> list[ClassStrips]:
    evaluations = {}
    for run in range(2):
        path = make_run(tmp_path / f"{run}")
        folder = add_evaluation(path, samples__folder="../drawn")
        write(folder.parent / "drawn", run, **options)
        evaluations[f"{run}"] = read_run(path, f"{run}").evaluations[0]
    found, notes = find_shared_samples(evaluations)
    assert notes == ([] if options["channels"] in (1, 3) else [describe_picture(options["channels"])])
    return found


def shown(uri: str) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("channels", "kind"), [
    (1, "png"), (2, "png"), (3, "png"), (4, "png"), (5, "npz"), (3, "npz"), (8, "npz"),
])
def test_images_with_equal_seeds_are_shown_as_pictures(
    channels: int, kind: str, tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    found = shared(tmp_path, make_run, add_evaluation, channels=channels, kind=kind)
    assert [(strips.name, strips.seeds) for strips in found] == [("cat", [2, 4, 6]), ("dog & <co>", [1, 3, 5, 7])]
    for strips in found:
        for run, strip in enumerate(strips.strips):
            pixels, wide = shown(strip.uri), SIDE * count_tiles(channels)
            gap = (pixels.shape[1] - len(strips.seeds) * wide) // (len(strips.seeds) - 1)
            assert pixels.shape[0] == SIDE
            for position, seed in enumerate(strips.seeds):
                expected = to_picture(drawn(run, seed, channels)).convert("RGB")
                assert np.array_equal(pixels[:, position * (wide + gap) :][:, :wide], np.asarray(expected))


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_images_without_classes(
    kind: str, tmp_path: Path, make_run: Callable[..., Path], add_evaluation: Callable[..., Path]
) -> None:
    (strips,) = shared(tmp_path, make_run, add_evaluation, channels=5 if kind == "npz" else 1, kind=kind, classes=False)
    assert strips.name == "no class" and strips.seeds == list(range(1, 8))
