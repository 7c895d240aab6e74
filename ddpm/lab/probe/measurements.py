"""All measures of a probe, on one model; what cannot be measured is named with the reason."""

import sys
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.config.commands import ProbeCommand
from ddpm.diffusion.divergence import Diverged
from ddpm.evaluation.likelihood import error_timesteps
from ddpm.evaluation.modulation import ModulatedLayer, modulated_layers, modulations, projection_inputs
from ddpm.lab.probe.erasure import erasure
from ddpm.lab.probe.freezing import Freezer
from ddpm.lab.probe.inputs import Images, Subject, read_judge
from ddpm.lab.probe.results import (
    Erasure,
    Freezing,
    Grid,
    Layer,
    Model,
    Probed,
    Sensitivity,
    Separability,
    Signs,
    Strength,
    Swap,
    Variance,
)
from ddpm.lab.probe.sensitivity import other_classes, sensitivity
from ddpm.lab.probe.separability import separability
from ddpm.lab.probe.signs import signs
from ddpm.lab.probe.strength import strength
from ddpm.lab.probe.swap import places, swap
from ddpm.lab.probe.variance import variance
from ddpm.models.embedding import CONDITIONINGS

CLASSES = 20            # at most so many, at even distances, are looked at
NOISE_LEVELS = 10       # at which errors are measured
NOTHING = 1e-9          # a share of the variance; the rounding of float32 is below it
ONE_CLASS = "the model has fewer than two classes"
SAME_FOR_ALL = "the modulation is the same for every class, for none of it depends on the class"
NO_IMAGES = "the model is in no run directory, so there are no real images to measure on; name them with --reference"

Found = TypeVar("Found")


class Lacking(Exception):
    """Why a measure cannot be had, as a sentence."""


