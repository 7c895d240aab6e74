"""Which options of a run may change when it is continued, and why the others may not."""

from collections.abc import Collection
from typing import Any

from ddpm.config.sections import OPTIONS, Config, DataConfig, flatten
from ddpm.config.values import check_known

# Options that affect how a run is observed, stored or computed, but not its result. They may change on resume. (With
# dropout, gradient accumulation also changes which activations are dropped, as the number of processes does.)
CHANGEABLE = {
    *(key for key in OPTIONS if key.startswith(("sample.", "tracking.", "evaluation."))),
    *("data.memory_gb", "data.workers", "model.gradient_checkpointing", "train.gradient_accumulation_steps"),
    *("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.sample_every", "train.max_skipped"),
}
# Options that say where the images are and how they are read. The fingerprint decides whether they are the same images.
READING = {f"data.{name}" for name in DataConfig().load_options()} - CHANGEABLE
# Options of READING for which null does not stand for a value that follows from the images.
NAMES_OF_COLUMNS = {"data.image_column", "data.label_column"}
# Keys and prefixes of options that the weights do not survive, and why. The longest prefix counts; None allows.
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


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the options outside CHANGEABLE whose values differ, with the old and the new value.

    A new value of null matches every old value, as in `fill_nulls`.
    """
    return {key: values for key, values in all_differences(old, new).items() if key not in CHANGEABLE}


def all_differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return all options whose values differ, as `differences` does."""
    before, after = flatten(old.to_dict()), flatten(fill_nulls(new, old).to_dict())
    return {key: (before[key], after[key]) for key in OPTIONS if before[key] != after[key]}


def fill_nulls(config: Config, run: Config) -> Config:
    """Replace null by the value of a run in the options for which null means a value that follows from the data."""
    given, known = flatten(config.to_dict()), flatten(run.to_dict())
    kept = CHANGEABLE | NAMES_OF_COLUMNS
    return config.with_options({k: known[k] for k, value in given.items() if value is None and k not in kept})


def reason_against(key: str, old: Any = None, new: Any = None) -> str | None:
    """Return why the weights of a run do not survive a change of an option; None if they do.

    Args:
        key: the option.
        old: its value in the run.
        new: its new value.
    """
    if key == "diffusion.class_dropout_prob" and old is not None and (old == 0) != (new == 0):
        return "a model has a null class only if it is above 0"
    if key == "data.augment" and old is not None and (old == 0) != (new == 0):
        return "a model is trained to take labels of augmentation only if it is above 0"
    prefixes = [prefix for prefix in REASONS if key.startswith(prefix)]
    return REASONS[max(prefixes, key=len)] if prefixes else None


def check_allowed(keys: Collection[str]) -> None:
    """Check the options that a user allows to change.

    Raises:
        ValueError: for an unknown option, or one that the weights do not survive.
    """
    for key in keys:
        check_known(key, OPTIONS)
        if reason := reason_against(key):
            raise ValueError(f"allow_change: {key} cannot change in a run, because {reason}; {another_run()}")


def another_run() -> str:
    """Return the remedy for a change that a run cannot make."""
    return (
        "choose another directory with --run-dir, there with --model.pretrained DIR to start from the weights of a "
        "run (without its optimizer state, from step 0)"
    )
