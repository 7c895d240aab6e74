"""How much the denoising error rises when the modulation is replaced by its mean over timesteps or classes."""

from collections.abc import Callable, Iterator
from math import sqrt

from torch import Tensor

from ddpm.diffusion.schedule import Denoiser, NoiseSchedule
from ddpm.evaluation.estimates import Estimate, with_standard_error
from ddpm.evaluation.likelihood import ROWS, denoising_errors
from ddpm.evaluation.modulation import modulated_layers
from ddpm.lab.probe.results import Freezing, Rise
from ddpm.lab.probe.steering import OVERS, mean_inputs, steered
from ddpm.models.unet import UNet


class Freezer:
    """Measures the denoising error of the unchanged and the frozen model, on the same images with the same noise.

    Args:
        unet: the model.
        denoiser: the model as a denoiser, without guidance or clipping.
        schedule: its schedule.
        images: uint8 (N, C, H, W), N >= 2.
        labels: ids (N,), as the denoiser takes them.
        indices: int64 (N,), which determine the noise together with the seed.
        levels: S timesteps at which the error is measured.
        timesteps: (T,), timesteps that means are taken over.
        classes: ids (K,) that means are taken over.
        seed: seed of the noise.
        rows: batch size.
    """

    def __init__(
        self,
        unet: UNet,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        levels: list[int],
        timesteps: Tensor,
        classes: Tensor,
        seed: int,
        rows: int = ROWS,
    ) -> None:
        self.unet, self.denoiser, self.schedule = unet, denoiser, schedule
        self.images, self.labels, self.indices = images, labels, indices
        self.stages, self.timesteps, self.classes, self.seed = levels, timesteps, classes, seed
        self.rows = rows
        self.layers = modulated_layers(unet)
        self.unchanged = self.errors(denoiser)

    def errors(self, denoiser: Denoiser) -> Tensor:
        """Return the mean squared error of eps of each image at each sigma, float64 (N, S)."""
        shown = self.images, self.labels, self.indices
        errors = denoising_errors(denoiser, self.schedule, *shown, self.stages, self.seed, self.rows).cpu()
        return errors / self.schedule.sigmas[self.stages].square()

    def freeze(self, layer: str | None, part: str, over: str) -> Freezing:
        """Measure the rise of the error when a part of the modulation is replaced by its mean.

        Args:
            layer: name of the layer, or None for all layers together.
            part: "scale", "shift" or "both".
            over: "class", "timestep" or "all".
        """
        names = [layer] if layer is not None else [one.name for one in self.layers]
        inputs = mean_inputs(self.unet, over, self.timesteps, self.classes)
        rises = self.errors(steered(self.denoiser, self.unet, names, part, inputs)) - self.unchanged    # (N, S)
        errors = self.unchanged.mean(dim=0)                                                             # (S,)
        relative = rises.mean(dim=0) / errors                                                           # (S,)
        # Delta method for a ratio of two means over the same images: values whose mean is the ratio and whose variance
        # is that of its first-order expansion.
        expanded = relative + (rises - relative * self.unchanged) / errors                              # (N, S)
        sigmas = self.schedule.sigmas[self.stages].tolist()
        points = [
            Rise(t, level, error, _mean(rise), _mean(ratio))
            for t, level, error, rise, ratio in zip(
                self.stages, sigmas, errors.tolist(), rises.T, expanded.T, strict=True
            )
        ]
        return Freezing(layer, part, over, points, _mean(expanded.mean(dim=1)))

    def freeze_each(self, done: Callable[[], None] = lambda: None) -> list[Freezing]:
        """Run `freeze` for every entry of `plan`.

        Args:
            done: called after each, to show progress.
        """
        found = []
        for layer, part, over in self.plan():
            found.append(self.freeze(layer, part, over))
            done()
        return found

    def plan(self) -> Iterator[tuple[str | None, str, str]]:
        """Yield (layer, part, over): first all layers with each part and mean, then each layer alone.

        If there is only one part, it is "both"; with a single class there is no mean over classes.
        """
        parts = dict.fromkeys(part for layer in self.layers for part in layer.norm.modulation)
        overs = OVERS if len(self.classes) > 1 else ("timestep",)
        for part in [*parts, "both"] if len(parts) > 1 else ["both"]:
            for over in overs:
                yield None, part, over
        for layer in self.layers:
            yield layer.name, "both", overs[-1]


def _mean(values: Tensor) -> Estimate:
    """Return the mean over images, (N,), with its interval."""
    return with_standard_error(float(values.mean()), float(values.std()) / sqrt(len(values)), len(values))
