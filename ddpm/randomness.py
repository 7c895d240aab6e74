"""The random numbers of training and sampling, as pure functions of (seed, purpose, index).

For what happens to a training sample, the index is its position in the run (0, 1, 2, ... in the order in which samples
are consumed); for the noise of a sampler, it is the sampler's step; for an order of samples, the epoch (and the class,
for an order within one); for initial weights, a checksum of their name. These numbers therefore do not depend on the
batch size, the number of processes, gradient accumulation, workers or interruptions, and a resumed run needs no
generator state. Dropout inside the network is the exception: torch draws it from a generator that each step seeds from
(seed, step, rank), so it depends on the number of processes and on gradient accumulation.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), written with int64
tensor operations: integers are equal on every device; normals agree up to the rounding of log and cos.
"""

from enum import IntEnum
from math import pi, prod
from typing import cast

import torch
from torch import Tensor

from ddpm.float64 import float64_device

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Purpose(IntEnum):
    """The use of a random number. Numbers for different purposes are independent. Saved runs depend on the values."""

    ORDER = 0
    TIMESTEP = 1
    NOISE = 2
    LABEL_DROP = 3
    FLIP = 4
    INITIAL_NOISE = 5
    SAMPLER_NOISE = 6
    WEIGHTS = 7
    DROPOUT = 8
    EVALUATION_TIMESTEP = 9
    EVALUATION_NOISE = 10
    SUBSET = 11
    LABEL_SHUFFLE = 12
    CLASS_ORDER = 13
    ORDER_IN_CLASS = 14
    AUGMENT_FLIP = 15
    AUGMENT_VERTICAL_FLIP = 16
    AUGMENT_QUARTER_TURN = 17
    AUGMENT_ROTATION = 18
    AUGMENT_SCALE = 19
    AUGMENT_ASPECT = 20
    AUGMENT_CROP = 21
    AUGMENT_SHIFT = 22


def philox(
    counter: tuple[Tensor, Tensor, Tensor | int, Tensor | int], key: tuple[Tensor | int, Tensor | int]
) -> tuple[Tensor, ...]:
    """Apply Philox4x32-10.

    Args:
        counter: four int64 tensors or integers with values in [0, 2^32) that broadcast together.
        key: two more of them.

    Returns:
        Four int64 tensors with values in [0, 2^32).
    """
    c0, c1, c2, c3 = cast("tuple[Tensor, ...]", counter)        # integers allow the same operations as tensors
    k0, k1 = cast("tuple[Tensor, ...]", key)
    for _ in range(_ROUNDS):
        # The product of two 32-bit numbers wraps in int64, but its low and high halves are still correct.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def bits(seed: int | Tensor, purpose: Purpose, index: Tensor, count: int) -> Tensor:
    """Draw independent 32-bit integers for each index.

    Args:
        seed: in [0, 2^63), a single integer or a tensor (B,).
        purpose: use of the numbers.
        index: int64 in [0, 2^63), (B,).
        count: number of integers per index.

    Returns:
        int64 in [0, 2^32), (B, count). The first numbers do not depend on `count`.
    """
    if isinstance(seed, Tensor):
        seed = seed.to(index.device)[:, None]                                                           # (B, 1)
    index = index[:, None]                                                                              # (B, 1)
    block = torch.arange(-(-count // 4), device=index.device)[None]                                     # (1, count / 4)
    counter = (block, index & _MASK, index >> 32, int(purpose))
    words = philox(counter, (seed & _MASK, seed >> 32))
    return torch.stack(words, dim=-1).flatten(1)[:, :count]                                             # (B, count)


def uniform(seed: int | Tensor, purpose: Purpose, index: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Draw numbers in the open interval (0, 1): (B,) -> float64 (B, *shape), on the CPU if the device has none."""
    words = bits(seed, purpose, index.to(float64_device(index.device)), prod(shape)).view(len(index), *shape)
    return (words.double() + 0.5) * 2.0**-32


def normal(seed: int | Tensor, purpose: Purpose, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal numbers by Box-Muller in float64: (B,) -> (B, *shape) in float32."""
    count = prod(shape)
    u = uniform(seed, purpose, index, (count + count % 2,))
    u_radius, u_angle = u[:, 0::2], u[:, 1::2]
    radius = torch.log(u_radius).mul_(-2).sqrt_()
    angle = u_angle.mul(2 * pi)
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(1)[:, :count].float().unflatten(1, shape).to(index.device)


def permutation(seed: int, epoch: int, n: int, purpose: Purpose = Purpose.ORDER) -> Tensor:
    """Return the order in which epoch number `epoch` visits n samples, int64 (n,)."""
    return permutations(seed, torch.tensor([epoch]), n, purpose)[0]


def permutations(seed: int, epochs: Tensor, n: int, purpose: Purpose) -> Tensor:
    """Return the order in which each epoch visits n samples: (E,) -> int64 (E, n)."""
    words = bits(seed, purpose, epochs, 2 * n).view(len(epochs), n, 2)
    return torch.argsort((words[..., 0] << 31) ^ words[..., 1], dim=1, stable=True)


def generator(seed: int, purpose: Purpose, index: int) -> torch.Generator:
    """Return a CPU generator for numbers that torch draws, such as the initial values of a weight."""
    return generators(seed, purpose, torch.tensor([index]))[0]


def generators(seed: int, purpose: Purpose, index: Tensor) -> list[torch.Generator]:
    """Return a CPU generator for each index, (B,)."""
    words = bits(seed, purpose, index, 2).tolist()
    return [torch.Generator().manual_seed((high << 31) ^ low) for high, low in words]
