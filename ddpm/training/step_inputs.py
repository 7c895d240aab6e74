"""The inputs of each training step: stored images with the random draws of their positions in the run."""

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.config.sections import Config
from ddpm.devices import move
from ddpm.diffusion.objective import TIMESTEP_SAMPLERS
from ddpm.randomness import Purpose, bits, normal, uniform
from ddpm.training.augmentation import Augmentation

MicroBatch = tuple[Tensor, Tensor, Tensor]      # positions in the run, uint8 images, labels


class StepInputs(NamedTuple):
    """The inputs of the objective for one micro-batch.

    Attributes:
        x_0: images in [-1, 1], (B, C, H, W).
        labels: class ids, with the null class where the label is dropped, (B,).
        t: timesteps, (B,).
        noise: standard normal, (B, C, H, W).
        augment_labels: labels of the augmentation (B, L), or None.
    """

    x_0: Tensor
    labels: Tensor
    t: Tensor
    noise: Tensor
    augment_labels: Tensor | None


class InputQueue:
    """The inputs of one step after another, of which those of the next step can be prepared ahead.

    Args:
        micro_batches: those of all steps in turn.
        per_step: number of micro-batches per step.
        prepare: turns a micro-batch into inputs.
    """

    def __init__(
        self,
        micro_batches: Iterator[MicroBatch],
        per_step: int,
        prepare: Callable[[MicroBatch], StepInputs],
    ) -> None:
        self._micro_batches, self._per_step, self._prepare = micro_batches, per_step, prepare
        self._ahead: list[StepInputs] | Exception | None = None

    def prepare_ahead(self) -> None:
        """Prepare the inputs of the next step, unless this has been done; `take` raises an error that this causes."""
        if self._ahead is not None:
            return
        try:
            self._ahead = [self._prepare(micro_batch) for micro_batch in islice(self._micro_batches, self._per_step)]
        except Exception as problem:        # the present step can still be completed and saved
            self._ahead = problem

    def take(self) -> list[StepInputs]:
        """Return the inputs of the next step, one for each micro-batch.

        Raises:
            ValueError: if an image cannot be read.
        """
        self.prepare_ahead()
        if isinstance(self._ahead, Exception):
            raise self._ahead
        assert self._ahead, "there are no more steps"
        inputs, self._ahead = self._ahead, None
        return inputs

    def close(self) -> None:
        """End the processes that decode images."""
        if isinstance(self._micro_batches, Generator):
            self._micro_batches.close()


def prepare_inputs(
    position: Tensor,
    images: Tensor,
    labels: Tensor,
    config: Config,
    null_label: int | None,
    augmentation: Augmentation | None = None,
) -> StepInputs:
    """Turn stored images into the inputs of the objective; all random draws are functions of (seed, position).

    Args:
        position: positions of the samples in the run, int64 (B,), on the CPU.
        images: uint8 (B, C, H, W), on the model's device.
        labels: int64 (B,), on the same device.
        config: seed, horizontal flip, class dropout, timestep sampler and number of timesteps.
        null_label: id of the null class, or None if there is none; then no label is dropped.
        augmentation: transforms whose labels the network receives; None for none.

    Returns:
        The inputs on the device of the images. They may still be on their way there: nothing here waits for a GPU.
    """
    seed, diffusion, device = config.train.seed, config.diffusion, images.device
    x_0, augment_labels = prepare_images(position, images, config, augmentation)
    if null_label is not None:
        dropped = move(uniform(seed, Purpose.LABEL_DROP, position) < diffusion.class_dropout_prob, device)
        labels = torch.where(dropped, null_label, labels)
    t = move(TIMESTEP_SAMPLERS[diffusion.timestep_sampler](seed, position, diffusion.num_timesteps), device)
    # The noise is large, so it is drawn on the device.
    noise = normal(seed, Purpose.NOISE, move(position, device), tuple(x_0.shape[1:]))
    return StepInputs(x_0, labels, t, noise, augment_labels)


def prepare_images(
    position: Tensor, images: Tensor, config: Config, augmentation: Augmentation | None
) -> tuple[Tensor, Tensor | None]:
    """Return the images as the network sees them, but without noise: x_0 and labels of augmentation.

    Arguments and results are those of `prepare_inputs`.
    """
    x_0 = images.float() / 127.5 - 1
    if config.data.horizontal_flip:
        flipped = move(uniform(config.train.seed, Purpose.FLIP, position) < 0.5, images.device)
        x_0 = torch.where(flipped[:, None, None, None], x_0.flip(3), x_0)
    return (x_0, None) if augmentation is None else augmentation(x_0, position)


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators, from which dropout draws, as a function of (seed, step, rank)."""
    # Each rank takes a pair of its own from the numbers of this step.
    low, high = bits(seed, Purpose.DROPOUT, torch.tensor([step]), 2 * (rank + 1))[0, -2:].tolist()
    torch.manual_seed((high << 31) ^ low)
