"""Checks of a configuration before anything is loaded or built."""

import re
from pathlib import Path

from ddpm.config.sections import Config, SamplerOptions
from ddpm.data import ImageData
from ddpm.diffusion.sampling import plan_timesteps
from ddpm.names import did_you_mean
from ddpm.training.build import build_schedule


def check_config(config: Config) -> None:
    """Check options that depend on each other or on files.

    Raises:
        ValueError: names the option and what is allowed.
    """
    check_sampler(config, config.sample, "sample")
    if config.evaluation.every > 0:
        check_extractor(config.evaluation.extractor)
        check_sampler(config, config.evaluation, "evaluation")


def check_classes(config: Config, data: ImageData) -> None:
    """Check that the options do not need classes if the images have none.

    Raises:
        ValueError: names the option and what is allowed.
    """
    if data.num_classes:
        return
    if config.data.balance:
        raise ValueError("data.balance: the images have no classes that could be drawn equally often; use false")
    if config.data.shuffle_labels:
        raise ValueError("data.shuffle_labels: the images have no classes, so no labels can be shuffled; use false")


def check_monitoring(config: Config, data: ImageData) -> None:
    """Check that the images allow the configured evaluation during training, if there is one.

    Raises:
        ValueError: names the option and what is allowed.
    """
    if config.evaluation.every > 0:
        from ddpm.evaluation.in_training import check_images  # only then: it imports all metrics

        check_images(config.evaluation, data)


def without_guidance(config: Config) -> tuple[Config, list[str]]:
    """Return the configuration with guidance scales of 1, for images without classes, and a warning for each other one.

    Presets set a scale, so it is no mistake of the user.
    """
    changed: dict[str, float] = {}
    for section, options in (("sample", config.sample), ("evaluation", config.evaluation)):
        if options.guidance_scale != 1:
            changed[f"{section}.guidance_scale"] = options.guidance_scale
    reason = "has no effect, because the images have no classes; it is 1"
    return config.with_options(dict.fromkeys(changed, 1.0)), [f"{key}: {changed[key]:g} {reason}" for key in changed]


def check_unguided(options: SamplerOptions, section: str) -> None:
    """Check that a model without classes can be sampled with these options and no guiding model.

    Raises:
        ValueError: names the option of the section and what is allowed.
    """
    if options.guidance_scale != 1:
        raise ValueError(
            f"{section}.guidance_scale: only 1 is possible, because the images have no classes, and guidance goes from "
            "the null class towards a class; use 1"
        )


def check_sampler(config: Config, options: SamplerOptions, section: str, guide: bool = False) -> None:
    """Check that a model with this configuration can be sampled with these options.

    Args:
        config: the configuration.
        options: how to sample.
        section: the section of the options, for errors.
        guide: whether another model guides, which replaces the null class.

    Raises:
        ValueError: names the option and what is allowed.
    """
    try:
        plan_timesteps(build_schedule(config), options.sampler, options.steps, options.timestep_spacing, options.eta)
    except ValueError as problem:
        raise ValueError(f"{section}.{problem}") from None
    if options.guidance_scale != 1 and config.diffusion.class_dropout_prob == 0 and not guide:
        raise ValueError(
            f"{section}.guidance_scale: only 1 is possible without a null class or a guide; use 1, or raise "
            "diffusion.class_dropout_prob to 0.1"
        )


def check_extractor(name: str) -> None:
    """Check that `name` can be an extractor. Errors that only appear on construction are raised later.

    Raises:
        ValueError: names the option and what is allowed.
    """
    from ddpm.evaluation.extractors import EXTRACTORS  # training without evaluation does not import it

    if name not in EXTRACTORS and not re.fullmatch(r"dinov2:.+|[\w.]+:\w+", name) and not Path(name).is_dir():
        raise ValueError(
            f"evaluation.extractor: {name!r} is not one of {', '.join(EXTRACTORS)}, dinov2:MODEL, the folder of a "
            f"saved classifier, or package.module:Name of your own{did_you_mean(name, EXTRACTORS)}"
        )
