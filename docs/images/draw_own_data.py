"""Draw the pictures of docs/own_data.md with the functions that training uses.

    python docs/images/draw_own_data.py [FOLDER]

The photograph is flower.jpg of scikit-learn (dany13, CC BY 2.0); the other images are drawn here.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from ddpm.config.sections import TrainConfig
from ddpm.data import load_data
from ddpm.data.pixels.fits import FITS
from ddpm.training.augmentation import AUGMENTATIONS, Augmentation
from ddpm.training.optim import learning_rate
from ddpm.training.orders import BalancedOrder, EpochOrder
from ddpm.training.timeline import Timeline

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

SIDE = 64       # pixels of an image in the pictures
CLASS_COLORS = ("#31688e", "#fde725", "#35b779")


def photograph() -> Image.Image:
    """Return a photograph of a dahlia, 640x427."""
    return Image.fromarray(load_sample_image("flower.jpg"))


def show(axes: Axes, image: Image.Image | np.ndarray, title: str) -> None:
    """Show an image with a title and without axes."""
    pixels = np.asarray(image)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def row(titles: Sequence[str], images: Sequence[Image.Image | np.ndarray]) -> None:
    """Show images next to each other."""
    figure, axes = plt.subplots(1, len(images), figsize=(1.75 * len(images), 2.1), squeeze=False)
    for ax, title, image in zip(axes[0], titles, images, strict=True):
        show(ax, image, title)
    figure.tight_layout(pad=0.4)


def as_read(files: dict[str, Image.Image], **options: object) -> list[np.ndarray]:
    """Return what `load_data` makes of some files, as arrays (H, W) or (H, W, C)."""
    with TemporaryDirectory() as folder:
        for name, image in files.items():
            image.save(Path(folder) / name)
        data = load_data(folder, SIDE, labels="none", **options)       # type: ignore[arg-type]
        images, _ = data.__getitems__(range(len(data)))
    return [image.permute(1, 2, 0).squeeze(2).numpy() for image in images]


def draw_fit() -> None:
    """Show what each value of data.fit makes of a wide photograph."""
    image = photograph()
    row(
        [f"the image, {image.width}x{image.height}", *(f"--data.fit {name}" for name in FITS)],
        [image.resize((96, 64)), *(fit(image, SIDE) for fit in FITS.values())],
    )


def draw_resolution() -> None:
    """Show the sizes of the images of a folder, and the square that is chosen from them."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 200, (60, 2))
    with TemporaryDirectory() as folder:
        for i, (width, height) in enumerate(sizes.tolist()):
            Image.new("L", (width, height)).save(Path(folder) / f"{i}.png")
        chosen = load_data(folder, labels="none").resolution
    figure, axes = plt.subplots(figsize=(4.2, 3.2))
    for width, height in sizes:
        axes.add_patch(plt.Rectangle((-width / 2, -height / 2), width, height, fill=False, color="#31688e", alpha=0.25))
    square = plt.Rectangle((-chosen / 2, -chosen / 2), chosen, chosen, fill=False, color="#d1495b", linewidth=2)
    axes.add_patch(square)
    axes.annotate(f"{chosen}x{chosen}", (0, 0), ha="center", va="center", color="#d1495b")
    axes.set(xlim=(-105, 105), ylim=(-105, 105), aspect="equal", title="60 images of 50 to 199 pixels per side")
    axes.title.set_fontsize(9)
    axes.set_axis_off()
    figure.tight_layout(pad=0.4)


