"""The results of a probe as plain numbers, which the page, the JSON file and the notebook share."""

import json
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from ddpm.evaluation.estimates import Estimate

FORMAT = 4      # version of the JSON file; increase it when a name in the file changes


class Model(NamedTuple):
    """The model that was probed, and how to repeat the probe.

    Attributes:
        name: path of the model, as given.
        weights: SHA-256 of its weights.
        parameters: number of parameters.
        norm: entry of `ddpm.models.norm.NORMS`.
        conditioning: entry of `ddpm.models.embedding.CONDITIONINGS`.
        condition_at: layers that get the embedding: "all", "encoder", "middle", "decoder" or resolutions.
        resolution: image size in pixels.
        class_names: classes of the model; empty if it has none.
        data: short description of the real images; None without any.
        fingerprint: fingerprint of these images.
        images: number of real images that errors and sensitivity are measured on; 0 without any.
        held_out: whether the images were excluded from training; None if unknown.
        command: the command line that repeats this probe.
        version: version of this package.
        commit: git commit of this package, if known.
    """

    name: str
    weights: str
    parameters: int
    norm: str
    conditioning: str
    condition_at: str
    resolution: int
    class_names: list[str]
    data: str | None
    fingerprint: str | None
    images: int
    held_out: bool | None
    command: str
    version: str
    commit: str | None


class ProbeGrid(NamedTuple):
    """The T timesteps and K classes at which the modulation is measured, and over which it is averaged.

    Attributes:
        timesteps: T timesteps, ascending, nearly evenly spaced in the log signal-to-noise ratio.
        sigmas: sigma at each of them.
        classes: K names; evenly spaced classes of the model if it has many; "none" for a model without classes.
    """

    timesteps: list[int]
    sigmas: list[float]
    classes: list[str]


class Layer(NamedTuple):
    """A layer with a modulated norm.

    Attributes:
        name: name in `named_modules`.
        side: "encoder", "middle" or "decoder".
        resolution: size of its output in pixels.
        channels: C.
        groups: number of groups of its norm.
        parts: "scale", "shift" or both.
        shift_before_norm: whether the shift is added before the norm, which partly erases it.
    """

    name: str
    side: str
    resolution: int
    channels: int
    groups: int
    parts: list[str]
    shift_before_norm: bool


class Strength(NamedTuple):
    """Strength of the scale or the shift of one layer.

    Attributes:
        layer: its name.
        part: "scale" or "shift".
        rms: root mean square over channels, T lists of K.
        signed: mean over classes for some channels, T lists with one number for each of `channels`.
        channels: indices of these channels: the 16 that vary most, in descending order.
    """

    layer: str
    part: str
    rms: list[list[float]]
    signed: list[list[float]]
    channels: list[int]


class Variance(NamedTuple):
    """Two-way analysis of variance of the scale or the shift of one layer, over timestep and class.

    Attributes:
        layer: its name.
        part: "scale" or "shift".
        total: variance over timesteps and classes, mean over channels.
        timestep: fraction explained by the timestep.
        class_: fraction explained by the class.
        interaction: fraction explained by their interaction. The three add up to 1; all are 0 if nothing varies.
    """

    layer: str
    part: str
    total: float
    timestep: float
    class_: float
    interaction: float


class Symptoms(NamedTuple):
    """Sign flips and symptoms of failure in one layer, as fractions; thresholds are in `modulation_statistics`.

    Attributes:
        layer: its name.
        flips: fraction of all timesteps, classes and channels with 1 + scale < 0; None without a scale.
        dead: fraction of channels with a gain close to 0 at every timestep and class; None without a scale.
        exploding: fraction of channels with a very large gain or shift at some timestep and class.
        unmoved: fraction of channels that neither timestep nor class changes; None if neither is meant to reach the
            layer.
    """

    layer: str
    flips: float | None
    dead: float | None
    exploding: float
    unmoved: float | None


class Erasure(NamedTuple):
    """How much of a shift that is added before GroupNorm is lost in one layer, as fractions of its variance.

    Attributes:
        layer: its name.
        channels_per_group: C / G.
        expected: G / C, the fraction for shifts that are independent between channels.
        total: fraction of the variance over timesteps and classes; None if nothing varies.
        timestep: fraction of the effect of the timestep.
        class_: fraction of the effect of the class.
    """

    layer: str
    channels_per_group: int
    expected: float
    total: float | None
    timestep: float | None
    class_: float | None


class Separability(NamedTuple):
    """How well one layer's modulation predicts the class at a timestep that was left out.

    Attributes:
        layer: its name.
        accuracy: fraction of (timestep, class) that are nearest to the centroid of their own class at other timesteps.
        chance: mean accuracy with permuted labels.
        p_value: fraction of permutations, including the identity, with at least this accuracy.
        permutations: number of permutations.
        silhouette: mean silhouette of the classes, -1 to 1 (Rousseeuw 1987).
    """

    layer: str
    accuracy: float
    chance: float
    p_value: float
    permutations: int
    silhouette: float


