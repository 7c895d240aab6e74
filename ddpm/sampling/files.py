"""Images as files: single PNGs, one labelled grid, one .npz."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm.manifest import naming
from ddpm.processes import join_processes

GRID_COLUMNS = 50       # a grid shows so many images of a class at most


def plan_seeds(classes: Sequence[int], per_class: int, seed: int, num_classes: int) -> tuple[list[int], list[int]]:
    """Labels and seeds of some images of each class: all seeds differ, and none depends on what else is asked for.

    The j-th image of class c has the seed `seed + j * num_classes + c`.
    """
    labels = [c for c in classes for _ in range(per_class)]
    return labels, [seed + j * num_classes + c for c in classes for j in range(per_class)]


def write_samples(
    out: Path,
    draw_part: Callable[[tuple[int, int]], Iterator[tuple[list[int], Tensor]]],
    labels: Sequence[int],
    seeds: Sequence[int],
    class_names: Sequence[str],
    npz: bool = False,
) -> Path:
    """Draws images, each process its share, and writes them.

    Args:
        out: folder; gets `CLASS_seedN.png` for each image, `grid.png`, and `samples.npz` on request.
        draw_part: (i, n) -> batches of the i-th of n processes, as `ddpm.sampling.images.draw` yields them.
        labels: class id of each image, those of a class beside each other.
        seeds: seed of each image.
        class_names: in the order of ids.
        npz: whether to write that file.

    Returns:
        Path of the grid.

    Raises:
        OSError: if the folder may not be written to.
    """
    state = join_processes()
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{_as_file_name(class_names[c])}_seed{s:06d}.png" for c, s in zip(labels, seeds, strict=True)]
    for places, images in draw_part((state.process_index, state.num_processes)):
        for place, image in zip(places, images, strict=True):
            with naming(out / names[place]):
                to_pil(image).save(out / names[place])
    state.wait_for_everyone()
    grid = out / "grid.png"
    if state.is_main_process:
        # PNGs are lossless: what the other processes drew is read back from them.
        rows = [[i for i, label in enumerate(labels) if label == c] for c in dict.fromkeys(labels)]
        shown = [[_read(out / names[i]) for i in row[:GRID_COLUMNS]] for row in rows]
        labelled_grid(shown, [class_names[labels[row[0]]] for row in rows]).save(grid)
        if npz:
            images = torch.stack([_read(out / name) for name in names])
            save_npz(out / "samples.npz", images, labels, seeds, class_names)
    state.wait_for_everyone()
    return grid


def _as_file_name(class_name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in class_name)


def _read(path: Path) -> Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path)))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (1 or 3, H, W) as a Pillow image."""
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy())


def labelled_grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str], min_pixels: int = 48) -> Image.Image:
    """One row per class, its name on the left.

    Args:
        rows: images of each class, uint8 (C, H, W) of one size.
        names: one per row.
        min_pixels: small images are enlarged by a whole factor to at least so many pixels.
    """
    height, width = rows[0][0].shape[1:]
    factor = max(1, -(-min_pixels // height))
    gap = 2
    cell_h, cell_w = height * factor + gap, width * factor + gap
    font = ImageFont.load_default(size=max(12, min(24, cell_h // 3)))
    margin = round(max(font.getlength(name) for name in names)) + 16
    sheet = Image.new("RGB", (margin + max(map(len, rows)) * cell_w, len(rows) * cell_h + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (row, name) in enumerate(zip(rows, names, strict=True)):
        pen.text((margin - 8, gap + r * cell_h + cell_h // 2), name, fill="black", font=font, anchor="rm")
        for c, image in enumerate(row):
            cell = to_pil(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(cell, (margin + c * cell_w, gap + r * cell_h))
    return sheet


def save_npz(
    path: Path, images: Tensor, labels: Sequence[int], seeds: Sequence[int], class_names: Sequence[str]
) -> None:
    """Writes `images` (uint8 N, H, W, C), `labels`, `seeds` and `class_names` as one compressed file."""
    np.savez_compressed(
        path,
        images=images.permute(0, 2, 3, 1).numpy(),
        labels=np.array(labels),
        seeds=np.array(seeds),
        class_names=np.array(class_names),
    )