def measure(command: ProbeCommand, subject: Subject, model: Model) -> Probed:
    """All measures that the model and the images allow.

    Args:
        command: how much.
        subject: the model, and images if there are any.
        model: what is said about it.
    """
    measures, left_out = Measures(command, subject), {}

    def attempt(name: str, act: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return act()
        except Lacking as reason:
            left_out[name] = str(reason)
            return otherwise

    attempt("sign flips and dead channels", measures.check_scale, None)
    attempt("class swap by encoder, middle and decoder", measures.check_sections, None)
    return Probed(
        model=model,
        grid=measures.grid(),
        layers=[_described(layer) for layer in measures.layers],
        strengths=measures.strengths(),
        variance=measures.variance(),
        signs=attempt("signs of failure", measures.signs, []),
        erasure=attempt("erased shift", measures.erasure, []),
        separability=attempt("class separability", measures.separability, []),
        freezing=attempt("freezing", measures.freezing, []),
        sensitivity=attempt("sensitivity to the class", measures.sensitivity, []),
        swap=attempt("class swap", measures.swap, None),
        left_out=left_out,
    )


class Measures:
    """The measures of one model. Those that it or the images do not allow raise Lacking.

    Args:
        command: how much.
        subject: the model, and images if there are any.
    """

    def __init__(self, command: ProbeCommand, subject: Subject) -> None:
        self.command, self.pipeline, self.known = command, subject.pipeline, subject.images
        self.unet, self.schedule = subject.pipeline.unet, subject.pipeline.schedule
        device, self.names = subject.pipeline.device, subject.pipeline.class_names
        self.steps = error_timesteps(self.schedule, command.timesteps)
        self.levels = error_timesteps(self.schedule, NOISE_LEVELS)
        classes = some_classes(len(self.names))
        self.labels = (torch.tensor(classes) if classes else self.pipeline.labels([None])).to(device)       # (K,)
        self.timesteps = torch.tensor(self.steps, device=device)                                            # (T,)
        self.layers = modulated_layers(self.unet)
        self.values = {
            layer: {part: values.cpu() for part, values in parts.items()}
            for layer, parts in modulations(self.unet, self.timesteps, self.labels).items()
        }

        self._check_finite()
        given = projection_inputs(
            self.unet, self.timesteps.repeat_interleave(len(self.labels)), self.labels.repeat(len(self.timesteps))
        )
        # Elsewhere the design gives the same to every timestep and class.
        self._reached = {layer for layer, rows in given.items() if not bool((rows == rows[:1]).all())}

    @property
    def images(self) -> Images:
        """The real images."""
        if self.known is None:
            raise Lacking(NO_IMAGES)
        return self.known

    def _check_finite(self) -> None:
        for layer, parts in self.values.items():
            for part, values in parts.items():
                if not values.isfinite().all():
                    raise Diverged(
                        f"the {part} of layer {layer} is not finite, so there is nothing to probe; use an earlier "
                        "checkpoint"
                    )

    def check_scale(self) -> None:
        """Refuses a model without a scale."""
        if not any("scale" in parts for parts in self.values.values()):
            raise Lacking(f"the norm {self.unet.config.norm} has no scale")

    def check_sections(self) -> None:
        """Refuses a model whose class takes another way than by the norms; where it takes none, `swap` refuses."""
        if len(self.names) > 1 and self._crossed and not self._by_class():
            raise Lacking("they are told the class by their norms, and here it comes by cross-attention")

    def grid(self) -> Grid:
        """Timesteps and classes that the modulation is looked at."""
        names = [self.names[c] for c in self.labels.tolist()] if self.names else ["none"]
        return Grid(self.steps, self.schedule.noise_levels[self.steps].tolist(), names)

    def strengths(self) -> list[Strength]:
        """Of each layer and part."""
        return [strength(layer, part, values) for layer, part, values in self._parts()]

    def variance(self) -> list[Variance]:
        """Of each layer and part."""
        return self._variance

    def signs(self) -> list[Signs]:
        """Of each layer, where the modulation acts on features of unit variance."""
        if any(layer.norm.shift_before_norm for layer in self.layers):
            raise Lacking(
                "their thresholds are for features of unit variance, and here the shift is added before the norm, to "
                "features of any size"
            )
        return [
            signs(one.name, self.values[one.name], one.norm.norm.weight.detach().cpu(), one.name in self._reached)
            for one in self.layers
        ]

    def erasure(self) -> list[Erasure]:
        """Of each layer that adds its shift before the norm."""
        additive = [layer for layer in self.layers if layer.norm.shift_before_norm]
        if not additive:
            raise Lacking(f"the norm {self.unet.config.norm} adds no shift before it normalises")
        return [erasure(one.name, self.values[one.name]["shift"], one.norm.norm.num_groups) for one in additive]

    def separability(self) -> list[Separability]:
        """Of each layer, all parts of it together."""
        self._check_classes()
        if not self._by_class():
            raise Lacking(SAME_FOR_ALL)
        if len(self.steps) < 2:
            raise Lacking("one timestep is left out at a time, and the model has a single one")
        return [
            separability(layer, torch.cat([*parts.values()], dim=2), self.command.seed)
            for layer, parts in self.values.items()
        ]

    def freezing(self) -> list[Freezing]:
        """All of `Freezer.all`."""
        freezer = Freezer(
            self.unet,
            self.pipeline.denoiser(clip=False),
            self.schedule,
            self.images.pixels,
            self.images.labels,
            self.images.places,
            self.levels,
            self.timesteps,
            self.labels,
            self.command.seed,
            self.command.batch_size,
        )
        with _bar("freezing", len([*freezer.plan()])) as bar:
            return freezer.all(bar.update)

    def sensitivity(self) -> list[Sensitivity]:
        """At each noise level."""
        self._check_classes()
        return sensitivity(
            self.pipeline.denoiser(clip=False),
            self.schedule,
            self.images.pixels,
            self.images.labels,
            other_classes(self.images.labels, len(self.names)),
            self.images.places,
            self.levels,
            self.command.seed,
            self.command.batch_size,
        )

    def swap(self) -> Swap:
        """By level, and by section where the class reaches the norms."""
        self._check_classes()
        by_section = self._by_class()
        if not by_section and not self._crossed:
            raise Lacking(SAME_FOR_ALL)
        read = self.images.data.class_names
        classes = [c for c in self.labels.tolist() if self.names[c] in read]
        if len(classes) < 2:
            raise Lacking("fewer than two classes of the model are among the real images")
        try:
            judge = read_judge(self.images, self.pipeline.device)
        except ValueError as problem:
            raise Lacking(str(problem)) from problem
        low, chance = judge.accuracy.low, 1 / len(judge.class_names)
        if low is not None and low <= chance:
            raise Lacking(
                f"the judge reads {judge.accuracy.value:.0%} of new real images, which is not told from the "
                f"{chance:.0%} of chance; a judge needs more images of each class"
            )
        with _bar("class swap", len(places(self.unet, by_section))) as bar:
            return swap(
                self.pipeline,
                judge,
                classes,
                [read.index(self.names[c]) for c in classes],
                self.command.samples,
                by_section,
                self.command.seed,
                self.command.batch_size,
                bar.update,
            )

    def _parts(self) -> list[tuple[str, str, Tensor]]:
        return [(layer, part, values) for layer, parts in self.values.items() for part, values in parts.items()]

    @cached_property
    def _variance(self) -> list[Variance]:
        return [variance(layer, part, values) for layer, part, values in self._parts()]

    @property
    def _crossed(self) -> bool:
        return CONDITIONINGS[self.unet.config.conditioning].cross_attention

    def _check_classes(self) -> None:
        if len(self.names) < 2:
            raise Lacking(ONE_CLASS)

    def _by_class(self) -> bool:
        """Whether the modulation differs from class to class."""
        return any(row.class_ + row.interaction > NOTHING for row in self._variance)


def some_classes(count: int, most: int = CLASSES) -> list[int]:
    """Ids 0..count-1, or `most` of them at even distances."""
    if count <= most:
        return list(range(count))
    return torch.linspace(0, count - 1, most).round().long().tolist()


def _described(layer: ModulatedLayer) -> Layer:
    norm = layer.norm
    return Layer(
        layer.name,
        layer.depth,
        layer.resolution,
        norm.norm.num_channels,
        norm.norm.num_groups,
        list(norm.modulation),
        norm.shift_before_norm,
    )


def _bar(title: str, total: int) -> tqdm:
    return tqdm(total=total, desc=title, leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty())
