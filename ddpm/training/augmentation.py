"""Augmentation that does not leak into the samples: random transforms of images, and labels that tell the network.

A model of few images repeats them. Transformed copies help, but a model that is trained on them also draws them. Here
the network receives a label of the transform of each training image, which is zero for an unchanged one, and samples
are drawn with the label zero. This is the method of Karras et al. 2022 (EDM, arXiv 2206.00364, appendix F.2), after
that of Karras et al. 2020 (arXiv 2006.06676) for GANs: a projection of the label without bias, independent transforms,
flips before the others, the label 1 of a flip, and (cos - 1, sin) of a rotation by any angle.

The strengths are those of this package. They are bounded, so that none of the transforms shows less than half of an
image. In EDM's own training (its released code):

- `flip` is applied to half of all images, whatever the probability; here it has the probability of the others. Of the
  images with a vertical flip, half are flipped, so that its probability is effectively halved; here all are.
- `scale` is 2^(0.2 n) with a normal n. Here it is uniform in its logarithm, from 1/1.3 to 1.3, which has about the same
  standard deviation (2^0.22).
- `aspect` is 2^(0.2 n), half of the time along a random direction. Here it is weaker, at most 1.2, and along the sides.
- Translations are normal with a standard deviation of 1/8 of the side. Here `shift` is by whole pixels, which needs no
  interpolation, up to 1/8 of the side.
- `quarter_turn` and shifts by whole pixels exist, but are not used; there is no `crop`.
- Images are resampled at twice the resolution, between two wavelet filters. Here interpolation is bicubic (`resample`).
- The projection is added before the layers that embed the noise level, and here after them, where the class is added.

A label determines its transform: `Transform.matrix` is a function of the label alone. The matrices are in coordinates
that go from -1 at the left and upper edge of an image to 1 at the right and lower edge, as in `F.affine_grid`.
"""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.devices import move
from ddpm.float64 import float64_device
from ddpm.randomness import Purpose, uniform

MAX_SCALE = 1.3         # largest factor of the size
MAX_ASPECT = 1.2        # largest factor of the width, by which the height is divided
MAX_CROP = 0.25         # largest part of the side that is cut off
MAX_SHIFT = 0.125       # largest shift, as a part of the side


class Transform(NamedTuple):
    """A random affine transform of images.

    Attributes:
        purpose: purpose of its random numbers.
        channels: L, the number of channels of its label.
        numbers: number of random numbers that its label needs.
        draw: (uniform random numbers (B, numbers), side of the image in pixels) -> labels (B, L), never zero.
        matrix: labels (B, L) -> matrices (B, 3, 3) from a point of the result to the point of the image that it shows;
            the identity for the label zero.
    """

    purpose: Purpose
    channels: int
    numbers: int
    draw: Callable[[Tensor, int], Tensor]
    matrix: Callable[[Tensor], Tensor]


def _affine(like: Tensor, x: tuple[Tensor | float, ...], y: tuple[Tensor | float, ...]) -> Tensor:
    """Return one matrix per label of `like` (B, L): (B, 3, 3), with the rows x, y and (0, 0, 1).

    An entry of x or y is a number for all matrices, or has one value for each of them, (B,).
    """
    entries = [torch.as_tensor(entry, dtype=like.dtype).expand(len(like)) for entry in (*x, *y, 0, 0, 1)]
    return torch.stack(entries, dim=1).unflatten(1, (3, 3))                                             # (B, 3, 3)


def _always(u: Tensor, side: int) -> Tensor:
    return torch.ones(len(u), 1, dtype=u.dtype)


def _strength(u: Tensor, side: int) -> Tensor:
    return 2 * u - 1        # in (-1, 1); never 0, because u is an odd multiple of 2^-33


def _flip(label: Tensor) -> Tensor:
    return _affine(label, (1 - 2 * label[:, 0], 0, 0), (0, 1, 0))


def _vertical_flip(label: Tensor) -> Tensor:
    return _affine(label, (1, 0, 0), (0, 1 - 2 * label[:, 0], 0))


def _quarter_turn_label(u: Tensor, side: int) -> Tensor:
    """Return cos - 1 and sin of a turn by 90, 180 or 270 degrees."""
    turns = torch.tensor([[-1, 1], [-2, 0], [-1, -1]], dtype=u.dtype)
    return turns[(3 * u[:, 0]).long()]                                                                  # (B, 2)


def _rotation_label(u: Tensor, side: int) -> Tensor:
    """Return cos - 1 and sin of any angle."""
    angle = 2 * math.pi * u
    return torch.cat([angle.cos() - 1, angle.sin()], dim=1)                                             # (B, 2)


def _rotation(label: Tensor) -> Tensor:
    cos, sin = 1 + label[:, 0], label[:, 1]
    return _affine(label, (cos, -sin, 0), (sin, cos, 0))


def _scale(label: Tensor) -> Tensor:
    factor = MAX_SCALE ** -label[:, 0]
    return _affine(label, (factor, 0, 0), (0, factor, 0))


def _aspect(label: Tensor) -> Tensor:
    return _affine(label, (MAX_ASPECT ** -label[:, 0], 0, 0), (0, MAX_ASPECT ** label[:, 0], 0))


def _crop_label(u: Tensor, side: int) -> Tensor:
    """Return the part that is cut off, divided by its maximum, and the center of the rest in the same unit."""
    return torch.cat([u[:, :1], (2 * u[:, 1:] - 1) * u[:, :1]], dim=1)                                  # (B, 3)


