"""All measurements of a probe on one model; measurements that are not possible are listed with the reason."""

from collections.abc import Callable
from typing import TypeVar

import torch

from ddpm.cache import cache_directory
from ddpm.config.commands import ProbeCommand
from ddpm.diffusion.class_labels import NO_CLASS
from ddpm.diffusion.divergence import Diverged
from ddpm.evaluation.likelihood import error_timesteps
from ddpm.evaluation.modulation import modulated_layers, modulations, projection_input_grid
from ddpm.evaluation.reference_classifier import cached_classifier
from ddpm.lab.probe.inputs import Images, ProbeInputs
from ddpm.lab.probe.mean_ablation import MeanAblator
from ddpm.lab.probe.modulation_statistics import analyze_variance, count_symptoms, measure_erasure, measure_strength
from ddpm.lab.probe.results import (
    Erasure,
    Layer,
    MeanAblation,
    Model,
    ProbeGrid,
    ProbeResults,
    Sensitivity,
    Separability,
    Swap,
    Symptoms,
)
from ddpm.lab.probe.sensitivity import measure_sensitivity, other_classes
from ddpm.lab.probe.separability import measure_separability
from ddpm.lab.probe.swap import swap_classes
from ddpm.models.embedding import CONDITIONINGS

MAX_CLASSES = 20        # number of classes that are measured, evenly spaced if the model has more
SIGMAS = 10             # number of sigmas at which errors are measured
ROUNDING_FRACTION = 1e-9        # of the variance; rounding errors of float32 are below it

Value = TypeVar("Value")


class NotMeasurable(Exception):
    """A measurement is not possible; the message says why."""


