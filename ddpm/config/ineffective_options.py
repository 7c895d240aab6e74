"""Options that have no effect together with other options: one line on each, for a warning."""

from collections.abc import Callable, Iterator

from ddpm.config.sections import Config, EvaluationConfig, SamplerOptions, flatten
from ddpm.config.values import field_types

WITHOUT_CLASS = ("timestep", "none")             # values of model.conditioning with which no class enters the network
WITHOUT_GROUPS = ("adain", "adaln", "adarms")    # values of model.norm with statistics of their own


def _why_no_groups(config: Config) -> str | None:
    applies = config.model.norm in WITHOUT_GROUPS and config.model.pretrained is None
    return f"with model.norm {config.model.norm}" if applies else None


def _why_no_condition_at(config: Config) -> str | None:
    applies = config.model.conditioning == "none" and config.model.pretrained is None
    return "with model.conditioning none" if applies else None


def _why_no_augmentations(config: Config) -> str | None:
    return "without data.augment; set it, such as 0.15" if config.data.augment == 0 else None


# Option -> function that returns why it has no effect on training in a configuration, or None.
WHY_INEFFECTIVE: dict[str, Callable[[Config], str | None]] = {
    "model.norm_groups": _why_no_groups,
    "model.condition_at": _why_no_condition_at,
    "data.augmentations": _why_no_augmentations,
}


def ineffective_options(config: Config, in_memory: bool) -> list[str]:
    """Return one line on each given option that changes nothing.

    Args:
        config: the configuration, without null where a value is derived from the data.
        in_memory: whether the images are decoded once, before training.
    """
    return [*_of_training(config), *_of_data(config, in_memory), *_of_sampling(config), *_of_evaluation(config)]


def ignored_options(given: Config, adopted: Config) -> list[str]:
    """Return one line on each option that was given, although the pretrained model has another value.

    Args:
        given: the configuration as given.
        adopted: the same with the architecture of the pretrained model.
    """
    before, after, default = (flatten(config.to_dict()) for config in (given, adopted, Config()))
    return [
        f"{key}: {value} is ignored, because model.pretrained has {after[key]}; leave the option out"
        for key, value in before.items()
        if value not in (default[key], after[key])
    ]


def ineffective_guidance(options: SamplerOptions, prefix: str = "") -> list[str]:
    """Return one line on each option of guidance that changes nothing because the scale is 1.

    Args:
        options: how images are drawn.
        prefix: of the options' names, such as "sample.".
    """
    if options.guidance_scale != 1:
        return []
    given = [name for name in ("guidance_interval", "guidance_rescale") if getattr(options, name)]
    remedy = f"has no effect at {prefix}guidance_scale 1; set a larger scale, such as 2"
    return [f"{prefix}{name}: {remedy}" for name in given]


def without_ineffective(config: Config) -> Config:
    """Return a configuration with the defaults of those options of WHY_INEFFECTIVE that have no effect in it."""
    default = flatten(Config().to_dict())
    return config.with_options({key: default[key] for key, reason in WHY_INEFFECTIVE.items() if reason(config)})


def _of_training(config: Config) -> Iterator[str]:
    given, default = flatten(config.to_dict()), flatten(Config().to_dict())
    for key, reason in WHY_INEFFECTIVE.items():
        if given[key] != default[key] and (why := reason(config)) is not None:
            yield f"{key}: has no effect {why}"


def _of_data(config: Config, in_memory: bool) -> Iterator[str]:
    if in_memory and config.data.workers != type(config.data).workers:
        yield "data.workers: has no effect, because the images are in memory; lower data.memory_gb to decode on demand"


def _of_sampling(config: Config) -> Iterator[str]:
    used = {"sample.": config.sample} | ({"evaluation.": config.evaluation} if config.evaluation.every else {})
    for prefix, options in used.items():
        yield from ineffective_guidance(options, prefix)
        if options.guidance_scale != 1 and config.model.conditioning in WITHOUT_CLASS:
            yield (
                f"{prefix}guidance_scale: has no effect with model.conditioning {config.model.conditioning}, with "
                "which no class enters the network; use 1"
            )


def _of_evaluation(config: Config) -> Iterator[str]:
    default = EvaluationConfig()
    for name in field_types(EvaluationConfig, "every"):
        if config.evaluation.every == 0 and getattr(config.evaluation, name) != getattr(default, name):
            yield f"evaluation.{name}: has no effect without evaluation; set evaluation.every, such as 200"
