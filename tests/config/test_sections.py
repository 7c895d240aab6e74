"""The sections of a configuration: their choices and ranges."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

from ddpm.config.commands import ConvertCommand
from ddpm.config.sections import (
    OPTIONS,
    SECTIONS,
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    SampleConfig,
    SamplerOptions,
    TrackingConfig,
    TrainConfig,
)
from ddpm.config.values import choices, field_types
from ddpm.data.loading import ON_BAD_IMAGE
from ddpm.data.pixels.fits import FITS
from ddpm.data.pixels.frames import FRAMES
from ddpm.diffusion.objective import PREDICTIONS, TIMESTEP_SAMPLERS, WEIGHTINGS
from ddpm.diffusion.precision import PRECISIONS
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import SCHEDULES
from ddpm.diffusion.timesteps import SPACINGS
from ddpm.evaluation.in_training import MONITORED
from ddpm.io.adm_flags import PRESETS
from ddpm.io.conversion import CONVERSION_TARGETS
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.shape import SIDES
from ddpm.models.unet import RESAMPLERS
from ddpm.training.augmentation import AUGMENTATIONS
from ddpm.training.optim import OPTIMIZERS

REGISTRIES: dict[str, Iterable[str]] = {
    "data.on_bad_image": ON_BAD_IMAGE,
    "data.fit": FITS,
    "data.frames": FRAMES,
    "data.augmentations": AUGMENTATIONS,
    "model.norm": NORMS,
    "model.conditioning": CONDITIONINGS,
    "model.condition_at": ("all", *SIDES),
    "model.resample": RESAMPLERS,
    "diffusion.schedule": SCHEDULES,
    "diffusion.prediction": PREDICTIONS,
    "diffusion.weighting": WEIGHTINGS,
    "diffusion.timestep_sampler": TIMESTEP_SAMPLERS,
    "train.optimizer": OPTIMIZERS,
    **dict.fromkeys(("train.mixed_precision", "sample.mixed_precision", "evaluation.mixed_precision"), PRECISIONS),
    "sample.sampler": SAMPLERS,
    "sample.timestep_spacing": SPACINGS,
    "evaluation.sampler": SAMPLERS,
    "evaluation.timestep_spacing": SPACINGS,
    "evaluation.metric": MONITORED,
}
OF_CONVERT = {"to": CONVERSION_TARGETS, "preset": PRESETS, "schedule": SCHEDULES, "prediction": PREDICTIONS}
# Choices that no dict holds: code compares with them directly.
OTHERS = {"train.lr_schedule", "tracking.wandb"}


def test_choices_are_the_entries_of_the_registries() -> None:
    found = {name: {*choices(kind)} for name, kind in OPTIONS.items() if choices(kind)}
    assert {name: {*entries} for name, entries in REGISTRIES.items()} == {
        name: names for name, names in found.items() if name not in OTHERS
    }
    assert found.keys() == REGISTRIES.keys() | OTHERS
    of_convert = {name: {*choices(kind)} for name, kind in field_types(ConvertCommand).items() if choices(kind)}
    assert of_convert == {name: {*entries} for name, entries in OF_CONVERT.items()}


def changed(**sections: dict[str, Any]) -> Config:
    return Config(**{name: section(**sections.get(name, {})) for name, section in SECTIONS.items()})


@pytest.mark.parametrize(("section", "key", "value", "remedy"), [
    (DataConfig, "resolution", 0, "1 or more"),
    (DataConfig, "channels", 0, "1 or more"),
    (DataConfig, "intensity", [3, 1], "low < high"),
    (DataConfig, "intensity", [1], "low < high"),
    (DataConfig, "intensity", [0, float("inf")], "low < high"),
    (DataConfig, "fit", "padd", "did you mean pad?"),
    (DataConfig, "frames", "each", "first, all"),
    (DataConfig, "on_bad_image", "ignore", "error, skip"),
    (DataConfig, "cache_gb", -1, "0 or more"),
    (DataConfig, "memory_gb", 0, "above 0"),
    (DataConfig, "workers", -1, "0 or more"),
    (DataConfig, "augment", 1.0, "0 to less than 1"),
    (DataConfig, "augmentations", ["flip", "flop"], "did you mean flip?"),
    (DataConfig, "augmentations", "flip,chift", "did you mean shift?"),
    (DataConfig, "augmentations", 3, "[flip]"),
    (DataConfig, "augmentations", [], "one or more"),
    (DataConfig, "augmentations", ["crop", "crop"], "once"),
    (ModelConfig, "channels", "many", "whole number"),
    (ModelConfig, "channel_mult", [], "one or more"),
    (ModelConfig, "channel_mult", [1, 0], "above 0"),
    (ModelConfig, "attention_resolutions", [4, 4], "different"),
    (ModelConfig, "condition_at", [8, 4, 8], "different"),
    (ModelConfig, "num_res_blocks", 0, "1 to 100"),
    (ModelConfig, "head_channels", 0, "1 or more"),
    (ModelConfig, "norm", "adagm", "did you mean adagn?"),
    (ModelConfig, "condition_at", "encodr", "did you mean encoder?"),
    (ModelConfig, "norm_groups", 0, "1 or more"),
    (ModelConfig, "dropout", -0.1, "0 to less than 1"),
    (DiffusionConfig, "num_timesteps", 1, "2 to 100000"),
    (DiffusionConfig, "class_dropout_prob", 1.0, "0 to less than 1"),
    (TrainConfig, "gradient_accumulation_steps", 0, "1 or more"),
    (TrainConfig, "learning_rate", 0, "above 0"),
    (TrainConfig, "learning_rate", float("nan"), "number"),
    (TrainConfig, "max_grad_norm", 0, "above 0"),
    (TrainConfig, "beta2", 1.0, "0 to less than 1"),
    (TrainConfig, "warmup_steps", -1, "0 or more"),
    (TrainConfig, "lr_schedule", "linear", "cosine, constant"),
    (TrainConfig, "mixed_precision", "fp8", "fp32, bf16, fp16"),
    (TrainConfig, "seed", 2**63, "2^63 - 1"),
    (TrainConfig, "keep_checkpoints", 0, "1 or more"),
    (SampleConfig, "sampler", "dimm", "did you mean ddim?"),
    (SampleConfig, "steps", 0, "1 or more"),
    (SampleConfig, "eta", 1.1, "0 to 1"),
    (SampleConfig, "guidance_scale", -1, "0 or more"),
    (SampleConfig, "guidance_interval", [3, 1], "low < high"),
    (SampleConfig, "guidance_interval", [1], "low < high"),
    (SampleConfig, "guidance_rescale", 2, "0 to 1"),
    (SampleConfig, "seed", -1, "2^62 - 1"),
    (EvaluationConfig, "every", -1, "0 or more"),
    (EvaluationConfig, "count", 1, "2 or more"),
    (EvaluationConfig, "metric", "frechet", "did you mean frechet_distance?"),
    (EvaluationConfig, "metric", "fid", "did you mean frechet_distance?"),
    (EvaluationConfig, "timestep_spacing", "leeding", "did you mean leading?"),
    (EvaluationConfig, "steps", 0, "1 or more"),
    (EvaluationConfig, "guidance_scale", -0.5, "0 or more"),
    (EvaluationConfig, "seed", 2**62, "2^62 - 1"),
    (TrackingConfig, "wandb", "on", "off, offline, online"),
])
def test_values_from_python_are_checked_too(section: type, key: str, value: Any, remedy: str) -> None:
    name = next(name for name, kind in SECTIONS.items() if kind is section)
    with pytest.raises(ValueError) as refused:
        section(**{key: value})
    message = str(refused.value)
    assert message.startswith(f"{name}.{key}: ") and remedy in message and "\n" not in message


def test_a_prediction_that_determines_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"diffusion\.prediction: .*diffusion\.zero_terminal_snr.* v or x_0"):
        DiffusionConfig(prediction="eps", zero_terminal_snr=True)


def test_sampling_and_evaluation_have_the_same_sampler_options() -> None:
    options = {f.name for f in dataclasses.fields(SamplerOptions)}
    assert EvaluationConfig(guidance_scale=2, eta=0.5, sampler="ddim").sampling_options().keys() == options
    assert SampleConfig(batch_size=7).sampling_options() == {**SamplerOptions().sampling_options(), "batch_size": 7}
