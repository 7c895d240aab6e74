"""The configuration of a run, as frozen dataclasses that check their values.

The docstrings are the help texts of the options, and the types of the fields declare their ranges.
`ddpm.config.yaml_files` reads a configuration from a file, and `ddpm.cli` reads it from the command line.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Literal

from ddpm.config.values import (
    CheckedOptions,
    Derived,
    NonNegativeInt,
    NonNegativeOrInf,
    PositiveFloat,
    PositiveInt,
    PositiveOrInf,
    Probability,
    Range,
    SeedInt,
    UnitFloat,
    at_least,
    between,
    convert_mapping,
    derived_from,
    field_types,
    show,
)
from ddpm.config.yaml_syntax import dump_yaml

# The value of an option until it is derived from the data; `Derived` says why the type does not contain None.
NULL: Any = None

# Each lists the keys of a dictionary of functions or classes (tests/config/test_sections.py).
ScheduleName = Literal["linear", "cosine", "sigmoid"]
PredictionName = Literal["eps", "v", "x_0"]
SamplerName = Literal["ddim", "ddpm", "dpmpp", "unipc", "euler", "heun"]
SpacingName = Literal["trailing", "leading", "linspace", "logsnr", "karras"]
PrecisionName = Literal["fp32", "bf16", "fp16"]
AugmentationName = Literal[
    "flip", "vertical_flip", "quarter_turn", "rotation", "scale", "aspect", "crop", "shift"
]


@dataclass(frozen=True)
class DataConfig(CheckedOptions, section="data"):
    """Images and labels.

    Args:
        source: `digits` (from scikit-learn); a folder of images, with one subfolder per class or without classes,
            below folders of splits or not; a .csv, .tsv, .json or .jsonl that lists images; a parquet file or a folder
            of them; an .npz or .npy file; a dataset saved by `datasets`; or the name of a dataset on the Hugging Face
            Hub.
        split: split of the source, or a slice of one, such as train[:1500], train[-500:] or train[10%:20%]. Folders
            such as Training, val and dev are found by any of their usual names.
        resolution: height and width in pixels, to which images are resized; null selects the largest square that fits
            in nine of ten images, rounded down to a multiple of 4, from 4 to 64.
        channels: 1 for grayscale, 3 for RGB, 2 or 4 for the same with alpha, or the number of channels of the arrays;
            null selects RGB if any image has color, or the channels of the arrays.
        intensity: values [low, high] of the images that become black and white, such as [-1000, 1000]; values outside
            are clipped. null keeps values of uint8, and scales others by one range for all images.
        fit: how images become squares. `crop` keeps the center, `pad` adds black, and `stretch` changes the aspect
            ratio.
        frames: whether the first frame or all frames of an animation or of a file with several pages are images.
        image_column: name of the column of images; null detects it.
        label_column: name of the column of labels; null detects it.
        labels: where the classes of images in a folder come from. `auto` uses one folder per class, or a table such
            as metadata.csv, labels.csv or dataset.json beside the images; `folders` uses one folder per class,
            whatever tables there are; `filename` uses the part of each file name before the first underscore; a path
            names a table of file names and labels, or an .npy of labels for images in an .npy; and `none` trains
            without classes, from any source.
        on_bad_image: whether an unreadable image is an error or is skipped.
        balance: draw training images of every class equally often, however many images it has.
        augment: probability with which each transform of data.augmentations is applied to a training image. The
            network receives a label of the transforms, so that its samples look like the images without them; with
            many images 0.12 to 0.15 is usual, and more with few.
        augmentations: transforms of data.augment. `flip` mirrors left and right, and `vertical_flip` up and down;
            `quarter_turn` rotates by multiples of 90 degrees, and `rotation` by any angle; `scale` enlarges or
            reduces, `aspect` stretches one side and shrinks the other, `crop` enlarges a part of the image, and
            `shift` moves it.
        horizontal_flip: flip half of the training images horizontally, at random and without a label, so that samples
            are flipped too.
        shuffle_labels: train on labels that are randomly permuted among the images, as a control experiment.
            Evaluation uses the true labels.
        cache_gb: images are decoded once, into a file that all processes and later runs share, if they need at most
            this many GB and half of the free space. It is in the cache folder, which the environment variable
            DDPM_CACHE names. 0 caches none; images of less than 4 MB never are.
        memory_gb: images that are not cached are decoded at the start of each process and kept in memory if they need
            at most this many GB; otherwise they are decoded on demand.
        workers: number of worker processes that read images which are not in memory.
    """

    source: str = "digits"
    split: str = "train"
    resolution: PositiveInt | None = None
    channels: PositiveInt | None = None
    intensity: (
        Annotated[
            list[float],
            Range("[low, high] with low < high", lambda value: len(value) == 2 and -inf < value[0] < value[1] < inf),
        ]
        | None
    ) = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    frames: Literal["first", "all"] = "first"
    image_column: str | None = None
    label_column: str | None = None
    labels: str = "auto"
    on_bad_image: Literal["error", "skip"] = "error"
    balance: bool = False
    augment: Probability = 0.0
    augmentations: Annotated[
        list[AugmentationName], Range("one or more names, each once", lambda names: 0 < len(names) == len({*names}))
    ] = field(default_factory=lambda: ["flip", "crop", "shift"])
    horizontal_flip: bool = False
    shuffle_labels: bool = False
    cache_gb: NonNegativeOrInf = 64.0
    memory_gb: PositiveOrInf = 4.0
    workers: NonNegativeInt = 2

    def load_options(self) -> dict[str, Any]:
        """Return the options that determine which images are read and how, as arguments of `ddpm.data.load_data`."""
        only_for_training = ("balance", "augment", "augmentations", "horizontal_flip", "shuffle_labels", "workers")
        return {name: getattr(self, name) for name in field_types(type(self), *only_for_training)}


@dataclass(frozen=True)
class ModelConfig(CheckedOptions, section="model"):
    """U-Net.

    Args:
        channels: base width of the network; null derives it from the number of images: more for more images.
        channel_mult: width multiplier of each stage, from the finest to the coarsest. The first stage keeps the
            resolution, and each later stage halves it. null derives as many stages as the resolution can usefully be
            halved, of which the coarsest are the widest.
        num_res_blocks: number of residual blocks per stage.
        attention_resolutions: resolutions in pixels at which there is self-attention, in addition to the middle of the
            network; null derives those of the coarsest stages.
        head_channels: number of channels per attention head.
        norm: how the timestep and class embedding enters a residual block. `groupnorm` adds it before the norm;
            `groupnorm_matched` does too, with a wider embedding so that the number of parameters equals that of
            `adagn`. `adain`, `adaln` and `adarms` are `adagn` with other statistics; `adagn_scale` has no shift, and
            `adagn_shift` no scale.
        conditioning: what the residual blocks are conditioned on. With `cross_attention` they are conditioned on
            the timestep, and a cross-attention layer after each of them attends to the class.
        condition_at: part of the network that is conditioned, or a list of resolutions in pixels.
        norm_groups: maximum number of groups of a norm; each group has at least 4 channels. `adain`, `adaln` and
            `adarms` do not use it.
        dropout: dropout probability in the residual blocks.
        resample: whether a residual block or a convolution changes the resolution.
        gradient_checkpointing: recompute activations in the backward pass, which saves memory but takes more time.
        pretrained: run, checkpoint or pipeline whose weights training starts from. Its architecture overrides the
            options above, except dropout and gradient_checkpointing.
    """

    channels: Annotated[int, at_least(2), Derived("the number of images")] = NULL
    channel_mult: Annotated[
        list[float],
        Range("one or more factors above 0", lambda value: value and all(0 < x < 1000 for x in value)),
        Derived("the resolution"),
    ] = NULL
    num_res_blocks: Annotated[int, between(1, 100)] = 1
    attention_resolutions: Annotated[
        list[int], Range("different resolutions", lambda value: len({*value}) == len(value)), Derived("the resolution")
    ] = NULL
    head_channels: PositiveInt = 32
    norm: Literal[
        "adagn", "groupnorm", "groupnorm_matched", "adain", "adaln", "adarms", "adagn_scale", "adagn_shift"
    ] = "adagn"
    conditioning: Literal["both", "timestep", "class", "none", "cross_attention"] = "both"
    condition_at: Literal["all", "encoder", "middle", "decoder"] | Annotated[
        list[int], Range("different resolutions", lambda value: isinstance(value, str) or len({*value}) == len(value))
    ] = "all"
    norm_groups: PositiveInt = 32
    dropout: Probability = 0.0
    resample: Literal["resblock", "conv"] = "resblock"
    gradient_checkpointing: bool = False
    pretrained: str | None = None


@dataclass(frozen=True)
class DiffusionConfig(CheckedOptions, section="diffusion"):
    """Diffusion process and objective.

    Args:
        schedule: noise schedule.
        num_timesteps: number of timesteps of the forward process.
        zero_terminal_snr: rescale the schedule to a signal-to-noise ratio of zero at the last timestep.
        prediction: prediction target of the network.
        weighting: weight of the loss at each timestep.
        timestep_sampler: distribution of the timesteps of a training batch.
        class_dropout_prob: probability of training on the null class, for classifier-free guidance; 0 for a model
            without a null class. It has no effect if the images have no classes.
        learned_variance: let the network predict the variance too, and train with the hybrid loss.
    """

    schedule: ScheduleName = "cosine"
    num_timesteps: Annotated[int, between(2, 100_000)] = 1000
    zero_terminal_snr: bool = False
    prediction: PredictionName = "v"
    weighting: Literal["uniform", "min_snr"] = "uniform"
    timestep_sampler: Literal["uniform", "low_discrepancy"] = "low_discrepancy"
    class_dropout_prob: Probability = 0.1
    learned_variance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_terminal_snr and self.prediction == "eps":
            # Without a signal, the noise does not determine the image.
            raise ValueError("diffusion.prediction: eps is impossible with diffusion.zero_terminal_snr; use v or x_0")


@dataclass(frozen=True)
class TrainConfig(CheckedOptions, section="train"):
    """Training.

    Args:
        steps: number of optimizer steps. Null derives it from the number of images, so that few images are seen often
            enough.
        batch_size: number of images per optimizer step, over all processes. Null derives it from the resolution and the
            number of images: fewer for larger images, and more for many.
        gradient_accumulation_steps: number of micro-batches per optimizer step; more of them need less memory.
        optimizer: `adamw`, or `muon`, which orthogonalizes the updates of the matrices between the first and the last
            layer; AdamW trains the other parameters. On digits it needs fewer steps, each of which takes longer.
        learning_rate: peak learning rate. Null derives it from the resolution and the network: lower for larger ones.
        warmup_steps: number of optimizer steps of linear warmup.
        lr_schedule: learning rate schedule after the warmup; `cosine` decays towards 0, which it would reach one
            step after the last.
        weight_decay: weight decay of the optimizer.
        beta2: second beta of AdamW, also with `muon`.
        max_grad_norm: maximum norm of the gradient, to which it is clipped.
        ema_half_life: half-life of the moving average of the weights, in images.
        ema_warmup: early in training, the half-life is limited to this fraction of the images seen so far.
        mixed_precision: precision of the forward and backward pass; fp16 needs a GPU.
        compile: compile the network and the loss with torch.compile at the first step, which takes a minute or more and
            makes the other steps faster. It needs a C++ compiler on a CPU, and Triton and a C compiler on a GPU.
        deterministic: use only kernels that always sum in the same order, so that a GPU continues a run bit for bit; it
            is slower. CPUs do so anyway.
        seed: seed of all random numbers.
        max_skipped: maximum number of consecutive updates that are skipped because the loss or gradient is not finite.
        log_every: number of steps between lines of metrics.jsonl.
        checkpoint_every: number of steps between checkpoints; the last step and an interruption write one too.
        keep_checkpoints: number of checkpoints to keep, the newest ones.
        sample_every: number of steps between sample grids; 0 draws one at the end only.
        timeout: number of seconds without a heartbeat of one of several processes after which the others end, and the
            maximum duration of an exchange of gradients. A process that works alone sends heartbeats, so the others
            wait for it, however long.
    """

    steps: Annotated[PositiveInt, Derived("the images")] = NULL
    batch_size: Annotated[PositiveInt, Derived("the images")] = NULL
    gradient_accumulation_steps: PositiveInt = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[PositiveFloat, Derived("the images and the network")] = NULL
    warmup_steps: NonNegativeInt = 50
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, at_least(0)] = 0.0
    beta2: Probability = 0.999
    max_grad_norm: PositiveOrInf = 1.0
    ema_half_life: PositiveFloat = 500_000
    ema_warmup: PositiveFloat = 0.05
    mixed_precision: PrecisionName = "fp32"
    compile: bool = False
    deterministic: bool = False
    seed: Annotated[int, Range("0 to 2^63 - 1", lambda value: 0 <= value < 2**63)] = 0
    max_skipped: PositiveInt = 20
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2
    sample_every: NonNegativeInt = 300
    timeout: PositiveFloat = 300.0


@dataclass(frozen=True)
class SamplerOptions(CheckedOptions):
    """How an image is drawn from its label and seed.

    Args:
        sampler: sampling method; `ddpm` is ancestral sampling.
        steps: maximum number of evaluations of the denoiser per image; guidance doubles the cost of each.
        timestep_spacing: spacing of the timesteps.
        eta: noise added by ddim, from 0 (deterministic) to 1 (as much as ddpm).
        guidance_scale: scale of the guidance; 1 disables it.
        guidance_interval: guide only at sigmas in (low, high]; null guides at all of them.
        guidance_rescale: how far the standard deviation of the guided x_0 is rescaled to that of the conditional one,
            from 0 (not at all) to 1 (completely).
        mixed_precision: precision in which the network computes; the rest stays in fp32. fp16 needs a GPU.
    """

    sampler: SamplerName = "ddim"
    steps: PositiveInt = 50
    timestep_spacing: SpacingName = "trailing"
    eta: UnitFloat = 0.0
    guidance_scale: Annotated[float, at_least(0)] = 1.0
    guidance_interval: Annotated[
        list[float], Range("[low, high] with 0 <= low < high, or null", lambda x: len(x) == 2 and 0 <= x[0] < x[1])
    ] | None = None
    guidance_rescale: UnitFloat = 0.0
    mixed_precision: PrecisionName = "fp32"

    def sampling_options(self) -> dict[str, Any]:
        """Return the options as arguments of the pipeline's `make_draw_batch`."""
        return {name: getattr(self, name) for name in field_types(SamplerOptions)}


