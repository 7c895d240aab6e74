"""Build the objects that a configuration names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from ddpm.cache import cache_directory
from ddpm.config.changes import spell_options
from ddpm.config.sections import Config
from ddpm.data import ImageData, load_data
from ddpm.data.overview import with_decisions
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr
from ddpm.io.pipelines import load_pipeline, locate
from ddpm.io.pretrained import adapt_pretrained, architecture_options, training_options
from ddpm.models.unet import UNet
from ddpm.names import did_you_mean_path
from ddpm.training.augmentation import Augmentation

if TYPE_CHECKING:
    from ddpm.evaluation.in_training import InTrainingMetrics


def build_data(config: Config, decided: Mapping[str, Any] | None = None) -> ImageData:
    """Load the configured images.

    Args:
        config: the configuration.
        decided: what run.json says about the images of a run that continues, which decides how others are read too.
    """
    return load_data(**with_decisions(config.data.load_options(), decided or {}))


def build_in_training_metrics(config: Config, data: ImageData, accelerator: Accelerator) -> "InTrainingMetrics | None":
    """Build the metrics of the configured evaluation during training, on all processes; None without evaluation.

    Raises:
        ValueError: if the data or the extractor does not allow the configured metric.
    """
    if config.evaluation.every == 0:
        return None
    from ddpm.evaluation.in_training import InTrainingMetrics

    return InTrainingMetrics(config.evaluation, data, accelerator, cache_directory())


def build_augmentation(config: Config) -> Augmentation | None:
    """Build the configured augmentation; None without one."""
    data = config.data
    return Augmentation(data.augmentations, data.augment, config.train.seed) if data.augment > 0 else None


def build_schedule(config: Config) -> NoiseSchedule:
    """Build the configured noise schedule."""
    diffusion = config.diffusion
    betas = SCHEDULES[diffusion.schedule](diffusion.num_timesteps)
    return NoiseSchedule(with_zero_terminal_snr(betas) if diffusion.zero_terminal_snr else betas)


def build_unet(config: Config, data: ImageData, checkpoint: Path | None = None) -> UNet:
    """Build the configured model for the data's channels, resolution and classes.

    Args:
        config: a configuration that `derive_config` has completed.
        data: the training images.
        checkpoint: as for `adopt_pretrained`.

    Raises:
        ValueError: if the options do not fit together or do not fit the data.
    """
    model, augmentation = config.model, build_augmentation(config)
    augment_channels = 0 if augmentation is None else augmentation.channels
    if model.pretrained is not None:
        folder = checkpoint or _locate_pretrained(model.pretrained)
        return _build_pretrained(folder, model.pretrained, config, data, augment_channels)
    return UNet(
        resolution=data.resolution,
        in_channels=data.channels,
        out_channels=data.channels * (1 + config.diffusion.learned_variance),
        num_classes=data.num_classes,
        null_class=_has_null_class(config, data),
        channels=model.channels,
        channel_mult=tuple(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_resolutions=tuple(model.attention_resolutions),
        head_channels=model.head_channels,
        norm=model.norm,
        conditioning=model.conditioning,
        condition_at=model.condition_at,
        norm_groups=model.norm_groups,
        dropout=model.dropout,
        resample=model.resample,
        seed=config.train.seed,
        augment_channels=augment_channels,
    )


def adopt_pretrained(config: Config, checkpoint: Path | None = None) -> Config:
    """Return the configuration with the architecture of `model.pretrained`, if there is one, in the section `model`.

    Args:
        config: the configuration.
        checkpoint: checkpoint of the run that continues, if it has one. It has the architecture of the pretrained
            model, which is not needed then.

    Raises:
        ValueError: if the pretrained model does not exist or is damaged.
    """
    if config.model.pretrained is None:
        return config
    return config.with_options(architecture_options(checkpoint or _locate_pretrained(config.model.pretrained)))


def _locate_pretrained(path: str) -> Path:
    """Return the pipeline directory of a pretrained model.

    Raises:
        ValueError: if it does not exist or is damaged.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.exists():
        raise ValueError(
            f"model.pretrained: {path} does not exist; give a run, a checkpoint or a pipeline"
            f"{did_you_mean_path(folder)}"
        )
    try:
        return locate(folder)
    except ValueError as problem:
        raise ValueError(f"model.pretrained: {problem}") from None


def _build_pretrained(folder: Path, path: str, config: Config, data: ImageData, augment_channels: int) -> UNet:
    """Load the pretrained model and adapt it to the data's classes.

    Args:
        folder: its pipeline directory.
        path: what the user calls it.
        config: as for `build_unet`.
        data: the training images.
        augment_channels: channels of the labels of augmentation.

    Raises:
        ValueError: if it does not exist, is damaged, or was trained on other images or with other options; names the
            options that it needs.
    """
    try:
        pipeline = load_pipeline(folder)
        needed = training_options(pipeline)
    except ValueError as problem:
        raise ValueError(f"model.pretrained: {problem}") from None
    configured = {f"diffusion.{key}": value for key, value in config.to_dict()["diffusion"].items()}
    configured |= {"data.resolution": data.resolution, "data.channels": data.channels}
    wrong = [key for key, value in needed.items() if configured[key] != value]
    if wrong:
        settings = spell_options({key: needed[key] for key in wrong}).strip()
        raise ValueError(
            f"{wrong[0]}: {configured[wrong[0]]} here, but model.pretrained {path} was trained with "
            f"{needed[wrong[0]]}; set {settings}"
        )
    return adapt_pretrained(
        pipeline, data.class_names, _has_null_class(config, data), config.model.dropout, config.train.seed,
        augment_channels,
    )


def _has_null_class(config: Config, data: ImageData) -> bool:
    """Return whether the model has a null class; without classes, it is all that the model has."""
    return config.diffusion.class_dropout_prob > 0 or data.num_classes == 0
