"""Reading a folder of a diffusers UNet2DModel, alone or in a pipeline with its scheduler."""

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
    """Read a UNet2DModel and its diffusion process as a pipeline.

    Args:
        folder: contains its `config.json` and safetensors, here or in `unet`; a scheduler's configuration may be in
            `scheduler`, or here.
        class_names: in the order of ids; by default those of the folder, or ids.
        null_class: whether the last class embedding means "no class".
        schedule: noise schedule if there is no scheduler, an entry of SCHEDULES.
        num_timesteps: its number of steps T; 1000 by default.
        prediction: the prediction type if there is no scheduler, an entry of PREDICTIONS.

    Raises:
        ValueError: for a folder with other content or damaged files, a model that cannot be converted, or an unknown
            process.
    """
    location = next((p for p in (folder / "unet", folder) if (p / "config.json").is_file()), folder)
    config = _unet2d_config(location)
    scheduler = next((p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None)
    if scheduler is None:
        noise, predicted = _named_process(folder, schedule, num_timesteps, prediction)
    else:
        file = scheduler / "scheduler_config.json"
        for option, value in {"schedule": schedule, "num_timesteps": num_timesteps, "prediction": prediction}.items():
            if value is not None:
                raise ValueError(f"{option}: {file} already defines it; omit --{option.replace('_', '-')}")
        noise, predicted = _process_of(file)
    unet = from_unet2d(_load(location, config, null_class), null_class)
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
        advice = "; it is a run of this program; convert it with --to diffusers" if ours else ""
        raise ValueError(f"{folder}: contains no config.json of a UNet2DModel{advice}")
    config = _read_json(folder / "config.json")
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        advice = "; it is a model of this program; convert it with --to diffusers" if kind == "UNet" else ""
        raise ValueError(f"{folder}: contains a {kind}, not a UNet2DModel{advice}")
    return config


def _load(folder: Path, config: Mapping[str, Any], null_class: bool) -> UNet2DModel:
    try:
        options = unet_options(config, null_class)      # fails before reading weights that cannot be converted
    except ValueError as problem:
        raise ValueError(f"{folder / 'config.json'}: {problem}") from None
    if options["out_channels"] not in (options["in_channels"], 2 * options["in_channels"]):
        raise ValueError(
            f"{folder / 'config.json'}: out_channels: {options['out_channels']} is not possible; allowed is "
            f"in_channels, {options['in_channels']}, or twice as many with a learned variance"
        )
    if not any(folder.glob(f"{WEIGHTS}*.safetensors")):
        pickled = next(iter(folder.glob(f"{WEIGHTS}*.bin")), None)
        reason = f"{pickled.name} can run arbitrary code" if pickled else "it contains no weights"
        raise ValueError(f"{folder}: needs {WEIGHTS}.safetensors; {reason}")
    try:
        model, report = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
    except Exception as problem:        # damaged files raise many kinds of errors
        raise ValueError(f"{folder}: damaged, or its weights do not match config.json; download it again") from problem
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{folder}: the weights do not match config.json; {missing[0]} is missing")
    return model


# ----------------------------------------------------------------------------------------------------------- process


def _named_process(
    folder: Path, schedule: str | None, num_timesteps: int | None, prediction: str | None
) -> tuple[NoiseSchedule, str]:
    for option, value, table in (("schedule", schedule, SCHEDULES), ("prediction", prediction, PREDICTIONS)):
        if value is None:
            known = ", ".join(table)
            raise ValueError(f"{option}: {folder} has no scheduler that defines it; pass --{option}, one of {known}")
        lookup(table, value, option)
    steps = 1000 if num_timesteps is None else num_timesteps
    if steps < 2:
        raise ValueError(f"num_timesteps: {steps} is out of range; allowed: 2 or more")
    return NoiseSchedule(SCHEDULES[schedule](steps)), prediction


def _process_of(file: Path) -> tuple[NoiseSchedule, str]:
    """Return noise schedule and prediction type of a diffusers scheduler, from its configuration."""
    config = _read_json(file)
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
        raise ValueError(f"{file}: {config.get('_class_name')!r} is not a scheduler of diffusers")
    try:
        betas = getattr(kind.from_config(config), "betas", None)
        if config.get("trained_betas") is not None and not config.get("rescale_betas_zero_snr"):
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)      # the scheduler keeps float32
        schedule = None if betas is None else NoiseSchedule(betas)
    except Exception as problem:        # schedulers raise many kinds of errors for invalid options
        raise ValueError(f"{file}: cannot be used: {' '.join(str(problem).split())[:200]}") from problem
    if schedule is None:
        raise ValueError(f"{file}: a {kind.__name__} has no betas; only discrete-time processes can be converted")
    names = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
    return schedule, lookup(names, config.get("prediction_type", "epsilon"), f"{file}: prediction_type")
