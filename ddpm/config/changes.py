"""Which options of a run may change when it is continued, and why the others may not."""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ddpm.config.foreign_names import suggest_option
from ddpm.config.sections import OPTIONS, Config, DataConfig, flatten
from ddpm.config.values import spell_value

# Options that affect how a run is observed, stored or computed, but not its result. They may change on resume. (With
# dropout, gradient accumulation also changes which activations are dropped, as the number of processes does.)
CHANGEABLE = {
    *(key for key in OPTIONS if key.startswith(("sample.", "tracking.", "evaluation."))),
    *("data.memory_gb", "data.workers", "model.gradient_checkpointing", "train.gradient_accumulation_steps"),
    *("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.sample_every", "train.max_skipped"),
}
# Options that say where the images are and how they are read. The fingerprint decides whether they are the same images.
READING = {f"data.{name}" for name in DataConfig().load_options()} - CHANGEABLE
OTHER_IMAGES = "data.source"        # the option that allows other images
# Options of READING for which null does not stand for a value that follows from the images.
NAMES_OF_COLUMNS = {"data.image_column", "data.label_column"}
# Options of the section `model` that a trained network determines.
ARCHITECTURE = (
    "channels", "channel_mult", "num_res_blocks", "attention_resolutions", "head_channels", "norm", "conditioning",
    "condition_at", "norm_groups", "resample",
)
# Why an option cannot change; None means that it can. Keys ending in a dot are prefixes; the longest match counts.
REASONS: dict[str, str | None] = {
    "model.": "the weights have the shapes of the other architecture",
    "model.dropout": None,
    "model.pretrained": "the weights are those of the checkpoint since the first step",
    "diffusion.": "the weights were trained to predict something else",
    "diffusion.weighting": None,
    "diffusion.timestep_sampler": None,
    "diffusion.class_dropout_prob": None,
    "train.seed": "the order of the samples and all other random numbers follow from it",
    "data.shuffle_labels": "the weights have learned the other labels",
    "data.augmentations": "the weights have learned the labels of the other transforms",
}
# Options for which REASONS says that they cannot change, but with which another run can start from the weights.
SURVIVED_BY_WEIGHTS = ("train.", "data.", "diffusion.class_dropout_prob")


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the options outside CHANGEABLE whose values differ, with the old and the new value.

    A new value of null matches every old value, as in `fill_nulls`.
    """
    return {key: values for key, values in all_differences(old, new).items() if key not in CHANGEABLE}


def all_differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return all options whose values differ, as `differences` does.

    With a pretrained model the architecture is that of its weights, whatever the options say, so it does not differ.
    """
    before, after = flatten(old.to_dict()), flatten(fill_nulls(new, old).to_dict())
    fixed = {f"model.{name}" for name in ARCHITECTURE} if old.model.pretrained is not None else set()
    return {key: (before[key], after[key]) for key in OPTIONS if before[key] != after[key] and key not in fixed}


def fill_nulls(config: Config, run: Config) -> Config:
    """Replace null by the value of a run in the options for which null means a value that follows from the data."""
    return config.with_options(_values_for_nulls(config, run))


def describe_nulls(config: Config, run: Config) -> str:
    """Return one line on the options in which `fill_nulls` replaces null by a value; empty if there are none."""
    kept = [f"{key} {spell_value(value)}" for key, value in _values_for_nulls(config, run).items() if value is not None]
    return f"null keeps the values of the run: {', '.join(kept)}" if kept else ""


def _values_for_nulls(config: Config, run: Config) -> dict[str, Any]:
    given, known = flatten(config.to_dict()), flatten(run.to_dict())
    own = CHANGEABLE | NAMES_OF_COLUMNS         # in which null is a value of its own
    return {key: known[key] for key, value in given.items() if value is None and key not in own}


def reason_against(key: str, old: Any = None, new: Any = None) -> str | None:
    """Return why the weights of a run do not survive a change of an option; None if they do.

    Args:
        key: the option.
        old: its value in the run.
        new: its new value.
    """
    if key in CHANGEABLE:
        return None
    if key == "diffusion.class_dropout_prob" and old is not None and (old == 0) != (new == 0):
        return "a model has a null class only if it is above 0"
    if key == "data.augment" and old is not None and (old == 0) != (new == 0):
        return "a model is trained to take labels of augmentation only if it is above 0"
    prefixes = [prefix for prefix in REASONS if key == prefix or (prefix.endswith(".") and key.startswith(prefix))]
    return REASONS[max(prefixes, key=len)] if prefixes else None


def nameable() -> list[str]:
    """Return the options that change only if a user names them."""
    free = CHANGEABLE | READING | {"train.steps"}
    return [key for key in OPTIONS if key == OTHER_IMAGES or (key not in free and reason_against(key) is None)]


def check_allowed(keys: Collection[str], run: Path) -> None:
    """Check the options that a user allows to change.

    Args:
        keys: the options.
        run: the run directory.

    Raises:
        ValueError: for an unknown option, one that the weights do not survive, or one on which it depends what the
            images are.
    """
    for key in keys:
        if key not in OPTIONS:
            known = nameable()
            hint = suggest_option(key, known) or suggest_option(key, OPTIONS) or f"; allowed: {', '.join(known)}"
            raise ValueError(f"allow_change: {key} is not an option{hint}")
        if reason := reason_against(key):
            raise ValueError(f"allow_change: {key} cannot change in a run, because {reason}; {another_run([key], run)}")
        if key in READING and key != OTHER_IMAGES:
            raise ValueError(
                f"allow_change: {key} may change without it as long as the images stay the same; only "
                f"--allow-change {OTHER_IMAGES} allows other images"
            )


def another_run(keys: Collection[str], run: Path, config: Config | None = None) -> str:
    """Return the remedy for changes that a run cannot make.

    Args:
        keys: the options that cannot change.
        run: the run directory.
        config: the configuration of the run, if it is known.
    """
    if all(key.startswith(SURVIVED_BY_WEIGHTS) for key in keys):
        return (
            f"start another run from the weights of this one: {_options_of(run)} --model.pretrained "
            f"{shlex.quote(str(run))}"
        )
    return another_model(run, None if "model.pretrained" in keys else config)


def another_model(run: Path, config: Config | None = None) -> str:
    """Return the remedy for changes that the weights of a run do not survive; arguments as in `another_run`."""
    # The network would be the pretrained one, whatever the options say.
    own = " --model.pretrained null" if config is not None and config.model.pretrained is not None else ""
    return f"train a new model in another directory: {_options_of(run)}{own}"


def another_shape(run: Path, config: Config) -> str:
    """Return the remedy for images of another size or with other channels; arguments as in `another_run`."""
    return f"{another_model(run, config)} --model.channel_mult null --model.attention_resolutions null"


def another_length(run: Path, steps: int) -> str:
    """Return the remedy for a run that has made more steps than it should."""
    return f"train a shorter run in another directory: {_options_of(run)} --train.steps {steps}"


def _options_of(run: Path) -> str:
    return f"--config {shlex.quote(str(run / 'config.yaml'))} --run-dir OTHER"
