"""Folders of a diffusers UNet2DModel, alone or in a pipeline with its scheduler, as pipelines of this program."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin, UNet2DModel

from ddpm.diffusion.objective import PREDICTIONS
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.unet2d import from_unet2d, unet_options
from ddpm.names import lookup
from ddpm.pipeline import PREDICTION_TYPES, ClassConditionalPipeline

WEIGHTS = "diffusion_pytorch_model"


def read_folder(
    folder: Path,
    class_names: list[str] | None = None,
    null_class: bool = False,
    schedule: str | None = None,
    num_timesteps: int | None = None,
    prediction: str | None = None,
) -> ClassConditionalPipeline:
    """Reads a UNet2DModel, and the process that it was trained with.

    Args:
        folder: holds its `config.json` and safetensors, or has them in `unet`; a scheduler's configuration may be in
            `scheduler`, or beside.
        class_names: in the order of ids; those of the folder, or ids, unless given.
        null_class: whether the last class embedding stands for "no class".
        schedule: noise schedule where there is no scheduler, an entry of SCHEDULES.
        num_timesteps: its number of steps T; 1000 unless given.
        prediction: what the model predicts where there is no scheduler, an entry of PREDICTIONS.

    Raises:
        ValueError: for a folder that holds something else or is damaged, a model that cannot be converted, or a process
            that is not known.
    """
    place = next((p for p in (folder / "unet", folder) if (p / "config.json").is_file()), folder)
    config = _unet2d_config(place)
    scheduler = next((p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None)
    if scheduler is None:
        noise, predicted = _named_process(folder, schedule, num_timesteps, prediction)
    else:
        file = scheduler / "scheduler_config.json"
        for option, value in {"schedule": schedule, "num_timesteps": num_timesteps, "prediction": prediction}.items():
            if value is not None:
                raise ValueError(f"{option}: {file} says it; leave --{option.replace('_', '-')} out")
        noise, predicted = _process_of(file)
    unet = from_unet2d(_load(place, config, null_class), null_class)
    ids = [str(i) for i in range(unet.config.num_classes)]
    index = _read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    labels = index.get("id2label")
    known = labels if isinstance(labels, dict) and {*labels} == {*ids} else {}
    names = class_names or [str(known.get(i, i)) for i in ids]
    return ClassConditionalPipeline.from_parts(unet, noise, predicted, names)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: cannot be read as JSON")
    return content


# ----------------------------------------------------------------------------------------------------------- network


def _unet2d_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        ours = (folder / "checkpoints").is_dir() or (folder / "pipeline").is_dir()
        advice = "; it is a run of this program, which --to diffusers converts" if ours else ""
        raise ValueError(f"{folder}: holds no config.json of a UNet2DModel{advice}")
    config = _read_json(folder / "config.json")
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        advice = "; it is a model of this program, which --to diffusers converts" if kind == "UNet" else ""
        raise ValueError(f"{folder}: holds a {kind}, not a UNet2DModel{advice}")
    return config


def _load(folder: Path, config: Mapping[str, Any], null_class: bool) -> UNet2DModel:
    try:
        options = unet_options(config, null_class)      # what cannot be converted need not be read
    except ValueError as problem:
        raise ValueError(f"{folder / 'config.json'}: {problem}") from None
    if options["out_channels"] not in (options["in_channels"], 2 * options["in_channels"]):
        raise ValueError(
            f"{folder / 'config.json'}: out_channels: {options['out_channels']} is neither in_channels nor, with a "
            f"variance, twice {options['in_channels']}"
        )
    if not any(folder.glob(f"{WEIGHTS}*.safetensors")):
        pickled = next(iter(folder.glob(f"{WEIGHTS}*.bin")), None)
        reason = f"{pickled.name} can run any code" if pickled else "there are no weights in it"
        raise ValueError(f"{folder}: needs {WEIGHTS}.safetensors; {reason}")
    try:
        model, report = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
    except Exception as problem:        # damaged files fail in as many ways as there are bytes
        raise ValueError(f"{folder}: damaged, or has weights of another config.json; fetch it again") from problem
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{folder}: has weights of another config.json; {missing[0]} is missing")
    return model


# ----------------------------------------------------------------------------------------------------------- process


def _named_process(
    folder: Path, schedule: str | None, num_timesteps: int | None, prediction: str | None
) -> tuple[NoiseSchedule, str]:
    for option, value, table in (("schedule", schedule, SCHEDULES), ("prediction", prediction, PREDICTIONS)):
        if value is None:
            known = ", ".join(table)
            raise ValueError(f"{option}: {folder} has no scheduler that says it; give --{option}, one of {known}")
        lookup(table, value, option)
    steps = 1000 if num_timesteps is None else num_timesteps
    if steps < 2:
        raise ValueError(f"num_timesteps: {steps} is out of range; allowed: 2 or more")
    return NoiseSchedule(SCHEDULES[schedule](steps)), prediction


def _process_of(file: Path) -> tuple[NoiseSchedule, str]:
    """Noise schedule and prediction, as a scheduler of diffusers computes them from its configuration."""
    config = _read_json(file)
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
        raise ValueError(f"{file}: {config.get('_class_name')!r} is no scheduler of diffusers")
    try:
        betas = getattr(kind.from_config(config), "betas", None)
        if config.get("trained_betas") is not None and not config.get("rescale_betas_zero_snr"):
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)      # the scheduler keeps float32
        schedule = None if betas is None else NoiseSchedule(betas)
    except Exception as problem:        # each scheduler checks its options in its own way
        raise ValueError(f"{file}: cannot be used: {' '.join(str(problem).split())[:200]}") from problem
    if schedule is None:
        raise ValueError(f"{file}: a {kind.__name__} has no betas; only processes of discrete steps can be converted")
    names = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
    return schedule, lookup(names, config.get("prediction_type", "epsilon"), f"{file}: prediction_type")
