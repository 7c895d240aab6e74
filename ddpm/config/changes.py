"""Which options of a run may change when it is continued, and why the others may not."""

import shlex
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ddpm.config.foreign_names import suggest_option
from ddpm.config.sections import OPTIONS, Config, flatten
from ddpm.config.values import spell_value


class Change(Enum):
    """When an option of a run may change."""

    FREE = "always: it affects how a run is observed, stored or computed, but not its result"
    SAME_IMAGES = "if the images stay the same: it says where they are or how they are read"
    LENGTH = "always, from the present step on, but not to fewer steps than are made"
    BY_NAME = "if --allow-change names it, from the present step on: it affects the result"
    NEVER = "never within a run"


# The options that may change; a name with a dot at its end is that of a section. The longest of these names and of the
# names in REASONS counts. (With dropout, gradient accumulation also changes which activations are dropped, as the
# number of processes does.)
KINDS: dict[Change, tuple[str, ...]] = {
    Change.FREE: (
        "sample.", "tracking.", "evaluation.", "data.cache_gb", "data.memory_gb", "data.workers",
        "model.gradient_checkpointing", "train.gradient_accumulation_steps", "train.log_every",
        "train.checkpoint_every", "train.keep_checkpoints", "train.sample_every", "train.max_skipped", "train.timeout",
        "train.deterministic",
    ),
    Change.SAME_IMAGES: ("data.",),
    Change.LENGTH: ("train.steps",),
    Change.BY_NAME: (
        "train.", "data.balance", "data.augment", "data.horizontal_flip", "model.dropout", "diffusion.weighting",
        "diffusion.timestep_sampler", "diffusion.class_dropout_prob",
        "data",     # the images themselves, as run.json calls them; OTHER_IMAGES is what a user names
    ),
}
# Why the other options never change.
REASONS = {
    "model.": "the weights have the shapes of the other architecture",
    "model.pretrained": "the weights are those of the checkpoint since the first step",
    "diffusion.": "the weights were trained to predict something else",
    "train.compile": "compiled steps round differently, so the run would no longer be that of its settings",
    "train.optimizer": "the optimizers keep different averages of the gradients",
    "train.seed": "the order of the samples and all other random numbers follow from it",
    "data.shuffle_labels": "the weights have learned the other labels",
    "data.augmentations": "the weights have learned the labels of the other transforms",
}
# Options that may change by name, but never to or from 0, and why.
REASONS_ABOUT_0 = {
    "diffusion.class_dropout_prob": "a model has a null class only if it is above 0",
    "data.augment": "a model is trained to take labels of augmentation only if it is above 0",
}
NOT_FREE = {*Change} - {Change.FREE}
OTHER_IMAGES = "data.source"        # the option that allows other images
# Options for which null is a value of its own, and does not stand for one that follows from the images.
NAMES_OF_COLUMNS = {"data.image_column", "data.label_column"}
# Options with which another run can start from the weights.
SURVIVED_BY_WEIGHTS = ("train.", "data.", "diffusion.class_dropout_prob")
_KIND_OF_NAME = {name: kind for kind, names in KINDS.items() for name in names} | dict.fromkeys(REASONS, Change.NEVER)


def _rule(option: str) -> str:
    """Return the name in KINDS or REASONS that decides on an option."""
    return max((n for n in _KIND_OF_NAME if option == n or (n[-1] == "." and option.startswith(n))), key=len)


def change_kind(option: str) -> Change:
    """Return when an option of a run may change."""
    return _KIND_OF_NAME[_rule(option)]


def reason_against(key: str, old: Any = None, new: Any = None) -> str | None:
    """Return why the weights of a run do not survive a change of an option; None if they do.

    Args:
        key: the option.
        old: its value in the run.
        new: its new value.
    """
    if key in REASONS_ABOUT_0 and old is not None and (old == 0) != (new == 0):
        return REASONS_ABOUT_0[key]
    return REASONS.get(_rule(key))


# Options of the section `model` that a trained network determines.
ARCHITECTURE = [key for key in OPTIONS if _rule(key) == "model."]