class Rise(NamedTuple):
    """How much the denoising error rises at one sigma.

    Attributes:
        timestep: the timestep.
        sigma: its sigma.
        error: mean squared error of eps of the unchanged model (0 to 1 for a good denoiser).
        rise: rise of that error, paired by image and noise, with its 95 % interval over images.
        relative: `rise` / `error`, with its 95 % interval over images.
    """

    timestep: int
    sigma: float
    error: float
    rise: Estimate
    relative: Estimate


class MeanAblation(NamedTuple):
    """The rise of the denoising error when a part of the modulation is replaced by its mean over the grid.

    Attributes:
        layer: its name; None for all layers together.
        part: "scale", "shift" or "both".
        over: the mean is over "class" (at each timestep), "timestep" (for each class), or "all".
        rises: rise at each sigma.
        relative: mean of the relative rises, with its 95 % interval over images. (The rise of the mean error would
            depend mostly on low noise, where the error of every denoiser is largest.)
    """

    layer: str | None
    part: str
    over: str
    rises: list[Rise]
    relative: Estimate

    @property
    def largest(self) -> Rise:
        """The rise at the sigma with the largest relative rise."""
        return max(self.rises, key=lambda rise: rise.relative.value)


class Sensitivity(NamedTuple):
    """How much the class matters at one sigma.

    Attributes:
        timestep: the timestep.
        sigma: its sigma.
        difference: root mean square of eps(x_t, t, c) - eps(x_t, t, c') over images and pixels, where c is the image's
            class and c' a different one, with its 95 % interval over images.
        error: root mean square error of eps given c, for comparison.
    """

    timestep: int
    sigma: float
    difference: Estimate
    error: float

    @property
    def relative(self) -> float:
        """The difference in units of the error."""
        return self.difference.value / self.error


class SwapPoint(NamedTuple):
    """How images are classified when some layers are conditioned on class B, and the others on class A.

    Attributes:
        where: the layers that are conditioned on B, such as "up to 4 px" or "decoder".
        kind: "resolutions" (the coarsest ones) or "side" (encoder, middle or decoder).
        first: fraction of images that are classified as A, with its 95 % interval.
        second: fraction that is classified as B.
    """

    where: str
    kind: str
    first: Estimate
    second: Estimate

    @property
    def shows_second(self) -> bool:
        """Whether more images are classified as B than as A, with disjoint intervals."""
        if self.second.low is None or self.first.high is None:
            return self.second.value > self.first.value
        return self.second.low > self.first.high


class Swap(NamedTuple):
    """Class swap by resolution and by side of the U-Net.

    Attributes:
        points: first the resolutions from none to all, then encoder, middle and decoder.
        samples: number of images at each point, with the same seeds and classes at all points.
        sampler: description of the sampler.
        classifier_accuracy: accuracy of the reference classifier on real images that it was not trained on.
        shown: the classes of each column of the picture, "A to B".
        picture: base64 of a PNG with a row for each point and a column for each of `shown`.
    """

    points: list[SwapPoint]
    samples: int
    sampler: str
    classifier_accuracy: Estimate
    shown: list[str]
    picture: str


class ProbeResults(NamedTuple):
    """All results of a probe.

    Attributes:
        model: the model.
        grid: timesteps and classes at which the modulation was measured.
        layers: in the order of the forward pass.
        strengths: for each layer and part.
        variance: for each layer and part.
        symptoms: for each layer.
        erasure: for each layer that adds its shift before the norm.
        separability: for each layer.
        mean_ablations: first for all layers together (each part and mean), then layer by layer.
        sensitivity: at each sigma.
        swap: None if it was left out.
        left_out: the reason for each measurement that was not possible ("mean ablation", "class swap", ...).
    """

    model: Model
    grid: ProbeGrid
    layers: list[Layer]
    strengths: list[Strength]
    variance: list[Variance]
    symptoms: list[Symptoms]
    erasure: list[Erasure]
    separability: list[Separability]
    mean_ablations: list[MeanAblation]
    sensitivity: list[Sensitivity]
    swap: Swap | None
    left_out: dict[str, str]


def to_json(results: ProbeResults) -> str:
    """Return the results as JSON text, in which NamedTuples are objects."""
    return json.dumps({"format": FORMAT, **_to_objects(results)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> ProbeResults:
    """Read the text that `to_json` returned.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        content = json.loads(text)
        if content.pop("format") != FORMAT:
            raise ValueError("it was made by another version of this package")
        return _from_objects(content, ProbeResults)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"not the JSON file of a probe, or damaged ({problem}); run scripts/probe.py again") from None


def _to_objects(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _to_objects(entry) for name, entry in value._asdict().items()}
    return [_to_objects(entry) for entry in value] if isinstance(value, list) else value


def _from_objects(value: Any, kind: Any) -> Any:
    if isinstance(kind, UnionType) and value is not None:       # such as Swap | None
        return _from_objects(value, get_args(kind)[0])
    if get_origin(kind) is list:
        return [_from_objects(entry, get_args(kind)[0]) for entry in value]
    if hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return kind(**{name: _from_objects(entry, hints[name]) for name, entry in value.items()})
    return value
