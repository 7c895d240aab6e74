"""Everything random about training, as a function of (seed, position in the run) or (seed, step, rank)."""

import torch
from torch import Tensor

from ddpm.config.sections import Config
from ddpm.diffusion.objective import TIMESTEP_SAMPLERS
from ddpm.randomness import Purpose, bits, normal, uniform


def training_inputs(
    position: Tensor,
    images: Tensor,
    labels: Tensor,
    config: Config,
    num_timesteps: int,
    null_label: int | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the objective takes, from stored images.

    Args:
        position: of the samples in the run, int64 (B,), on the CPU.
        images: uint8 (B, C, H, W).
        labels: int64 (B,).
        config: for the seed, the flip and the label dropout.
        num_timesteps: T.
        null_label: id of the null class, or None where the model has none and no label is dropped.
        device: of the model.

    Returns:
        x_0 in [-1, 1] (B, C, H, W), labels with the null class where dropped (B,), t (B,), noise (B, C, H, W).
    """
    seed, diffusion = config.train.seed, config.diffusion
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    x_0 = images.float() / 127.5 - 1
    if config.data.flip:
        mirrored = (uniform(seed, Purpose.FLIP, position) < 0.5).to(device)
        x_0 = torch.where(mirrored[:, None, None, None], x_0.flip(3), x_0)
    if null_label is not None:
        dropped = (uniform(seed, Purpose.LABEL_DROP, position) < diffusion.label_dropout).to(device)
        labels = torch.where(dropped, null_label, labels)
    t = TIMESTEP_SAMPLERS[diffusion.timestep_sampler](seed, position, num_timesteps).to(device)
    # The noise is large and is drawn where it is used, but for MPS, which lacks the float64 that this takes.
    noise = normal(seed, Purpose.NOISE, position.to("cpu" if device.type == "mps" else device), tuple(x_0.shape[1:]))
    return x_0, labels, t, noise.to(device)


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Seeds torch's own generators, which dropout draws from."""
    low, high = bits(seed, Purpose.DROPOUT, torch.tensor([step]), 2 * (rank + 1))[0, -2:].tolist()
    torch.manual_seed((high << 31) ^ low)
