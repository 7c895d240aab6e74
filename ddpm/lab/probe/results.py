"""What a probe finds, as plain numbers: the page, the JSON file and the notebook read the same."""

import json
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from ddpm.evaluation.estimates import Figure

FORMAT = 2      # of the JSON file; to be raised when a name in it changes


class Model(NamedTuple):
    """Which model was probed, and how to do it again.

    Attributes:
        name: path of the model, as it was given.
        weights: SHA-256 of its weights.
        parameters: number of its parameters.
        norm: entry of `ddpm.models.norm.NORMS`.
        conditioning: entry of `ddpm.models.embedding.CONDITIONINGS`.
        conditioned_depths: where the embedding is given, as text: "all", "encoder", "middle", "decoder" or resolutions.
        resolution: of its images in pixels.
        class_names: of the model; empty where it has no classes.
        data: what the real images are, in a few words; None without any.
        fingerprint: of these images.
        images: number of real images that errors and sensitivity are measured on; 0 without any.
        held_out: whether the model was trained on other images; None where that is not known.
        command: the command line that makes this probe.
        version: of this package.
        commit: of its source, where that is known.
    """

    name: str
    weights: str
    parameters: int
    norm: str
    conditioning: str
    conditioned_depths: str
    resolution: int
    class_names: list[str]
    data: str | None
    fingerprint: str | None
    images: int
    held_out: bool | None
    command: str
    version: str
    commit: str | None


class Grid(NamedTuple):
    """Where the modulation is looked at: T timesteps times K classes, also what it is averaged over.

    Attributes:
        timesteps: T, rising, nearly even in the log signal-to-noise ratio.
        noise_levels: T, noise per signal at these.
        classes: K names; those of the model, or some of them at even distances where it has many; one, "none", of a
            model without classes.
    """

    timesteps: list[int]
    noise_levels: list[float]
    classes: list[str]


class Layer(NamedTuple):
    """A layer whose norm is modulated.

    Attributes:
        name: as in `named_modules`.
        depth: "encoder", "middle" or "decoder".
        resolution: of its output in pixels.
        channels: C.
        groups: of its norm.
        parts: of "scale" and "shift" those that it has.
        shift_before_norm: whether the shift is added before the norm, which erases part of it.
    """

    name: str
    depth: str
    resolution: int
    channels: int
    groups: int
    parts: list[str]
    shift_before_norm: bool


class Strength(NamedTuple):
    """How strong one part of one layer's modulation is.

    Attributes:
        layer: its name.
        part: "scale" or "shift".
        rms: root mean square over channels, T lists of K.
        signed: mean over classes of some channels, T lists of as many numbers: what the modulation looks like.
        channels: which channels these are: those that vary most, at most 16, in that order.
    """

    layer: str
    part: str
    rms: list[list[float]]
    signed: list[list[float]]
    channels: list[int]


class Variance(NamedTuple):
    """What one part of one layer's modulation varies with: two-way analysis of variance over timestep and class.

    Attributes:
        layer: its name.
        part: "scale" or "shift".
        total: variance over timesteps and classes, mean over channels.
        timestep: share of it that the timestep explains, 0 to 1.
        class_: share that the class explains.
        interaction: the rest: that classes differ from timestep to timestep. The three add up to 1; all are 0 where
            nothing varies.
    """

    layer: str
    part: str
    total: float
    timestep: float
    class_: float
    interaction: float


class Signs(NamedTuple):
    """Sign flips, and signs of failure, in one layer, as shares (0 to 1); see `ddpm.lab.probe.signs` for the thresholds.

    Attributes:
        layer: its name.
        flips: of 1 + scale, over timesteps, classes and channels: those below 0; None without a scale.
        dead: of channels: the gain is next to nothing at every timestep and class; None without a scale.
        exploding: of channels: the gain or the shift is very large at some timestep and class.
        unmoved: of channels: neither timestep nor class moves them; None where neither is meant to reach the layer.
    """

    layer: str
    flips: float | None
    dead: float | None
    exploding: float
    unmoved: float | None


class Erasure(NamedTuple):
    """How much of a shift that is added before GroupNorm is lost in one layer, as shares (0 to 1) of its variation.

    Attributes:
        layer: its name.
        channels_per_group: C / G.
        expected: 1 / (C / G), the share for shifts that are independent from channel to channel.
        total: of all variation over timesteps and classes; None where nothing varies.
        timestep: of the effect of the timestep.
        class_: of the effect of the class.
    """

    layer: str
    channels_per_group: int
    expected: float
    total: float | None
    timestep: float | None
    class_: float | None