@dataclass(frozen=True)
class SampleConfig(SamplerOptions, section="sample"):
    """Sample grids during training, and the defaults of scripts/sample.py.

    Args:
        per_class: number of images of each class in a grid; without classes, a quarter of the images.
        seed: first seed; image j of class c gets the seed `seed + j * number of classes + c`, and without classes
            image j the seed `seed + j`.
        batch_size: number of images per network call. Null selects 100, or on a CPU fewer if they are larger than
            16x16.
    """

    per_class: PositiveInt = 8
    seed: SeedInt = 0
    batch_size: PositiveInt | None = None

    def sampling_options(self) -> dict[str, Any]:
        """Return the options as arguments of the pipeline's `make_draw_batch`."""
        return super().sampling_options() | {"batch_size": self.batch_size}


@dataclass(frozen=True)
class TrackingConfig(CheckedOptions, section="tracking"):
    """Experiment tracking, in addition to metrics.jsonl.

    Args:
        wandb: mode of Weights & Biases; `offline` writes to the run directory. The environment variable WANDB_MODE
            overrides it.
        wandb_project: name of the Weights & Biases project.
        tensorboard: write TensorBoard event files to the run directory.
    """

    wandb: Literal["off", "offline", "online"] = "offline"
    wandb_project: str = "adagn-ddpm"
    tensorboard: bool = False