def measure_modulation(command: ProbeCommand, inputs: ProbeInputs, model: Model) -> ProbeResults:
    """Run all measurements that the model and the images allow.

    Args:
        command: options of the probe.
        inputs: the model, and real images if there are any.
        model: facts about the model, which are passed through.
    """
    measurements = Measurements(command, inputs)
    left_out: dict[str, str] = {}

    def attempt(name: str, measure: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return measure()
        except NotMeasurable as reason:
            left_out[name] = str(reason)
            return otherwise

    attempt("analysis of variance over timesteps and classes", measurements.check_classes, None)
    attempt("sign flips and dead channels", measurements.check_scale, None)
    attempt("class swap by encoder, middle and decoder", measurements.check_sides, None)
    return ProbeResults(
        model=model,
        grid=measurements.grid,
        layers=[
            Layer(
                name, side, size, norm.norm.num_channels, norm.norm.num_groups, list(norm.modulation),
                norm.shift_before_norm,
            )
            for name, side, size, norm in measurements.layers
        ],
        strengths=[measure_strength(layer, part, values) for layer, part, values in measurements.parts],
        variance=measurements.variance,
        symptoms=attempt("symptoms of failure", measurements.measure_symptoms, []),
        erasure=attempt("erased shift", measurements.measure_erasure, []),
        separability=attempt("class separability", measurements.measure_separability, []),
        mean_ablations=attempt("mean ablation", measurements.measure_mean_ablations, []),
        sensitivity=attempt("sensitivity to the class", measurements.measure_sensitivity, []),
        swap=attempt("class swap", measurements.measure_swap, None),
        left_out=left_out,
    )


class Measurements:
    """The measurements of one model. Those that are not possible raise NotMeasurable.

    Args:
        command: options of the probe.
        inputs: the model, and real images if there are any.
    """

    def __init__(self, command: ProbeCommand, inputs: ProbeInputs) -> None:
        self.command, self.pipeline, self.real_images = command, inputs.pipeline, inputs.images
        batch_size = command.batch_size or inputs.pipeline.images_per_call
        self.draws = command.seed, batch_size       # how measurements draw numbers and images
        self.unet, self.schedule = inputs.pipeline.unet, inputs.pipeline.schedule
        device, self.names = inputs.pipeline.device, inputs.pipeline.class_names
        self.cross_attention = CONDITIONINGS[self.unet.config.conditioning].cross_attention
        self.error_steps = error_timesteps(self.schedule, SIGMAS)
        steps, classes = error_timesteps(self.schedule, command.timesteps), choose_classes(len(self.names))
        self.labels = (torch.tensor(classes) if classes else self.pipeline.labels([None])).to(device)       # (K,)
        self.timesteps = torch.tensor(steps, device=device)                                                 # (T,)
        shown = [self.names[c] for c in classes] or [NO_CLASS]
        self.grid = ProbeGrid(steps, self.schedule.sigmas[steps].tolist(), shown)
        self.layers = modulated_layers(self.unet)
        self.values = {
            layer: {part: values.cpu() for part, values in parts.items()}
            for layer, parts in modulations(self.unet, self.timesteps, self.labels).items()
        }
        self.parts = [(layer, part, values) for layer, parts in self.values.items() for part, values in parts.items()]
        for layer, part, values in self.parts:
            if not values.isfinite().all():
                raise Diverged(f"the {part} of layer {layer} is not finite; probe an earlier checkpoint")
        self.variance = [analyze_variance(layer, part, values) for layer, part, values in self.parts]
        self.depends_on_class = any(row.class_ + row.interaction > ROUNDING_FRACTION for row in self.variance)

    @property
    def images(self) -> Images:
        """The real images."""
        if self.real_images is None:
            raise NotMeasurable(
                "there are no real images to measure on, because the model is not in a run directory; pass --reference"
            )
        return self.real_images

    def check_scale(self) -> None:
        """Check that the model has a scale."""
        if not any(part == "scale" for _, part, _ in self.parts):
            raise NotMeasurable(f"the norm {self.unet.config.norm} has no scale")

    def check_sides(self) -> None:
        """Check that the class does not enter by cross-attention alone; if it enters nowhere, `swap` says so."""
        if len(self.names) > 1 and self.cross_attention and not self.depends_on_class:
            raise NotMeasurable("it swaps the class in the norms, but this model conditions by cross-attention")

    def check_classes(self) -> None:
        """Check that there are classes to compare."""
        if len(self.names) < 2:
            raise NotMeasurable(f"the model has {'only one class' if self.names else 'no classes'}")

    def check_dependence(self) -> None:
        """Check that the modulation depends on the class."""
        if not self.depends_on_class:
            raise NotMeasurable("the modulation is the same for every class, because none of it depends on the class")

    def measure_symptoms(self) -> list[Symptoms]:
        """Count the symptoms of failure in each layer."""
        if any(layer.norm.shift_before_norm for layer in self.layers):
            raise NotMeasurable(
                "the thresholds hold for features of unit variance, and this model adds its shift before the norm, to "
                "features of any variance"
            )
        embs = projection_input_grid(self.unet, self.timesteps, self.labels)
        # By design, the other layers get the same input at every timestep and class.
        reached = {layer for layer, rows in embs.items() if not torch.equal(rows, rows[:1, :1].expand_as(rows))}
        return [
            count_symptoms(name, self.values[name], norm.norm.weight.detach().cpu(), name in reached)
            for name, _, _, norm in self.layers
        ]

    def measure_erasure(self) -> list[Erasure]:
        """Measure the erasure in each layer that adds its shift before the norm."""
        additive = [layer for layer in self.layers if layer.norm.shift_before_norm]
        if not additive:
            raise NotMeasurable(f"the norm {self.unet.config.norm} adds no shift before normalizing")
        return [measure_erasure(one.name, self.values[one.name]["shift"], one.norm.norm.num_groups) for one in additive]

    def measure_separability(self) -> list[Separability]:
        """Measure the separability of the classes in each layer, from scale and shift together."""
        self.check_classes()
        self.check_dependence()
        if len(self.timesteps) < 2:
            raise NotMeasurable("it leaves out one timestep at a time, and the model has only one")
        return [
            measure_separability(layer, torch.cat([*parts.values()], dim=2), self.command.seed)
            for layer, parts in self.values.items()
        ]

    def measure_mean_ablations(self) -> list[MeanAblation]:
        """Measure the mean ablation of all layers together and of each."""
        steps, timesteps, classes = self.error_steps, self.timesteps, self.labels
        return MeanAblator(self.pipeline, self.images, steps, timesteps, classes, *self.draws).ablate_each()

    def measure_sensitivity(self) -> list[Sensitivity]:
        """Measure the sensitivity to the class at each sigma."""
        self.check_classes()
        denoiser, others = self.pipeline.denoiser(clip=False), other_classes(self.images.labels, len(self.names))
        return measure_sensitivity(denoiser, self.schedule, self.images, others, self.error_steps, *self.draws)

    def measure_swap(self) -> Swap:
        """Swap classes by resolution, and by side of the U-Net if the class reaches the norms."""
        self.check_classes()
        if not self.cross_attention:
            self.check_dependence()
        known = list(self.images.data.class_names)
        classes = {c: known.index(self.names[c]) for c in self.labels.tolist() if self.names[c] in known}
        if len(classes) < 2:
            raise NotMeasurable("fewer than two classes of the model are among the real images")
        try:
            classifier = cached_classifier(self.images.data, self.pipeline.device, cache_directory())
        except ValueError as problem:
            raise NotMeasurable(str(problem)) from problem
        low, chance = classifier.accuracy.low, 1 / len(classifier.class_names)
        if low is not None and low <= chance:
            raise NotMeasurable(
                f"the accuracy of the reference classifier on new real images, {classifier.accuracy.value:.0%}, is not "
                f"significantly above chance ({chance:.0%}); it needs more images of each class"
            )
        samples, by_side = self.command.samples, self.depends_on_class
        return swap_classes(self.pipeline, classifier, classes, samples, by_side, *self.draws)


def choose_classes(count: int, maximum: int = MAX_CLASSES) -> list[int]:
    """Return all ids 0..count-1, or `maximum` evenly spaced ones."""
    return torch.linspace(0, count - 1, min(count, maximum)).round().long().tolist()