def _crop(label: Tensor) -> Tensor:
    rest = 1 - MAX_CROP * label[:, 0]
    return _affine(label, (rest, 0, MAX_CROP * label[:, 1]), (0, rest, MAX_CROP * label[:, 2]))


def _shift_label(u: Tensor, side: int) -> Tensor:
    """Return a shift by whole pixels, which blurs nothing, to the right and down, divided by its maximum."""
    most = max(1, round(MAX_SHIFT * side))
    width = 2 * most + 1
    shift = (u[:, 0] * (width**2 - 1)).long()
    shift += shift >= width**2 // 2                                                 # all shifts but that by 0 pixels
    pixels = torch.stack([shift % width - most, shift // width - most], dim=1)                          # (B, 2)
    return pixels.to(u.dtype) / (MAX_SHIFT * side)


def _shift(label: Tensor) -> Tensor:
    return _affine(label, (1, 0, -2 * MAX_SHIFT * label[:, 0]), (0, 1, -2 * MAX_SHIFT * label[:, 1]))


# In the order in which they are applied to an image.
AUGMENTATIONS = {
    "flip": Transform(Purpose.AUGMENT_FLIP, 1, 0, _always, _flip),
    "vertical_flip": Transform(Purpose.AUGMENT_VERTICAL_FLIP, 1, 0, _always, _vertical_flip),
    "quarter_turn": Transform(Purpose.AUGMENT_QUARTER_TURN, 2, 1, _quarter_turn_label, _rotation),
    "rotation": Transform(Purpose.AUGMENT_ROTATION, 2, 1, _rotation_label, _rotation),
    "scale": Transform(Purpose.AUGMENT_SCALE, 1, 1, _strength, _scale),
    "aspect": Transform(Purpose.AUGMENT_ASPECT, 1, 1, _strength, _aspect),
    "crop": Transform(Purpose.AUGMENT_CROP, 3, 3, _crop_label, _crop),
    "shift": Transform(Purpose.AUGMENT_SHIFT, 2, 1, _shift_label, _shift),
}


class Augmentation:
    """Random transforms, each of which is applied to an image with the same probability.

    Args:
        names: entries of AUGMENTATIONS; their order does not matter.
        probability: of each transform, 0 to 1.
        seed: seed of the random numbers.

    Attributes:
        channels: L, the number of channels of a label.
    """

    def __init__(self, names: Collection[str], probability: float, seed: int) -> None:
        self._names = [name for name in AUGMENTATIONS if name in names]
        self._transforms = [AUGMENTATIONS[name] for name in self._names]
        self._probability, self._seed = probability, seed
        self.channels = sum(transform.channels for transform in self._transforms)

    def describe(self) -> str:
        """Describe the augmentation in one sentence."""
        unchanged = 100 * (1 - self._probability) ** len(self._transforms)
        return (
            f"augmented by {', '.join(self._names)}, each with probability {self._probability:g}; {unchanged:.3g}% of "
            "the images stay unchanged, and samples resemble these"
        )

    def __call__(self, images: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Transform images.

        Args:
            images: in [-1, 1], float32 (B, C, H, H).
            position: positions of the images in the run, int64 (B,), on the CPU.

        Returns:
            The images in [-1, 1] (B, C, H, H), and their labels, float32 (B, L).
        """
        labels = self.draw_labels(position, images.shape[-1])
        changed = labels.any(dim=1).nonzero()[:, 0]                                                     # (changed,)
        if len(changed) > 0:
            index = move(changed, images.device)
            images = images.index_copy(0, index, resample(images[index], self.matrices(labels[changed])))
        return images, move(labels.float(), images.device)

    def draw_labels(self, position: Tensor, side: int) -> Tensor:
        """Draw the labels of images with `side` pixels per side: (B,) -> float64 (B, L)."""
        labels = []
        for transform in self._transforms:
            u = uniform(self._seed, transform.purpose, position, (1 + transform.numbers,))              # (B, 1 + n)
            applied = u[:, :1] < self._probability
            labels.append(torch.where(applied, transform.draw(u[:, 1:], side), 0.0))                    # (B, L_i)
        return torch.cat(labels, dim=1)                                                                 # (B, L)

    def matrices(self, labels: Tensor) -> Tensor:
        """Return the matrices of the composed transforms: (B, L) -> (B, 3, 3)."""
        product = torch.eye(3, dtype=labels.dtype)[None]
        for transform, label in zip(
            self._transforms, labels.split([t.channels for t in self._transforms], dim=1), strict=True
        ):
            product = product @ transform.matrix(label)                                                 # (B, 3, 3)
        return product


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Transform images by bicubic interpolation; beyond its edges, an image is continued by its reflection.

    Bicubic interpolation blurs little where an image is enlarged. No filter precedes it where one is reduced, because
    that is by MAX_SCALE * MAX_ASPECT at most, and aliasing stays small. The arithmetic is in float64, so that flips,
    quarter turns and shifts by whole pixels move the values of pixels without changing them.

    Args:
        images: in [-1, 1], float32 (B, C, H, H).
        matrices: float64 (B, 3, 3), from points of the result to points of the images.

    Returns:
        float32 (B, C, H, H), clipped to [-1, 1], which cubic interpolation can exceed.
    """
    device = float64_device(images.device)
    grid = F.affine_grid(move(matrices[:, :2], device), list(images.shape), align_corners=False)        # (B, H, H, 2)
    moved = F.grid_sample(images.to(device).double(), grid, "bicubic", "reflection", align_corners=False)
    return moved.clamp(-1, 1).float().to(images.device)
