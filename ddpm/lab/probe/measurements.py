"""All measurements of a probe on one model; measurements that are not possible are listed with the reason."""

import sys
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from tqdm import tqdm

from ddpm.config.commands import ProbeCommand
from ddpm.diffusion.divergence import Diverged
from ddpm.evaluation.likelihood import error_timesteps
from ddpm.evaluation.modulation import modulated_layers, modulations, projection_inputs
from ddpm.lab.probe.freezing import Freezer
from ddpm.lab.probe.inputs import Images, ProbeInputs, load_classifier
from ddpm.lab.probe.modulation_statistics import analyse_variance, count_signs, measure_erasure, measure_strength
from ddpm.lab.probe.results import (
    Erasure,
    Freezing,
    Layer,
    Model,
    ProbeGrid,
    ProbeResults,
    Sensitivity,
    Separability,
    Signs,
    Swap,
    Variance,
)
from ddpm.lab.probe.sensitivity import measure_sensitivity, other_classes
from ddpm.lab.probe.separability import measure_separability
from ddpm.lab.probe.swap import swap_classes
from ddpm.models.embedding import CONDITIONINGS

MOST_CLASSES = 20       # number of classes that are measured, evenly spaced if the model has more
SIGMAS = 10       # number of sigmas at which errors are measured
NOTHING = 1e-9          # a fraction of the variance; rounding errors of float32 are below it
ONE_CLASS = "the model has fewer than two classes"
SAME_FOR_ALL = "the modulation is the same for every class, because none of it depends on the class"
NO_IMAGES = "there are no real images to measure on, because the model is not in a run directory; pass --reference"

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
    measures, left_out = Measures(command, inputs), {}

    def attempt(name: str, act: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return act()
        except NotMeasurable as reason:
            left_out[name] = str(reason)
            return otherwise

    attempt("sign flips and dead channels", measures.check_scale, None)
    attempt("class swap by encoder, middle and decoder", measures.check_sections, None)
    return ProbeResults(
        model=model,
        grid=measures.grid,
        layers=[
            Layer(
                one.name,
                one.side,
                one.resolution,
                one.norm.norm.num_channels,
                one.norm.norm.num_groups,
                list(one.norm.modulation),
                one.norm.shift_before_norm,
            )
            for one in measures.layers
        ],
        strengths=[measure_strength(layer, part, values) for layer, part, values in measures.parts],
        variance=measures.variance,
        signs=attempt("signs of failure", measures.signs, []),
        erasure=attempt("erased shift", measures.erasure, []),
        separability=attempt("class separability", measures.separability, []),
        freezing=attempt("freezing", measures.freezing, []),
        sensitivity=attempt("sensitivity to the class", measures.sensitivity, []),
        swap=attempt("class swap", measures.swap, None),
        left_out=left_out,
    )


class Measures:
    """The measurements of one model. Those that are not possible raise NotMeasurable.

    Args:
        command: options of the probe.
        inputs: the model, and real images if there are any.
    """

    def __init__(self, command: ProbeCommand, inputs: ProbeInputs) -> None:
        self.command, self.pipeline, self.known = command, inputs.pipeline, inputs.images
        self.unet, self.schedule = inputs.pipeline.unet, inputs.pipeline.schedule
        device, self.names = inputs.pipeline.device, inputs.pipeline.class_names
        self.steps = error_timesteps(self.schedule, command.timesteps)
        self.stages = error_timesteps(self.schedule, SIGMAS)
        classes = choose_classes(len(self.names))
        self.labels = (torch.tensor(classes) if classes else self.pipeline.labels([None])).to(device)       # (K,)
        self.timesteps = torch.tensor(self.steps, device=device)                                            # (T,)
        self.layers = modulated_layers(self.unet)
        self.values = {
            layer: {part: values.cpu() for part, values in parts.items()}
            for layer, parts in modulations(self.unet, self.timesteps, self.labels).items()
        }
        self.parts = [(layer, part, values) for layer, parts in self.values.items() for part, values in parts.items()]
        for layer, part, values in self.parts:
            if not values.isfinite().all():
                raise Diverged(f"the {part} of layer {layer} is not finite; probe an earlier checkpoint")
        names = [self.names[c] for c in self.labels.tolist()] if self.names else ["none"]
        self.grid = ProbeGrid(self.steps, self.schedule.sigmas[self.steps].tolist(), names)
        embs = projection_inputs(
            self.unet, self.timesteps.repeat_interleave(len(self.labels)), self.labels.repeat(len(self.timesteps))
        )
        # By design, the other layers get the same input at every timestep and class.
        self._reached = {layer for layer, rows in embs.items() if not bool((rows == rows[:1]).all())}

    @property
    def images(self) -> Images:
        """The real images."""
        if self.known is None:
            raise NotMeasurable(NO_IMAGES)
        return self.known

    def check_scale(self) -> None:
        """Check that the model has a scale."""
        if not any(part == "scale" for _, part, _ in self.parts):
            raise NotMeasurable(f"the norm {self.unet.config.norm} has no scale")

    def check_sections(self) -> None:
        """Check that the class does not enter by cross-attention alone; if it enters nowhere, `swap` says so."""
        if len(self.names) > 1 and self._cross_attention and not self._depends_on_class():
            raise NotMeasurable("it swaps the class in the norms, but this model conditions by cross-attention")

    @cached_property
    def variance(self) -> list[Variance]:
        """Analysis of variance of each layer and part."""
        return [analyse_variance(layer, part, values) for layer, part, values in self.parts]

    def signs(self) -> list[Signs]:
        """Count the signs of failure in each layer."""
        if any(layer.norm.shift_before_norm for layer in self.layers):
            raise NotMeasurable(
                "the thresholds hold for features of unit variance, and this model adds its shift before the norm, to "
                "features of any variance"
            )
        return [
            count_signs(one.name, self.values[one.name], one.norm.norm.weight.detach().cpu(), one.name in self._reached)
            for one in self.layers
        ]

    def erasure(self) -> list[Erasure]:
        """Measure the erasure in each layer that adds its shift before the norm."""
        additive = [layer for layer in self.layers if layer.norm.shift_before_norm]
        if not additive:
            raise NotMeasurable(f"the norm {self.unet.config.norm} adds no shift before normalising")
        return [measure_erasure(one.name, self.values[one.name]["shift"], one.norm.norm.num_groups) for one in additive]

    def separability(self) -> list[Separability]:
        """Measure the separability of the classes in each layer, from scale and shift together."""
        self._check_classes()
        if not self._depends_on_class():
            raise NotMeasurable(SAME_FOR_ALL)
        if len(self.steps) < 2:
            raise NotMeasurable("it leaves out one timestep at a time, and the model has only one")
        return [
            measure_separability(layer, torch.cat([*parts.values()], dim=2), self.command.seed)
            for layer, parts in self.values.items()
        ]

    def freezing(self) -> list[Freezing]:
        """Run `Freezer.freeze_each`."""
        freezer = Freezer(
            self.unet,
            self.pipeline.denoiser(clip=False),
            self.schedule,
            self.images.pixels,
            self.images.labels,
            self.images.indices,
            self.stages,
            self.timesteps,
            self.labels,
            self.command.seed,
            self.command.batch_size,
        )
        with _progress_bar("freezing", len([*freezer.plan()])) as bar:
            return freezer.freeze_each(bar.update)

    def sensitivity(self) -> list[Sensitivity]:
        """Measure the sensitivity to the class at each sigma."""
        self._check_classes()
        return measure_sensitivity(
            self.pipeline.denoiser(clip=False),
            self.schedule,
            self.images.pixels,
            self.images.labels,
            other_classes(self.images.labels, len(self.names)),
            self.images.indices,
            self.stages,
            self.command.seed,
            self.command.batch_size,
        )

    def swap(self) -> Swap:
        """Swap classes by resolution, and by section if the class reaches the norms."""
        self._check_classes()
        by_section = self._depends_on_class()
        if not by_section and not self._cross_attention:
            raise NotMeasurable(SAME_FOR_ALL)
        known = self.images.data.class_names
        classes = [c for c in self.labels.tolist() if self.names[c] in known]
        if len(classes) < 2:
            raise NotMeasurable("fewer than two classes of the model are among the real images")
        try:
            classifier = load_classifier(self.images, self.pipeline.device)
        except ValueError as problem:
            raise NotMeasurable(str(problem)) from problem
        low, chance = classifier.accuracy.low, 1 / len(classifier.class_names)
        if low is not None and low <= chance:
            raise NotMeasurable(
                f"the accuracy of the reference classifier on new real images, {classifier.accuracy.value:.0%}, is not "
                f"significantly above chance ({chance:.0%}); it needs more images of each class"
            )
        return swap_classes(
            self.pipeline,
            classifier,
            {c: known.index(self.names[c]) for c in classes},
            self.command.samples,
            by_section,
            self.command.seed,
            self.command.batch_size,
        )

    @property
    def _cross_attention(self) -> bool:
        return CONDITIONINGS[self.unet.config.conditioning].cross_attention

    def _check_classes(self) -> None:
        if len(self.names) < 2:
            raise NotMeasurable(ONE_CLASS)

    def _depends_on_class(self) -> bool:
        return any(row.class_ + row.interaction > NOTHING for row in self.variance)


def choose_classes(count: int, most: int = MOST_CLASSES) -> list[int]:
    """Return all ids 0..count-1, or `most` of them, evenly spaced."""
    if count <= most:
        return list(range(count))
    return torch.linspace(0, count - 1, most).round().long().tolist()


def _progress_bar(title: str, total: int) -> tqdm:
    return tqdm(total=total, desc=title, leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty())