class Separability(NamedTuple):
    """How well one layer's modulation tells the class at a timestep that was left out.

    Attributes:
        layer: its name.
        accuracy: share of (timestep, class) that are nearest to the centroid of their own class at other timesteps.
        chance: mean of the same over permuted labels.
        p_value: share of permutations (with this one among them) that do as well or better.
        permutations: how many there were.
        silhouette: mean silhouette of the classes, -1 to 1 (Rousseeuw 1987).
    """

    layer: str
    accuracy: float
    chance: float
    p_value: float
    permutations: int
    silhouette: float


class Rise(NamedTuple):
    """How much worse the denoiser gets at one noise level.

    Attributes:
        timestep: which.
        noise_level: noise per signal.
        error: mean squared error of eps of the model as it is (0 to 1 for a good denoiser).
        rise: of that error, paired by image and noise, with its 95 % interval over images.
        relative: `rise` per `error`, with its 95 % interval over images, which both are of.
    """

    timestep: int
    noise_level: float
    error: float
    rise: Figure
    relative: Figure


class Freezing(NamedTuple):
    """What a part of the modulation is worth: it is replaced by its mean over the grid, and the error rises.

    Attributes:
        layer: its name; None for all layers together.
        part: "scale", "shift", or "both" (all that there is).
        over: what the mean is over: "class" (at each timestep), "timestep" (for each class), or "all".
        rises: at each noise level.
        relative: mean over these noise levels of the relative rise, each counted alike, with its 95 % interval over
            images. (Of the mean error, low noise would decide, where every denoiser errs most.)
    """

    layer: str | None
    part: str
    over: str
    rises: list[Rise]
    relative: Figure

    @property
    def largest(self) -> Rise:
        """Where the relative rise is largest."""
        return max(self.rises, key=lambda rise: rise.relative.value)


class Sensitivity(NamedTuple):
    """How much the class matters at one noise level.

    Attributes:
        timestep: which.
        noise_level: noise per signal.
        difference: root mean square of eps(x_t, t, c) - eps(x_t, t, c') over images and pixels, where c is the image's
            class and c' another, with its 95 % interval over images.
        error: root mean square error of eps given c, for comparison.
    """

    timestep: int
    noise_level: float
    difference: Figure
    error: float


class SwapPoint(NamedTuple):
    """What images show when some depths of the network are told class B, and the rest class A.

    Attributes:
        where: in words, which depths are told B, such as "up to 4 px" or "decoder".
        kind: "levels" (the coarsest so many resolutions) or "section" (encoder, middle or decoder).
        first: share of images that the judge reads as A, with its 95 % interval.
        second: share that it reads as B.
    """

    where: str
    kind: str
    first: Figure
    second: Figure


class Swap(NamedTuple):
    """Class swap by depth.

    Attributes:
        points: first the levels from none to all, then the sections.
        samples: number of images at each point, the same seeds and classes at all.
        sampler: how they were drawn, in words.
        judge_accuracy: of the judge on real images that it was not trained on.
        shown: what each column of the picture is of, "A to B".
        picture: base64 of a PNG: a row for each point, a column for each of `shown`.
    """

    points: list[SwapPoint]
    samples: int
    sampler: str
    judge_accuracy: Figure
    shown: list[str]
    picture: str


class Probed(NamedTuple):
    """All that a probe finds.

    Attributes:
        model: which.
        grid: timesteps and classes that the modulation is looked at.
        layers: in the order of the forward pass.
        strengths: for each layer and part.
        variance: for each layer and part.
        signs: for each layer.
        erasure: for each layer that adds its shift before the norm.
        separability: for each layer.
        freezing: first of all layers together (part by part, mean by mean), then layer by layer.
        sensitivity: at each noise level.
        swap: None where it is left out.
        left_out: what could not be measured ("variance", "freezing", "swap", ...) -> why, as a sentence.
    """

    model: Model
    grid: Grid
    layers: list[Layer]
    strengths: list[Strength]
    variance: list[Variance]
    signs: list[Signs]
    erasure: list[Erasure]
    separability: list[Separability]
    freezing: list[Freezing]
    sensitivity: list[Sensitivity]
    swap: Swap | None
    left_out: dict[str, str]


def to_json(probed: Probed) -> str:
    """The probe as JSON text, in which NamedTuples are objects."""
    return json.dumps({"format": FORMAT, **_plain(probed)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Probed:
    """Reads what `to_json` wrote.

    Raises:
        ValueError: if it is something else.
    """
    try:
        content = json.loads(text)
        if content.pop("format") != FORMAT:
            raise ValueError("it is of another version of this package")
        return _typed(content, Probed)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"this is no probe, or a damaged one ({problem}); make it with scripts/probe.py") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _typed(value: Any, kind: Any) -> Any:
    if isinstance(kind, UnionType):
        return None if value is None else _typed(value, next(k for k in get_args(kind) if k is not NoneType))
    if get_origin(kind) is list:
        return [_typed(part, get_args(kind)[0]) for part in value]
    if hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(part, hints[name]) for name, part in value.items()})
    return value