def draw_channels() -> None:
    """Show gray and color images of one source, and an image with transparency."""
    color = photograph().crop((150, 0, 577, 427)).resize((SIDE, SIDE))
    cutout = color.copy()
    alpha = Image.new("L", cutout.size, 0)
    ImageDraw.Draw(alpha).ellipse([6, 6, 57, 57], fill=255)
    cutout.putalpha(alpha)
    mixed = {"0.png": color, "1.png": color.convert("L")}
    rgb, gray_as_rgb = as_read(mixed)
    gray, _ = as_read(mixed, channels=1)
    (white,) = as_read({"0.png": cutout})
    (kept,) = as_read({"0.png": cutout}, channels=4)
    checks = (np.indices((SIDE, SIDE)) // 8).sum(0) % 2 * 60 + 150
    opacity = kept[..., 3:] / 255
    over_checks = (kept[..., :3] * opacity + checks[..., None] * (1 - opacity)).astype(np.uint8)
    row(
        ["color image", "gray image among them", "--data.channels 1", "transparent: on white", "--data.channels 4"],
        [rgb, gray_as_rgb, gray, white, over_checks],
    )


def phantom(contrast: float) -> np.ndarray:
    """Return a section of a body in Hounsfield units, float32 (64, 64): air, fat, soft tissue and bone."""
    image = Image.new("F", (SIDE, SIDE), -1000)
    draw = ImageDraw.Draw(image)
    for box, value in (
        ((4, 10, 59, 54), -100), ((7, 13, 56, 51), 40), ((14, 18, 28, 44), -850), ((35, 18, 49, 44), -850),
        ((27, 38, 36, 48), 700), ((28, 20, 36, 30), 40 + contrast),
    ):
        draw.ellipse(box, fill=value)
    return np.asarray(image)


def draw_intensity() -> None:
    """Show two CT images in the scale of all values, and in a window of soft tissue."""
    files = {f"{i}.tif": Image.fromarray(phantom(contrast)) for i, contrast in enumerate((0, 120))}
    whole = as_read(files)
    window = as_read(files, intensity=[-160, 240])
    row(
        ["-1000 to 700", "(the default)", '--data.intensity', '"[-160, 240]"'],
        [*whole, *window],
    )


def draw_frames() -> None:
    """Show the frames of an animation, of which the first or all are used."""
    frames = []
    for i in range(4):
        image = Image.new("RGB", (SIDE, SIDE), "#e8eef2")
        ImageDraw.Draw(image).ellipse([4 + 12 * i, 20, 24 + 12 * i, 40], fill="#31688e")
        frames.append(image)
    figure, axes = plt.subplots(1, 4, figsize=(7, 2.1))
    for i, (ax, frame) in enumerate(zip(axes, frames, strict=True)):
        show(ax, frame, "first: the default" if i == 0 else f"frame {i}: --data.frames all")
    figure.tight_layout(pad=0.4)


def draw_augmentations() -> None:
    """Show five results of each augmentation."""
    color = photograph().crop((150, 0, 577, 427)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    x_0 = torch.from_numpy(np.asarray(color).copy()).permute(2, 0, 1).float() / 127.5 - 1
    columns = 5
    figure, axes = plt.subplots(len(AUGMENTATIONS), columns + 1, figsize=(7, 9.6))
    for line, name in zip(axes, AUGMENTATIONS, strict=True):
        show(line[0], color, name)
        augment = Augmentation([name], probability=1.0, seed=0)
        augmented, _ = augment(x_0.expand(columns, -1, -1, -1), torch.arange(columns))
        for ax, image in zip(line[1:], augmented, strict=True):
            pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            show(ax, pixels.permute(1, 2, 0).numpy(), "")
    figure.tight_layout(pad=0.3)


def draw_balance() -> None:
    """Show the classes of the first 60 samples of a run, with and without balance."""
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 3)
    orders = {"in proportion": EpochOrder(len(labels), 0), "--data.balance true": BalancedOrder(labels, 0)}
    figure, axes = plt.subplots(2, 1, figsize=(7, 1.9))
    for ax, (title, order) in zip(axes, orders.items(), strict=True):
        drawn = [int(labels[order.index(position)]) for position in range(60)]
        ax.bar(range(60), 1, width=0.9, color=[CLASS_COLORS[label] for label in drawn])
        ax.set(xlim=(-0.6, 59.6), ylim=(0, 1))
        ax.set_title(f"{title}: {', '.join(str(drawn.count(label)) for label in range(3))} of each class", fontsize=9)
        ax.set_axis_off()
    figure.tight_layout(pad=0.4)


def draw_extension() -> None:
    """Show the learning rate of a run of 600 steps that is extended to 1,200 after its end."""
    short = Timeline.of(TrainConfig(steps=600, learning_rate=3e-3, batch_size=64, warmup_steps=50))
    change = {"step": 600, "option": "train.steps", "old": 600, "new": 1200}
    extended = Timeline.of(TrainConfig(steps=1200, learning_rate=3e-3, batch_size=64, warmup_steps=50), [change])
    whole = Timeline.of(TrainConfig(steps=1200, learning_rate=3e-3, batch_size=64, warmup_steps=50))
    figure, axes = plt.subplots(figsize=(6, 2.4))
    for timeline, steps, label, style in (
        (whole, 1200, "1,200 steps from the start", {"color": "gray", "linestyle": ":"}),
        (extended, 1200, "extended after step 600", {"color": "#d1495b"}),
        (short, 600, "600 steps", {"color": "#31688e"}),
    ):
        axes.plot([learning_rate(timeline, step) for step in range(steps)], label=label, **style)
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, 1200), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(pad=0.4)


PICTURES: dict[str, Callable[[], None]] = {
    "own_fit": draw_fit,
    "own_resolution": draw_resolution,
    "own_channels": draw_channels,
    "own_intensity": draw_intensity,
    "own_frames": draw_frames,
    "own_augmentations": draw_augmentations,
    "own_balance": draw_balance,
    "own_extension": draw_extension,
}


def main(folder: Path) -> None:
    """Draw all pictures into a folder."""
    for name, draw in PICTURES.items():
        draw()
        plt.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        plt.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
