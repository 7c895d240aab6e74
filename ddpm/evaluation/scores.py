"""Figures of the denoiser image by image, as an evaluation keeps them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, cat

from ddpm.evaluation.likelihood import eps_errors


def _denoising_error(table: Tensor, content: dict[str, Any]) -> Tensor:
    return eps_errors(table, [point["noise_level"] for point in content["denoising"]])


def _bits_per_dim(table: Tensor, content: dict[str, Any]) -> Tensor:
    return table.sum(dim=1)


# Figure -> the table that it is made of, and how.
SCORES = {"denoising_error": ("denoising", _denoising_error), "bits_per_dim": ("bits_per_dim", _bits_per_dim)}


def image_scores(folder: Path, figure: str) -> np.ndarray | None:
    """What each held-out image adds to a figure; their mean is its value.

    Two evaluations of equal held-out images, `bound_images` and `bound_steps` have the same images in the same places,
    shown with the same noise, so their scores can be taken pair by pair.

    Args:
        folder: of an evaluation, with evaluation.json.
        figure: its name there.

    Returns:
        float64 (N,); None for a figure that is no mean over images, or whose tables are gone.
    """
    if figure not in SCORES:
        return None
    name, score = SCORES[figure]
    files = sorted((folder / name).glob("*.safetensors"))
    if not files:
        return None
    content = json.loads((folder / "evaluation.json").read_text())
    return score(cat([load_file(file)[name] for file in files]), content).numpy()
