"""Mean ablation: how much the denoising error rises when the modulation is replaced by its mean."""

from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

from ddpm.diffusion.schedule import Denoiser
from ddpm.evaluation.estimates import Estimate, mean_estimate
from ddpm.evaluation.likelihood import DENOISER_BATCH_SIZE, denoising_errors
from ddpm.evaluation.modulation import modulated_layers
from ddpm.lab.probe.inputs import Images
from ddpm.lab.probe.results import MeanAblation, Rise
from ddpm.lab.probe.steering import MEANS_OVER, mean_inputs, steered
from ddpm.pipeline import ClassConditionalPipeline


class MeanAblator:
    """Measures the denoising error with and without mean ablation, on the same images with the same noise.

    Args:
        pipeline: the model.
        images: 2 or more real images.
        error_steps: S timesteps at which the error is measured.
        timesteps: (T,), timesteps that means are taken over.
        classes: ids (K,) that means are taken over.
        seed: seed of the noise.
        batch_size: number of images per network call.
    """

    def __init__(
        self,
        pipeline: ClassConditionalPipeline,
        images: Images,
        error_steps: list[int],
        timesteps: Tensor,
        classes: Tensor,
        seed: int,
        batch_size: int = DENOISER_BATCH_SIZE,
    ) -> None:
        self.unet, self.schedule, self.denoiser = pipeline.unet, pipeline.schedule, pipeline.denoiser(clip=False)
        self.images, self.error_steps, self.seed, self.batch_size = images, error_steps, seed, batch_size
        self.timesteps, self.classes = timesteps, classes
        self.layers = modulated_layers(self.unet)
        self.sigmas = self.schedule.sigmas[error_steps]
        self.unchanged = self.errors(self.denoiser)

    def errors(self, denoiser: Denoiser) -> Tensor:
        """Return the mean squared error of eps of each image at each sigma, float64 (N, S)."""
        _, pixels, labels, indices, _ = self.images
        steps, seed = self.error_steps, self.seed
        errors = denoising_errors(denoiser, self.schedule, pixels, labels, indices, steps, seed, self.batch_size)
        return errors.cpu() / self.sigmas.square()

    def ablate(self, layer: str | None, part: str, over: str) -> MeanAblation:
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
        columns = (self.error_steps, self.sigmas.tolist(), errors.tolist(), map(_mean, rises.T), map(_mean, expanded.T))
        points = [Rise(*values) for values in zip(*columns, strict=True)]
        return MeanAblation(layer, part, over, points, _mean(expanded.mean(dim=1)))

    def ablate_each(self) -> list[MeanAblation]:
        """Run `ablate` for every entry of `plan`, with a progress bar."""
        plan = tqdm([*self.plan()], "mean ablation", leave=False, dynamic_ncols=True, disable=None)
        return [self.ablate(layer, part, over) for layer, part, over in plan]

    def plan(self) -> Iterator[tuple[str | None, str, str]]:
        """Yield (layer, part, over): first all layers with each part and mean, then each layer alone.

        If there is only one part, it is "both"; with a single class there is no mean over classes.
        """
        parts = dict.fromkeys(part for layer in self.layers for part in layer.norm.modulation)
        overs = MEANS_OVER if len(self.classes) > 1 else ("timestep",)
        for part in [*parts, "both"] if len(parts) > 1 else ["both"]:
            for over in overs:
                yield None, part, over
        for layer in self.layers:
            yield layer.name, "both", overs[-1]


def _mean(values: Tensor) -> Estimate:
    return mean_estimate(values)._replace(count=len(values))
