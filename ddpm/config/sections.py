"""Configuration: plain dataclasses that refuse values out of range. `ddpm.config.yaml_files` and `ddpm.cli` read them from files and argv."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import yaml


def _require(condition: bool, key: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{key}: {value!r} is out of range; allowed: {allowed}")


@dataclass(frozen=True)
class DataConfig:
    """Images.

    Args:
        source: digits, a folder of class folders, a parquet file or folder, an .npz, or any path or hub name that
            datasets.load_dataset takes.
        split: which split of the source, or rows of one, as train[:1500], train[-500:] or train[10%:20%].
        resolution: height and width in pixels; null is that of the images.
        channels: 1 (grey) or 3 (RGB); null is that of the images.
        image_column: column of the images; null finds it.
        label_column: column of the labels; null finds it.
        on_bad_image: what an unreadable image does, error or skip.
        flip: mirror half of the training images left to right.
        shuffle_labels: train on labels that are permuted among the images, so that they tell nothing; evaluation sees
            the true ones.
        memory_gb: images are decoded once into memory if they take at most so many GB, else on demand.
        workers: processes that decode on demand.
    """

    source: str = "digits"
    split: str = "train"
    resolution: int | None = None
    channels: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    on_bad_image: str = "error"
    flip: bool = False
    shuffle_labels: bool = False
    memory_gb: float = 4.0
    workers: int = 2

    def __post_init__(self) -> None:
        _require(self.resolution is None or self.resolution >= 1, "data.resolution", self.resolution, "1 or more")
        _require(self.channels in (None, 1, 3), "data.channels", self.channels, "1, 3, null")
        _require(self.on_bad_image in ("error", "skip"), "data.on_bad_image", self.on_bad_image, "error, skip")
        _require(self.memory_gb > 0, "data.memory_gb", self.memory_gb, "above 0")
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")

    def reading(self) -> dict[str, Any]:
        """What says which images are read, and how: keyword arguments of `ddpm.data.load_data`."""
        of_training = ("flip", "shuffle_labels", "workers")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in of_training}


@dataclass(frozen=True)
class ModelConfig:
    """U-Net.

    Args:
        channels: width of the network.
        channel_mult: width factor of each level, from fine to coarse; each level halves the resolution.
        num_res_blocks: residual blocks per level.
        attention_resolutions: pixels at which there is self-attention (the middle always has it).
        head_channels: channels of an attention head.
        norm: how timestep and class enter a residual block, adagn, groupnorm (additive), groupnorm_matched (additive,
            the embedding widened to the parameters of adagn), adain, adaln, adarms, adagn_scale (no shift) or
            adagn_shift (no scale).
        conditioning: what enters, both, timestep, class, none or cross_attention (the timestep enters, and after each
            block there is attention to the class).
        conditioned_depths: at which levels, all, encoder, middle, decoder, or a list of resolutions in pixels.
        norm_groups: at most so many groups in a norm; each keeps at least 4 channels.
        dropout: probability in the residual blocks.
        resample: where the resolution changes, resblock or conv.
        gradient_checkpointing: recompute activations in the backward pass, which takes time and saves memory.
        pretrained: a run, checkpoint or pipeline whose weights training starts from; its architecture goes before the
            options above, of which only dropout and gradient_checkpointing then count.
    """

    channels: int = 32
    channel_mult: list[float] = field(default_factory=lambda: [1, 2])
    num_res_blocks: int = 1
    attention_resolutions: list[int] = field(default_factory=lambda: [4])
    head_channels: int = 32
    norm: str = "adagn"
    conditioning: str = "both"
    conditioned_depths: list[int] | str = "all"
    norm_groups: int = 32
    dropout: float = 0.0
    resample: str = "resblock"
    gradient_checkpointing: bool = False
    pretrained: str | None = None

    def __post_init__(self) -> None:
        _require(self.channels >= 2, "model.channels", self.channels, "2 or more")
        fits = len(self.channel_mult) > 0 and all(0 < factor < 1000 for factor in self.channel_mult)
        _require(fits, "model.channel_mult", self.channel_mult, "one or more factors above 0")
        _require(self.num_res_blocks >= 1, "model.num_res_blocks", self.num_res_blocks, "1 or more")
        _require(self.head_channels >= 1, "model.head_channels", self.head_channels, "1 or more")
        _require(self.norm_groups >= 1, "model.norm_groups", self.norm_groups, "1 or more")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 up to but not 1")


@dataclass(frozen=True)
class DiffusionConfig:
    """Diffusion process and objective.

    Args:
        schedule: noise schedule, linear, cosine or sigmoid.
        num_timesteps: number of steps T of the forward process.
        zero_terminal_snr: rescale the schedule so that nothing of the image is left at the last step.
        prediction: what the network predicts, eps, v or x_0.
        weighting: weight of a timestep's error, uniform or min_snr.
        timestep_sampler: how training timesteps are drawn, uniform or low_discrepancy.
        label_dropout: probability of training on the null class, for classifier-free guidance; 0 leaves it out.
        learned_variance: let the network learn the variance too, with the hybrid loss.
    """

    schedule: str = "cosine"
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False
    prediction: str = "v"
    weighting: str = "uniform"
    timestep_sampler: str = "low_discrepancy"
    label_dropout: float = 0.1
    learned_variance: bool = False

    def __post_init__(self) -> None:
        _require(self.num_timesteps >= 2, "diffusion.num_timesteps", self.num_timesteps, "2 or more")
        _require(0 <= self.label_dropout < 1, "diffusion.label_dropout", self.label_dropout, "0 up to but not 1")
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "diffusion.prediction: eps cannot be turned into an image where diffusion.zero_terminal_snr leaves no "
                "signal; use v or x_0"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Training.

    Args:
        steps: number of optimizer steps.
        batch_size: images per optimizer step, over all processes.
        accumulation: parts into which each process divides its share of the batch, to save memory.
        learning_rate: its highest value.
        warmup_steps: optimizer steps of linear warm-up.
        decay: what follows the warm-up, cosine (towards 0 at the last step) or constant.
        weight_decay: of AdamW.
        beta2: of AdamW.
        clip_norm: largest norm of the gradient.
        ema_half_life: half-life of the averaged weights, in images.
        ema_warmup: the half-life is at most this fraction of the images seen so far.
        precision: fp32, bf16 or fp16 (GPU only).
        seed: of everything that is random.
        max_skipped: updates in a row that may be skipped for a loss or gradient that is not finite.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints; the last step and an interruption make one too.
        keep_checkpoints: newest checkpoints that are kept.
        sample_every: steps between sample grids; 0 draws one at the end only.
    """

    steps: int = 600
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay: str = "cosine"
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip_norm: float = 1.0
    ema_half_life: float = 500_000
    ema_warmup: float = 0.05
    precision: str = "fp32"
    seed: int = 0
    max_skipped: int = 20
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    sample_every: int = 300

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulation", "max_skipped", "log_every", "checkpoint_every"):
            _require(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "1 or more")
        for key in ("learning_rate", "clip_norm", "ema_half_life", "ema_warmup"):
            _require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "above 0")
        for key in ("warmup_steps", "weight_decay", "sample_every"):
            _require(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        _require(self.keep_checkpoints >= 1, "train.keep_checkpoints", self.keep_checkpoints, "1 or more")
        _require(0 <= self.beta2 < 1, "train.beta2", self.beta2, "0 up to but not 1")
        _require(self.decay in ("cosine", "constant"), "train.decay", self.decay, "cosine, constant")
        _require(self.precision in ("fp32", "bf16", "fp16"), "train.precision", self.precision, "fp32, bf16, fp16")
        _require(0 <= self.seed < 2**63, "train.seed", self.seed, "0 to 2^63 - 1")


@dataclass(frozen=True)
class SampleConfig:
    """Sample grids while training; also what scripts/sample.py does unless told otherwise.

    Args:
        sampler: ddim, ddpm (ancestral), dpmpp, unipc, euler or heun.
        steps: network evaluations per image, at most.
        spacing: of the timesteps, trailing, leading, linspace, logsnr or karras.
        eta: noise of ddim, from 0 (none) to 1.
        guidance: scale of guidance; 1 is none.
        guidance_interval: noise levels [low, high] between which there is guidance; null is all.
        guidance_rescale: from 0 to 1, how far the contrast of guided images is set back.
        per_class: images of each class in a training grid.
        seed: the j-th image of class c has the seed `seed + j * number of classes + c`.
        batch_size: images per network call.
    """

    sampler: str = "ddim"
    steps: int = 50
    spacing: str = "trailing"
    eta: float = 0.0
    guidance: float = 1.0
    guidance_interval: list[float] | None = None
    guidance_rescale: float = 0.0
    per_class: int = 8
    seed: int = 0
    batch_size: int = 100

    def __post_init__(self) -> None:
        for key in ("steps", "per_class", "batch_size"):
            _require(getattr(self, key) >= 1, f"sample.{key}", getattr(self, key), "1 or more")
        _require(0 <= self.eta <= 1, "sample.eta", self.eta, "0 to 1")
        _require(self.guidance >= 0, "sample.guidance", self.guidance, "0 or more")
        interval = self.guidance_interval
        ordered = interval is None or (len(interval) == 2 and 0 <= interval[0] < interval[1])
        _require(ordered, "sample.guidance_interval", interval, "two rising noise levels, as [0.3, 3], or null")
        _require(0 <= self.guidance_rescale <= 1, "sample.guidance_rescale", self.guidance_rescale, "0 to 1")
        _require(0 <= self.seed < 2**62, "sample.seed", self.seed, "0 to 2^62 - 1")

    def drawing(self) -> dict[str, Any]:
        """What says how an image is drawn, beside its label and seed: keyword arguments of the pipeline's `drawer`."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("per_class", "seed")}


@dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go, beside metrics.jsonl.

    Args:
        wandb: off, offline (files in the run directory) or online; the variable WANDB_MODE goes before it.
        wandb_project: name of the project there.
        tensorboard: write event files into the run directory.
    """

    wandb: str = "offline"
    wandb_project: str = "adagn-ddpm"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _require(self.wandb in ("off", "offline", "online"), "tracking.wandb", self.wandb, "off, offline, online")


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation while training, with few images and few steps; scripts/evaluate.py measures with many.

    Args:
        every: steps between evaluations; the last step has one too; 0 is none at all.
        count: images that are drawn for one, in the proportions of the classes.
        extractor: of features, judge, inception, dinov2, package.module:Name, or a folder of a saved judge.
        metric: which figure says what the best model is, frechet_distance, kernel_distance or accuracy.
        sampler: ddim, ddpm (ancestral), dpmpp, unipc, euler or heun.
        steps: network evaluations per image, at most.
        spacing: of the timesteps, trailing, leading, linspace, logsnr or karras.
        guidance: scale of guidance; 1 is none.
        seed: the j-th image of class c has the seed `seed + j * number of classes + c`.
    """

    every: int = 0
    count: int = 500
    extractor: str = "judge"
    metric: str = "frechet_distance"
    sampler: str = "dpmpp"
    steps: int = 10
    spacing: str = "logsnr"
    guidance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.every >= 0, "evaluation.every", self.every, "0 or more")
        _require(self.count >= 2, "evaluation.count", self.count, "2 or more")
        _require(self.steps >= 1, "evaluation.steps", self.steps, "1 or more")
        _require(self.guidance >= 0, "evaluation.guidance", self.guidance, "0 or more")
        _require(0 <= self.seed < 2**62, "evaluation.seed", self.seed, "0 to 2^62 - 1")

    def drawing(self) -> dict[str, Any]:
        """What says how an image is drawn, beside its label and seed: keyword arguments of the pipeline's `drawer`."""
        return {key: getattr(self, key) for key in ("sampler", "steps", "spacing", "guidance")}


@dataclass(frozen=True)
class Config:
    """All sections of a run's configuration."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain dicts, one per section."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """The resolved configuration as a file that `--config` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


SECTIONS = {f.name: f.default_factory for f in dataclasses.fields(Config)}

# Keys that say how a run is watched, stored or computed, not what it computes: they may change when it goes on.
CHANGEABLE = {
    *(f"sample.{f.name}" for f in dataclasses.fields(SampleConfig)),
    *(f"tracking.{f.name}" for f in dataclasses.fields(TrackingConfig)),
    *(f"evaluation.{f.name}" for f in dataclasses.fields(EvaluationConfig)),
    "train.accumulation",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.max_skipped",
    *(f"data.{key}" for key in ("memory_gb", "workers")),
    "model.gradient_checkpointing",
}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Keys outside CHANGEABLE whose values differ, with both values; more steps at a constant rate do not count."""
    found = {}
    for section, values in new.to_dict().items():
        for key, value in values.items():
            before = old.to_dict()[section][key]
            if before != value and f"{section}.{key}" not in CHANGEABLE:
                found[f"{section}.{key}"] = (before, value)
    if new.train.decay == "constant" and new.train.steps > old.train.steps:
        found.pop("train.steps", None)
    return found
