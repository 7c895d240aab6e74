"""Images that accompany an evaluation: the confusion matrix, and nearest neighbors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ddpm.io.captions import class_captions
from ddpm.io.pictures import labeled_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLASSES_WITH_TEXT = 40


def draw_confusion(matrix: Tensor, names: Sequence[str]) -> "Figure":
    """Draw a confusion matrix: requested classes in rows, predicted classes in columns.

    A cell is darker the larger its fraction of the row. With up to 40 classes, each cell shows this fraction
    in per cent, and the axes show the class names.

    Args:
        matrix: int64 (K, K), counts.
        names: K class names.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    percent = 100 * matrix.double() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    legible = len(names) <= MAX_CLASSES_WITH_TEXT
    side = max(6, len(names) / 3) if legible else 10
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    # matplotlib reads text between dollars as a formula
    captions = [name.replace("$", r"\$") for name in class_captions(names)]
    display = ConfusionMatrixDisplay(percent.numpy(), display_labels=captions)
    display.plot(ax=axes, cmap="Blues", values_format=".0f", include_values=legible, colorbar=False)
    axes.set(xlabel="predicted class (%)", ylabel="requested class")
    if legible:
        axes.tick_params("x", rotation=90)
    else:
        axes.set(xticks=[], yticks=[])
    return figure


def draw_neighbors(samples: Tensor, nearest: Tensor, distances: Sequence[float]) -> Image.Image:
    """Draw the samples that are nearest to real images, each above its nearest neighbor.

    Args:
        samples: uint8 (M, C, H, W).
        nearest: uint8 (M, C, H, W).
        distances: of each pair, in gray levels.
    """
    low, high = min(distances), max(distances)
    names = ["sample", "nearest real", f"{low:.1f} to {high:.1f} gray levels apart"]
    return labeled_grid([list(samples), list(nearest), [nearest[0] * 0 + 255]], names)
