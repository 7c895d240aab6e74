"""Reading a folder of a diffusers UNet2DModel, alone or in a pipeline with its scheduler."""

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

_WEIGHTS = "diffusion_pytorch_model"


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
        folder: contains the model's `config.json` and safetensors, in the folder itself or in its subfolder `unet`; a
            scheduler's configuration may be in the folder itself or in its subfolder `scheduler`.
        class_names: in the order of ids; by default those of the folder, or ids.
        null_class: whether the last class embedding means "no class".
        schedule: noise schedule if there is no scheduler, an entry of SCHEDULES.
        num_timesteps: its number of steps T; 1000 by default.
        prediction: the prediction type if there is no scheduler, an entry of PREDICTIONS.

    Raises:
        ValueError: for a folder with other content or damaged files, a model that cannot be converted, or an unknown
            process.
    """
    network = _find("config.json", folder / "unet", folder) or folder / "config.json"
    config = _unet2d_config(network)
    scheduler = _find("scheduler_config.json", folder / "scheduler", folder)
    options = {"schedule": schedule, "num_timesteps": num_timesteps, "prediction": prediction}
    for option, value in options.items():
        if scheduler is not None and value is not None:
            raise ValueError(f"{option}: {scheduler} already defines it; omit --{option.replace('_', '-')}")
        if scheduler is None and value is None and option != "num_timesteps":
            known = ", ".join(SCHEDULES if option == "schedule" else PREDICTIONS)
            raise ValueError(f"{option}: {folder} has no scheduler that defines it; pass --{option}, one of {known}")
    if schedule is not None and prediction is not None:
        steps = 1000 if num_timesteps is None else num_timesteps
        if steps < 2:
            raise ValueError(f"num_timesteps: {steps} is out of range; allowed: 2 or more")
        noise_schedule, prediction_type = NoiseSchedule(SCHEDULES[schedule](steps)), prediction
    else:
        assert scheduler is not None
        noise_schedule, prediction_type = _process_of(scheduler)
    unet = from_unet2d(_load(network.parent, config, null_class), null_class)
    ids = [str(i) for i in range(unet.config.num_classes)]
    index = folder / "model_index.json"
    labels = _read_json(index).get("id2label") if index.is_file() else None
    known_names = labels if isinstance(labels, dict) and {*labels} == {*ids} else {}
    names = class_names or [str(known_names.get(i, i)) for i in ids]
    return ClassConditionalPipeline.from_parts(unet, noise_schedule, prediction_type, names)


def _find(name: str, *folders: Path) -> Path | None:
    """Return the file of a name in the first folder that has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: cannot be read as JSON")
    return content


# ----------------------------------------------------------------------------------------------------------- network


def _unet2d_config(file: Path) -> dict[str, Any]:
    folder = file.parent
    if not file.is_file():
        ours = (folder / "checkpoints").is_dir() or (folder / "pipeline").is_dir()
        advice = "; it is a run of this program; convert it with --to diffusers" if ours else ""
        raise ValueError(f"{folder}: contains no config.json of a UNet2DModel{advice}")
    config = _read_json(file)
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
    if not any(folder.glob(f"{_WEIGHTS}*.safetensors")):
        raise ValueError(f"{folder}: needs {_WEIGHTS}.safetensors; a .bin file is not loaded, as it can run any code")
    try:
        model, report = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ValueError(f"{sorted(report['missing_keys'])[0]} is missing")
    except Exception as problem:        # damaged files raise many kinds of errors
        raise ValueError(f"{folder}: damaged, or its weights do not match config.json; download it again") from problem
    return model


# ----------------------------------------------------------------------------------------------------------- process


def _process_of(file: Path) -> tuple[NoiseSchedule, str]:
    """Return noise schedule and prediction type of a diffusers scheduler, from its configuration."""
    config = _read_json(file)
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    if not hasattr(kind, "from_config") or not issubclass(kind, SchedulerMixin):
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