def differences(old: Config, new: Config, kinds: Collection[Change] = tuple(Change)) -> dict[str, tuple[Any, Any]]:
    """Return the options of some kinds whose values differ, with the old and the new value.

    A new value of null matches every old value, as in `fill_nulls`. With a pretrained model the architecture is that of
    its weights, whatever the options say, so it does not differ.
    """
    before, after = flatten(old.to_dict()), flatten(fill_nulls(new, old).to_dict())
    fixed = ARCHITECTURE if old.model.pretrained is not None else ()
    changed = [key for key in OPTIONS if before[key] != after[key] and key not in fixed]
    return {key: (before[key], after[key]) for key in changed if change_kind(key) in kinds}


def fill_nulls(config: Config, run: Config) -> Config:
    """Replace null by the value of a run in the options for which null means a value that follows from the data."""
    return config.with_options(_values_for_nulls(config, run))


def describe_nulls(config: Config, run: Config) -> str:
    """Return one line on the options in which `fill_nulls` replaces null by a value; empty if there are none."""
    kept = [f"{key} {spell_value(value)}" for key, value in _values_for_nulls(config, run).items() if value is not None]
    return f"null keeps the values of the run: {', '.join(kept)}" if kept else ""


def _values_for_nulls(config: Config, run: Config) -> dict[str, Any]:
    known = flatten(run.to_dict())
    nulls = [key for key, value in flatten(config.to_dict()).items() if value is None]
    return {key: known[key] for key in nulls if change_kind(key) is not Change.FREE and key not in NAMES_OF_COLUMNS}


def list_allowed() -> list[str]:
    """Return the options that change only if a user names them."""
    return [key for key in OPTIONS if key == OTHER_IMAGES or change_kind(key) is Change.BY_NAME]


def check_allowed(keys: Collection[str], run: Path, given: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Check the options that a user allows to change.

    Args:
        keys: the options.
        run: the run directory.
        given: the options of the command; the remedy repeats the value of the option that cannot change.

    Raises:
        ValueError: for an unknown option, one that the weights do not survive, or one on which it depends what the
            images are.
    """
    for key in keys:
        if key not in OPTIONS:
            known = list_allowed()
            hint = suggest_option(key, known) or suggest_option(key, OPTIONS) or f"; allowed: {', '.join(known)}"
            raise ValueError(f"allow_change: {key} is not an option{hint}")
        if reason := reason_against(key):
            remedy = suggest_run([key], run) + spell_options({key: given[key]} if key in given else {})
            raise ValueError(f"allow_change: {key} cannot change in a run, because {reason}; {remedy}")
        if change_kind(key) is Change.SAME_IMAGES and key != OTHER_IMAGES:
            raise ValueError(
                f"allow_change: {key} may change without it as long as the images stay the same; only "
                f"--allow-change {OTHER_IMAGES} allows other images"
            )


def suggest_run(keys: Collection[str], run: Path, config: Config | None = None) -> str:
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
    return suggest_model(run, None if "model.pretrained" in keys else config)


def suggest_model(run: Path, config: Config | None = None) -> str:
    """Return the remedy for changes that the weights of a run do not survive; arguments as in `suggest_run`."""
    # The network would be the pretrained one, whatever the options say.
    own = " --model.pretrained null" if config is not None and config.model.pretrained is not None else ""
    return f"train a new model in another directory: {_options_of(run)}{own}"


def spell_options(values: Mapping[str, Any]) -> str:
    """Return options as they are typed at the end of a command, each after a space."""
    return "".join(f" --{option} {shlex.quote(spell_value(value))}" for option, value in values.items())


def suggest_shape(run: Path, config: Config) -> str:
    """Return the remedy for images of another size or with other channels; arguments as in `suggest_run`."""
    return f"{suggest_model(run, config)} --model.channel_mult null --model.attention_resolutions null"


def suggest_length(run: Path, steps: int) -> str:
    """Return the remedy for a run that has made more steps than it should."""
    return f"train a shorter run in another directory: {_options_of(run)} --train.steps {steps}"


def _options_of(run: Path) -> str:
    return f"--config {shlex.quote(str(run / 'config.yaml'))} --run-dir OTHER"
