"""Build the objects that a configuration names, and check options that depend on each other."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import Accelerator

from ddpm.config.sections import Config
from ddpm.data import ImageData, load_data
from ddpm.diffusion.sampling import check_drawing
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr
from ddpm.io.pipelines import load_pipeline
from ddpm.io.pretrained import adapt_pretrained, training_options
from ddpm.models.unet import UNet
from ddpm.names import did_you_mean

if TYPE_CHECKING:
    from ddpm.evaluation.in_training import InTrainingMetrics

MAX_DEFAULT_ATTENTION = 16      # pixels; attention at larger resolutions is expensive


def build_data(config: Config) -> ImageData:
    """The configured images."""
    return load_data(**config.data.reading())


def check_config(config: Config) -> None:
    """Check options that depend on each other or on files, before anything takes time.

    Raises:
        ValueError: names the option and what is allowed.
    """
    sample = config.sample
    check_drawing(build_schedule(config), sample.sampler, sample.steps, sample.timestep_spacing, sample.eta)
    if sample.guidance_scale != 1 and config.diffusion.class_dropout_prob == 0:
        raise ValueError("sample.guidance_scale: only 1 is possible where diffusion.class_dropout_prob is 0; raise that to 0.1")
    if config.evaluation.every > 0:
        _check_evaluation(config)


def _check_evaluation(config: Config) -> None:
    evaluation = config.evaluation
    check_extractor(evaluation.extractor)
    try:
        check_drawing(
            build_schedule(config), evaluation.sampler, evaluation.steps, evaluation.timestep_spacing, evaluation.eta
        )
    except ValueError as problem:
        raise ValueError(str(problem).replace("sample.", "evaluation.")) from None
    if evaluation.guidance_scale != 1 and config.diffusion.class_dropout_prob == 0:
        raise ValueError("evaluation.guidance_scale: only 1 is possible where diffusion.class_dropout_prob is 0; leave it at 1")


def check_extractor(name: str) -> None:
    """Refuses what cannot be one by its name alone; what only building it shows comes later, before training."""
    from ddpm.evaluation.extractors import EXTRACTORS

    if name not in EXTRACTORS and not re.fullmatch(r"dinov2:.+|[\w.]+:\w+", name) and not Path(name).is_dir():
        raise ValueError(
            f"evaluation.extractor: {name!r} is not one of {', '.join(EXTRACTORS)}, dinov2:MODEL, the folder of a "
            f"saved classifier, or package.module:Name of your own{did_you_mean(name, EXTRACTORS)}"
        )


def build_in_training_metrics(config: Config, data: ImageData, accelerator: Accelerator) -> "InTrainingMetrics | None":
    """What measures while training, on all processes; None where nothing does.

    Raises:
        ValueError: if the data or the extractor cannot serve.
    """
    if config.evaluation.every == 0:
        return None
    from ddpm.evaluation.features import cache_directory
    from ddpm.evaluation.in_training import InTrainingMetrics

    return InTrainingMetrics(config.evaluation, data, accelerator, cache_directory())


def build_schedule(config: Config) -> NoiseSchedule:
    """The configured forward process."""
    diffusion = config.diffusion
    betas = SCHEDULES[diffusion.schedule](diffusion.num_timesteps)
    return NoiseSchedule(with_zero_terminal_snr(betas) if diffusion.zero_terminal_snr else betas)


def build_unet(config: Config, data: ImageData) -> UNet:
    """The configured model for the data's channels, resolution and classes.

    Raises:
        ValueError: if they do not fit together.
    """
    model = config.model
    if model.pretrained is not None:
        return _build_pretrained(config, data)
    attention = model.attention_resolutions
    if attention is None:       # as the help of the option says
        below = [data.resolution // 2**stage for stage in range(1, len(model.channel_mult))]
        attention = [size for size in below if size <= MAX_DEFAULT_ATTENTION]
    return UNet(
        resolution=data.resolution,
        in_channels=data.channels,
        out_channels=data.channels * (1 + config.diffusion.learned_variance),
        num_classes=data.num_classes,
        null_class=config.diffusion.class_dropout_prob > 0,
        channels=model.channels,
        channel_mult=tuple(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_resolutions=tuple(attention),
        head_channels=model.head_channels,
        norm=model.norm,
        conditioning=model.conditioning,
        condition_at=model.condition_at,
        norm_groups=model.norm_groups,
        dropout=model.dropout,
        resample=model.resample,
        seed=config.train.seed,
    )


def _build_pretrained(config: Config, data: ImageData) -> UNet:
    """The pretrained model, for the data's classes.

    Raises:
        ValueError: if it is not there, is damaged, or was trained for other images or another process; names the
            options that it needs.
    """
    path = Path(config.model.pretrained)
    if not path.exists():
        raise ValueError(
            f"model.pretrained: {path} is not there; a run needs it whenever it starts or goes on, for its architecture"
        )
    try:
        pipeline = load_pipeline(path)
        needed = training_options(pipeline)
    except ValueError as problem:
        raise ValueError(f"model.pretrained: {problem}") from None
    given = {f"diffusion.{key}": value for key, value in config.to_dict()["diffusion"].items()}
    given |= {"data.resolution": data.resolution, "data.channels": data.channels}
    wrong = [key for key, value in needed.items() if given[key] != value]
    if wrong:
        settings = " ".join(f"--{key} {str(needed[key]).lower()}" for key in wrong)
        raise ValueError(
            f"{wrong[0]}: {given[wrong[0]]} here, but model.pretrained {path} was trained with {needed[wrong[0]]}; set "
            f"{settings}"
        )
    null_class = config.diffusion.class_dropout_prob > 0
    return adapt_pretrained(pipeline, data.class_names, null_class, config.model.dropout, config.train.seed)
