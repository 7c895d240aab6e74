"""Which options of a run may change when it continues."""

from pathlib import Path
from typing import Any

import pytest

from ddpm.config.changes import (
    KINDS,
    NAMES_OF_COLUMNS,
    NOT_FREE,
    OTHER_IMAGES,
    REASONS,
    REASONS_ABOUT_0,
    Change,
    change_kind,
    check_allowed,
    describe_nulls,
    differences,
    fill_nulls,
    list_allowed,
    reason_against,
    suggest_run,
    suggest_shape,
)
from ddpm.config.commands import Overrides, TrainCommand
from ddpm.config.sections import OPTIONS, SECTIONS, Config, DataConfig
from ddpm.config.values import members

RUN = Path("runs/my run")
OF_KIND = {kind: [key for key in OPTIONS if change_kind(key) is kind] for kind in Change}
FROM_WEIGHTS = "--config 'runs/my run/config.yaml' --run-dir OTHER --model.pretrained 'runs/my run'"
NEW_MODEL = "--config 'runs/my run/config.yaml' --run-dir OTHER"


def changed(**sections: dict[str, Any]) -> Config:
    return Config(**{name: section(**sections.get(name, {})) for name, section in SECTIONS.items()})


def test_differences() -> None:
    old = Config()
    assert differences(old, Config()) == {}
    new = changed(model={"channels": 64, "norm": "groupnorm"}, train={"batch_size": 8, "steps": 601})
    assert differences(old, new) == {
        "model.channels": (old.model.channels, 64), "model.norm": ("adagn", "groupnorm"),
        "train.batch_size": (old.train.batch_size, 8), "train.steps": (old.train.steps, 601),
    }


def test_options_that_do_not_affect_the_result_may_change() -> None:
    new = changed(
        data={"cache_gb": 0.0, "memory_gb": 1.0, "workers": 0},
        model={"gradient_checkpointing": True},
        train={
            "gradient_accumulation_steps": 2, "checkpoint_every": 1, "keep_checkpoints": 9, "sample_every": 0,
            "max_skipped": 1, "log_every": 3, "timeout": 9.0, "deterministic": True,
        },
        sample={"steps": 3, "guidance_scale": 2.0},
        evaluation={"every": 10, "count": 20, "extractor": "dinov2", "metric": "accuracy", "steps": 3, "seed": 1},
        tracking={"wandb": "off"},
    )
    assert differences(Config(), new, NOT_FREE) == {}
    assert len(differences(Config(), new)) == 21
    # Options that determine the weights may not change: randomness, data, model, objective, optimizer.
    free = {*OF_KIND[Change.FREE]}
    assert not free & {"train.seed", "train.batch_size", "train.steps", "data.source", "train.mixed_precision"}
    assert not [key for key in free if key.startswith("diffusion.")]
    assert {key for key in OPTIONS if key.startswith(("evaluation.", "sample.", "tracking."))} <= free


def test_how_images_are_read_is_known_from_their_content() -> None:
    read = {f"data.{name}" for name in DataConfig().load_options()}
    assert {*OF_KIND[Change.SAME_IMAGES]} == read - {*OF_KIND[Change.FREE]} >= {OTHER_IMAGES, *NAMES_OF_COLUMNS}


def test_null_stands_for_the_value_of_the_run() -> None:
    nullable = [key for key, kind in OPTIONS.items() if type(None) in members(kind)]
    run = changed(
        data={"resolution": 16, "channels": 3, "image_column": "img"}, model={"attention_resolutions": [8]},
        sample={"guidance_interval": [0.1, 2.0]},
    )
    given = Config().with_options(dict.fromkeys(nullable))
    filled = fill_nulls(given, run)
    assert (filled.data.resolution, filled.data.channels, filled.model.attention_resolutions) == (16, 3, [8])
    # Null is a value of its own here: guidance at all sigmas, and columns that are detected.
    assert filled.sample.guidance_interval is None and filled.data.image_column is None
    assert differences(run, given, NOT_FREE).keys() == {"data.image_column"}
    assert differences(run, Config().with_options({"model.attention_resolutions": [4]})).keys() >= {
        "model.attention_resolutions"
    }


@pytest.mark.parametrize("key", OF_KIND[Change.LENGTH] + OF_KIND[Change.BY_NAME] + OF_KIND[Change.NEVER])
def test_every_other_option_is_allowed_or_has_a_reason_against_it(key: str, refused) -> None:
    """Architecture, objective and randomness stay; optimization, augmentation and regularization may change."""
    kept = ("train.optimizer", "train.seed", "train.compile", "data.shuffle_labels", "data.augmentations")
    stays = key.startswith(("model.", "diffusion.")) or key in kept
    stays &= key not in (
        "model.dropout", "diffusion.weighting", "diffusion.timestep_sampler", "diffusion.class_dropout_prob"
    )
    assert (reason_against(key) is not None) == stays
    if stays:
        survived = key.startswith(("train.", "data."))
        with refused("allow_change", key, FROM_WEIGHTS if survived else NEW_MODEL):
            check_allowed([key], RUN)
        assert ("--model.pretrained" in suggest_run([key], RUN)) == survived
    else:
        check_allowed([key], RUN)


