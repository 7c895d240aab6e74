"""Checks of a configuration before anything is loaded or built."""

import re
from pathlib import Path

from ddpm.config.sections import Config, SamplerOptions
from ddpm.diffusion.sampling import plan_timesteps
from ddpm.names import did_you_mean
from ddpm.training.build import build_schedule


def check_config(config: Config) -> None:
    """Check options that depend on each other or on files.

    Raises:
        ValueError: names the option and what is allowed.
    """
    _check_sampler(config, "sample", config.sample)
    if config.evaluation.every > 0:
        check_extractor(config.evaluation.extractor)
        _check_sampler(config, "evaluation", config.evaluation)


def _check_sampler(config: Config, section: str, options: SamplerOptions) -> None:
    try:
        plan_timesteps(build_schedule(config), options.sampler, options.steps, options.timestep_spacing, options.eta)
    except ValueError as problem:
        raise ValueError(f"{section}.{problem}") from None
    if options.guidance_scale != 1 and config.diffusion.class_dropout_prob == 0:
        raise ValueError(
            f"{section}.guidance_scale: only 1 is possible without a null class; use 1, or raise "
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
