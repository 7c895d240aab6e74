"""The configuration of a run, as frozen dataclasses that check their values.

The docstrings are the help texts of the options. `ddpm.config.yaml_files` reads a configuration from a file, and
`ddpm.cli` reads it from the command line.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ddpm.config.choices import (
    BadImagePolicy,
    ConditioningName,
    DepthName,
    LearningRateDecay,
    MonitoredMetric,
    NormName,
    PrecisionName,
    PredictionName,
    ResampleName,
    SamplerName,
    ScheduleName,
    SpacingName,
    TimestepSamplerName,
    WandbMode,
    WeightingName,
)
from ddpm.config.values import check_known, check_range, convert_fields, convert_mapping, field_types


@dataclass(frozen=True)
class DataConfig:
    """Images and labels.

    Args:
        source: `digits` (from scikit-learn), a folder with one subfolder per class, a parquet file or a folder of
            them, an .npz file, or any path or hub name that `datasets.load_dataset` accepts.
        split: split of the source, or a slice of one, such as train[:1500], train[-500:] or train[10%:20%].
        resolution: height and width in pixels; null uses the size of the images.
        channels: 1 for grayscale or 3 for RGB; null uses the channels of the images.
        image_column: column that holds the images; null detects it.
        label_column: column that holds the labels; null detects it.
        on_bad_image: whether an unreadable image stops the program or is skipped.
        horizontal_flip: flip half of the training images horizontally, at random.
        shuffle_labels: train on labels that are randomly permuted among the images, as a control experiment.
            Evaluation uses the true labels.
        memory_gb: images are decoded into memory once if they need at most this many GB, and on demand otherwise.
        workers: number of worker processes that decode images on demand.
    """

    source: str = "digits"
    split: str = "train"
    resolution: int | None = None
    channels: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    on_bad_image: BadImagePolicy = "error"
    horizontal_flip: bool = False
    shuffle_labels: bool = False
    memory_gb: float = 4.0
    workers: int = 2

    def __post_init__(self) -> None:
        convert_fields(self, "data")
        check_range(self.resolution is None or self.resolution >= 1, "data.resolution", self.resolution, "1 or more")
        check_range(self.channels in (None, 1, 3), "data.channels", self.channels, "1, 3, null")
        check_range(self.memory_gb > 0, "data.memory_gb", self.memory_gb, "above 0")
        check_range(self.workers >= 0, "data.workers", self.workers, "0 or more")

    def reading(self) -> dict[str, Any]:
        """Return the options that determine which images are read and how, as arguments of `ddpm.data.load_data`."""
        only_for_training = ("horizontal_flip", "shuffle_labels", "workers")
        return {name: getattr(self, name) for name in field_types(type(self), *only_for_training)}


@dataclass(frozen=True)
class ModelConfig:
    """U-Net.

    Args:
        channels: base width of the network.
        channel_mult: width multiplier of each level, from the finest to the coarsest; each level halves the resolution.
        num_res_blocks: number of residual blocks per level.
        attention_resolutions: resolutions in pixels at which there is self-attention (the middle always has it).
        head_channels: number of channels per attention head.
        norm: how the timestep and class embedding enters a residual block. `groupnorm` adds it before the norm;
            `groupnorm_matched` does too, with a wider embedding so that the number of parameters equals that of
            `adagn`; `adagn_scale` has no shift and `adagn_shift` no scale.
        conditioning: what the residual blocks are conditioned on. With `cross_attention` they are conditioned on
            the timestep, and a cross-attention layer after each of them attends to the class.
        condition_at: part of the network that is conditioned, or a list of resolutions in pixels.
        norm_groups: maximum number of groups of a norm; each group has at least 4 channels.
        dropout: dropout probability in the residual blocks.
        resample: what changes the resolution, a residual block or a convolution.
        gradient_checkpointing: recompute activations in the backward pass, which saves memory but takes more time.
        pretrained: run, checkpoint or pipeline from whose weights training starts. Its architecture overrides the
            options above, except dropout and gradient_checkpointing.
    """

    channels: int = 32
    channel_mult: list[float] = field(default_factory=lambda: [1, 2])
    num_res_blocks: int = 1
    attention_resolutions: list[int] = field(default_factory=lambda: [4])
    head_channels: int = 32
    norm: NormName = "adagn"
    conditioning: ConditioningName = "both"
    condition_at: list[int] | DepthName = "all"
    norm_groups: int = 32
    dropout: float = 0.0
    resample: ResampleName = "resblock"
    gradient_checkpointing: bool = False
    pretrained: str | None = None

    def __post_init__(self) -> None:
        convert_fields(self, "model")
        fits = len(self.channel_mult) > 0 and all(0 < factor < 1000 for factor in self.channel_mult)
        check_range(fits, "model.channel_mult", self.channel_mult, "one or more factors above 0")
        check_range(self.num_res_blocks >= 1, "model.num_res_blocks", self.num_res_blocks, "1 or more")
        check_range(self.head_channels >= 1, "model.head_channels", self.head_channels, "1 or more")
        check_range(self.norm_groups >= 1, "model.norm_groups", self.norm_groups, "1 or more")
        check_range(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 to less than 1")


@dataclass(frozen=True)
class DiffusionConfig:
    """Diffusion process and objective.

    Args:
        schedule: noise schedule.
        num_timesteps: number of timesteps of the forward process.
        zero_terminal_snr: rescale the schedule to a signal-to-noise ratio of zero at the last timestep.
        prediction: what the network predicts.
        weighting: weight of the loss at each timestep.
        timestep_sampler: how the timesteps of training are drawn.
        class_dropout_prob: probability of training on the null class, for classifier-free guidance; 0 for a model
            without a null class.
        learned_variance: let the network predict the variance too, and train with the hybrid loss.
    """

    schedule: ScheduleName = "cosine"
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False
    prediction: PredictionName = "v"
    weighting: WeightingName = "uniform"
    timestep_sampler: TimestepSamplerName = "low_discrepancy"
    class_dropout_prob: float = 0.1
    learned_variance: bool = False

    def __post_init__(self) -> None:
        convert_fields(self, "diffusion")
        check_range(self.num_timesteps >= 2, "diffusion.num_timesteps", self.num_timesteps, "2 or more")
        check_range(0 <= self.class_dropout_prob < 1, "diffusion.class_dropout_prob", self.class_dropout_prob, "0 to less than 1")
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "diffusion.prediction: eps does not determine the image where diffusion.zero_terminal_snr leaves no "
                "signal; use v or x_0"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Training.

    Args:
        steps: number of optimizer steps.
        batch_size: number of images per optimizer step, over all processes.
        gradient_accumulation_steps: number of forward and backward passes per optimizer step; more of them need less memory.
        learning_rate: peak learning rate.
        warmup_steps: number of optimizer steps of linear warmup.
        lr_schedule: learning rate schedule after the warmup; `cosine` decays to 0 at the last step.
        weight_decay: weight decay of AdamW.
        beta2: second beta of AdamW.
        max_grad_norm: maximum norm of the gradient, which is clipped to it.
        ema_half_life: half-life of the moving average of the weights, in images.
        ema_warmup: limits the half-life to this fraction of the images seen so far.
        precision: precision of the forward and backward pass; fp16 needs a GPU.
        seed: seed of all random numbers.
        max_skipped: number of consecutive updates that may be skipped because the loss or gradient is not finite.
        log_every: number of steps between lines of metrics.jsonl.
        checkpoint_every: number of steps between checkpoints; the last step and an interruption write one too.
        keep_checkpoints: number of checkpoints to keep, the newest ones.
        sample_every: number of steps between sample grids; 0 draws one at the end only.
    """

    steps: int = 600
    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    lr_schedule: LearningRateDecay = "cosine"
    weight_decay: float = 0.0
    beta2: float = 0.999
    max_grad_norm: float = 1.0
    ema_half_life: float = 500_000
    ema_warmup: float = 0.05
    mixed_precision: PrecisionName = "fp32"
    seed: int = 0
    max_skipped: int = 20
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    sample_every: int = 300

    def __post_init__(self) -> None:
        convert_fields(self, "train")
        for key in ("steps", "batch_size", "gradient_accumulation_steps", "max_skipped", "log_every", "checkpoint_every"):
            check_range(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "1 or more")
        for key in ("learning_rate", "max_grad_norm", "ema_half_life", "ema_warmup"):
            check_range(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "above 0")
        for key in ("warmup_steps", "weight_decay", "sample_every"):
            check_range(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        check_range(self.keep_checkpoints >= 1, "train.keep_checkpoints", self.keep_checkpoints, "1 or more")
        check_range(0 <= self.beta2 < 1, "train.beta2", self.beta2, "0 to less than 1")
        check_range(0 <= self.seed < 2**63, "train.seed", self.seed, "0 to 2^63 - 1")


@dataclass(frozen=True)
class SamplerConfig:
    """How an image is drawn from its label and seed.

    Args:
        sampler: sampling method; `ddpm` is ancestral sampling.
        steps: maximum number of network evaluations per image.
        timestep_spacing: spacing of the timesteps.
        eta: noise added by ddim, from 0 (deterministic) to 1 (as much as ddpm).
        guidance_scale: guidance scale; 1 disables guidance.
        guidance_interval: guide only at noise levels sigma in (low, high], given as [low, high]; null guides at all.
        guidance_rescale: from 0 to 1, how far the standard deviation of guided images is rescaled to that of
            unguided ones.
    """

    sampler: SamplerName = "ddim"
    steps: int = 50
    timestep_spacing: SpacingName = "trailing"
    eta: float = 0.0
    guidance_scale: float = 1.0
    guidance_interval: list[float] | None = None
    guidance_rescale: float = 0.0

    def drawing(self) -> dict[str, Any]:
        """Return the options as arguments of the pipeline's `drawer`."""
        return {name: getattr(self, name) for name in field_types(SamplerConfig)}

    def _check(self, section: str) -> None:
        """Convert the values and check the ranges of the options above, named with their section."""
        convert_fields(self, section)
        check_range(self.steps >= 1, f"{section}.steps", self.steps, "1 or more")
        check_range(0 <= self.eta <= 1, f"{section}.eta", self.eta, "0 to 1")
        check_range(self.guidance_scale >= 0, f"{section}.guidance_scale", self.guidance_scale, "0 or more")
        interval = self.guidance_interval
        ordered = interval is None or (len(interval) == 2 and 0 <= interval[0] < interval[1])
        check_range(ordered, f"{section}.guidance_interval", interval, "[low, high] with 0 <= low < high, or null")
        check_range(0 <= self.guidance_rescale <= 1, f"{section}.guidance_rescale", self.guidance_rescale, "0 to 1")


@dataclass(frozen=True)
class SampleConfig(SamplerConfig):
    """Sample grids during training, and the defaults of scripts/sample.py.

    Args:
        per_class: number of images of each class in a grid.
        seed: the j-th image of class c has the seed `seed + j * number of classes + c`.
        batch_size: number of images per network call.
    """

    per_class: int = 8
    seed: int = 0
    batch_size: int = 100

    def __post_init__(self) -> None:
        self._check("sample")
        for key in ("per_class", "batch_size"):
            check_range(getattr(self, key) >= 1, f"sample.{key}", getattr(self, key), "1 or more")
        check_range(0 <= self.seed < 2**62, "sample.seed", self.seed, "0 to 2^62 - 1")

    def drawing(self) -> dict[str, Any]:
        """Return the options as arguments of the pipeline's `drawer`."""
        return super().drawing() | {"batch_size": self.batch_size}


@dataclass(frozen=True)
class TrackingConfig:
    """Experiment tracking, in addition to metrics.jsonl.

    Args:
        wandb: mode of Weights & Biases; `offline` writes to the run directory. The environment variable WANDB_MODE
            overrides it.
        wandb_project: name of the Weights & Biases project.
        tensorboard: write TensorBoard event files to the run directory.
    """

    wandb: WandbMode = "offline"
    wandb_project: str = "adagn-ddpm"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        convert_fields(self, "tracking")


@dataclass(frozen=True)
class EvaluationConfig(SamplerConfig):
    """Evaluation during training, with few images and few steps; scripts/evaluate.py evaluates in full.

    Args:
        every: number of steps between evaluations; the last step is evaluated too. 0 disables evaluation.
        count: number of images to draw, in the class proportions of the training data.
        extractor: feature extractor: classifier, inception, dinov2, package.module:Name, or the folder of a saved classifier.
        metric: metric that selects the best model.
        seed: the j-th image of class c has the seed `seed + j * number of classes + c`.
    """

    sampler: SamplerName = "dpmpp"
    steps: int = 10
    timestep_spacing: SpacingName = "logsnr"
    every: int = 0
    count: int = 500
    extractor: str = "classifier"
    metric: MonitoredMetric = "frechet_distance"
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("evaluation")
        check_range(self.every >= 0, "evaluation.every", self.every, "0 or more")
        check_range(self.count >= 2, "evaluation.count", self.count, "2 or more")
        check_range(0 <= self.seed < 2**62, "evaluation.seed", self.seed, "0 to 2^62 - 1")


@dataclass(frozen=True)
class Config:
    """All sections of the configuration of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Config":
        """Return the configuration with the given values, and the defaults for all others.

        Raises:
            ValueError: as `convert_sections`, and for values that are out of range.
        """
        given = convert_sections(content)
        return cls(**{name: SECTIONS[name](**values) for name, values in given.items()})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain dicts, one per section."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """Return the text of a file that `--config` accepts."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


SECTIONS: dict[str, type] = field_types(Config)

# Options that affect how a run is observed, stored or computed, but not its result. They may change on resume.
CHANGEABLE = {
    *(f"{name}.{key}" for name in ("sample", "tracking", "evaluation") for key in field_types(SECTIONS[name])),
    "train.gradient_accumulation_steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.max_skipped",
    *(f"data.{key}" for key in ("memory_gb", "workers")),
    "model.gradient_checkpointing",
}


def option_names() -> list[str]:
    """Return the names of all options of a configuration, such as `model.norm`."""
    return [f"{section}.{name}" for section, kind in SECTIONS.items() for name in field_types(kind)]


def convert_sections(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a configuration file with their values converted to the types of the options.

    Raises:
        ValueError: for an unknown section or option, or a value of another type.
    """
    sections = {}
    for name, values in content.items():
        if name not in SECTIONS:
            inside = f".{next(iter(values))}" if isinstance(values, Mapping) and values else ""
            check_known(f"{name}{inside}", [*SECTIONS, *option_names()])
        if not isinstance(values, Mapping):
            options = ", ".join(field_types(SECTIONS[name]))
            raise ValueError(f"{name}: {values!r} is not a section; give options and values, from {options}")
        for key in values:
            check_known(f"{name}.{key}", option_names())
        sections[name] = convert_mapping(values, field_types(SECTIONS[name]), name)
    return sections


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the options outside CHANGEABLE whose values differ, with the old and the new value.

    A larger `train.steps` is not a difference if the learning rate is constant, because the run then continues as if
    it had been longer from the start.
    """
    found = {}
    for section, values in new.to_dict().items():
        for key, value in values.items():
            before = old.to_dict()[section][key]
            if before != value and f"{section}.{key}" not in CHANGEABLE:
                found[f"{section}.{key}"] = (before, value)
    if new.train.lr_schedule == "constant" and new.train.steps > old.train.steps:
        found.pop("train.steps", None)
    return found