@pytest.mark.parametrize("key", ["diffusion.class_dropout_prob", "data.augment"])
def test_the_null_class_and_the_labels_of_augmentation_stay(key: str) -> None:
    assert reason_against(key, 0.1, 0.2) is None and reason_against(key, 0.1, 0.0) and reason_against(key, 0.0, 0.1)


def test_the_remedy_keeps_the_value_that_was_given(refused) -> None:
    with refused("allow_change", FROM_WEIGHTS, " --train.optimizer muon"):
        TrainCommand(run_dir=RUN, allow_change="train.optimizer", overrides=Overrides({"train.optimizer": "muon"}))


def test_kinds_and_reasons_are_about_options() -> None:
    names = [*REASONS, *(name for names in KINDS.values() for name in names if name != "data")]
    assert all(any(key == name or (name[-1] == "." and key.startswith(name)) for key in OPTIONS) for name in names)
    assert len({*names}) == len(names) and all(change_kind(key) is Change.BY_NAME for key in REASONS_ABOUT_0)


@pytest.mark.parametrize(("key", "meant"), [
    ("train.batchsize", "did you mean train.batch_size?"),
    ("batch_size", "did you mean train.batch_size?"),       # and not sample.batch_size, which may always change
    ("lr", "did you mean train.learning_rate?"),
    ("source", "did you mean data.source?"),
    ("channels", "model.channels"),         # a better message follows
    ("x", "train.batch_size, "),
])
def test_an_unknown_option_is_not_allowed(key: str, meant: str, refused) -> None:
    with refused(f"allow_change: {key} ", meant):
        check_allowed([key], RUN)


def test_a_list_of_no_options(refused) -> None:
    with refused("allow_change: ", "train.batch_size"):
        TrainCommand(allow_change=" , ")


def test_options_that_have_to_be_named() -> None:
    assert {"train.batch_size", "data.augment", "model.dropout", OTHER_IMAGES} <= {*list_allowed()}
    for key in list_allowed():
        check_allowed([key], RUN)
    assert not {*list_allowed()} & {*OF_KIND[Change.FREE], "train.steps", "train.seed", "data.split"}


@pytest.mark.parametrize("key", OF_KIND[Change.FREE])
def test_what_may_always_change_may_be_named(key: str) -> None:
    assert reason_against(key) is None
    check_allowed([key], RUN)


@pytest.mark.parametrize("key", sorted({*OF_KIND[Change.SAME_IMAGES]} - {OTHER_IMAGES}))
def test_only_one_option_allows_other_images(key: str, refused) -> None:
    with refused("allow_change", key, f"--allow-change {OTHER_IMAGES}"):
        check_allowed([key], RUN)


def test_the_architecture_of_pretrained_weights_is_no_setting() -> None:
    old = changed(model={"pretrained": "a", "channels": 32})
    assert differences(old, changed(model={"pretrained": "a", "channels": 8, "norm": "groupnorm"})) == {}
    assert differences(old, changed(model={"pretrained": "a", "channels": 32, "dropout": 0.5})).keys() == {
        "model.dropout"
    }


def test_remedies_fit_the_change() -> None:
    plain, tuned = Config(), changed(model={"pretrained": "a"})
    for key in ("model.channels", "diffusion.prediction", "diffusion.num_timesteps"):
        assert suggest_run([key], RUN, plain).endswith(NEW_MODEL)
        assert suggest_run([key, "train.seed"], RUN, plain).endswith(NEW_MODEL)
        assert suggest_run([key], RUN, tuned).endswith(f"{NEW_MODEL} --model.pretrained null")
    assert suggest_run(["model.pretrained"], RUN, tuned).endswith(NEW_MODEL)
    assert suggest_run(["diffusion.class_dropout_prob"], RUN, tuned).endswith(FROM_WEIGHTS)
    # The stages of another size would not fit.
    assert NEW_MODEL in suggest_shape(RUN, plain) and "--model.attention_resolutions null" in suggest_shape(RUN, plain)


def test_what_null_keeps_is_told() -> None:
    run = changed(train={"learning_rate": 0.003}, model={"attention_resolutions": [8, 4]})
    told = describe_nulls(Config(), run)
    assert "train.learning_rate 0.003" in told and "model.attention_resolutions [8, 4]" in told
    assert "data.resolution" not in told and describe_nulls(run, run) == describe_nulls(Config(), Config()) == ""