@dataclass(frozen=True)
class EvaluationConfig(SamplerOptions, section="evaluation"):
    """Evaluation during training, with few images and few steps; scripts/evaluate.py evaluates in full.

    Args:
        every: number of steps between evaluations; the last step is evaluated too. 0 disables evaluation.
        count: number of images to draw, in the class proportions of the training data and in batches of
            sample.batch_size images.
        extractor: feature extractor: classifier, inception, dinov2, package.module:Name, or the folder of a saved
            classifier.
        metric: metric that selects the best model.
        seed: first seed; image j of class c gets the seed `seed + j * number of classes + c`, and without classes
            image j the seed `seed + j`.
    """

    sampler: SamplerName = "dpmpp"
    steps: PositiveInt = 10
    timestep_spacing: SpacingName = "logsnr"
    every: NonNegativeInt = 0
    count: Annotated[int, at_least(2)] = 500
    extractor: str = "classifier"
    metric: Literal["frechet_distance", "kernel_distance", "accuracy"] = "frechet_distance"
    seed: SeedInt = 0


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

    def with_options(self, options: Mapping[str, Any]) -> "Config":
        """Return the configuration with other values of some options, which are given by names such as `model.norm`.

        Raises:
            ValueError: for an unknown option, or a value of another type or out of range.
        """
        sections = self.to_dict()
        for key, value in convert_mapping(options, OPTIONS).items():
            section, _, name = key.partition(".")
            sections[section][name] = value
        return Config(**{name: SECTIONS[name](**values) for name, values in sections.items()})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain dicts, one per section."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """Return the text of a file that `--config` accepts; comments say what null options are derived from."""
        text = ""
        for section, values in self.to_dict().items():
            dumped = dump_yaml({section: values})
            for name in (name for name, value in values.items() if value is None):
                if source := derived_from(OPTIONS[f"{section}.{name}"]):
                    dumped = dumped.replace(f"\n  {name}: null\n", f"\n  {name}: null    # derived from {source}\n")
            text += dumped
        return text


SECTIONS: dict[str, type] = field_types(Config)
OPTIONS = {f"{name}.{key}": kind for name, section in SECTIONS.items() for key, kind in field_types(section).items()}


def flatten(content: Any) -> dict[str, Any]:
    """Return options by names such as `model.norm`, whether they are given by these or in sections.

    Raises:
        ValueError: if the content or a section is not a mapping of options, or an option occurs twice.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{show(content)} is not a mapping; give options and values, such as {{model.norm: adagn}}")
    options: dict[str, Any] = {}
    for key, value in content.items():
        if key in SECTIONS and not isinstance(value, Mapping):
            problem = "is empty" if value is None else f"{show(value)} is not a section"
            space = ", with a space after the colon" if isinstance(value, str) and ":" in value else ""
            names = ", ".join(field_types(SECTIONS[key]))
            raise ValueError(f"{key}: {problem}; give options and values{space}, from {names}")
        within = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, Mapping) else {str(key): value}
        for name in within.keys() & options.keys():
            raise ValueError(f"{name}: occurs twice; remove one")
        options |= within
    return options
