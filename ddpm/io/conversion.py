"""What scripts/convert.py does: models of other programs as pipelines of this one, and these for plain diffusers."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm import __version__
from ddpm.atomic import MANIFEST, digests, find_damage, write_directory_atomically
from ddpm.config.sections import Config
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.adm import fitting_presets, load_adm, read_weights
from ddpm.io.adm_flags import PRESETS, Flags
from ddpm.io.diffusers_folder import read_folder
from ddpm.io.pipelines import load_pipeline
from ddpm.io.pretrained import training_options
from ddpm.io.unet2d import to_unet2d
from ddpm.names import lookup
from ddpm.pipeline import ClassConditionalPipeline

RECORD = "conversion.json"          # what a directory was made from; only this command writes it
CLASS_NAMES = "class_names.txt"
SHOWN_CLASSES = 16                  # a model of more is not drawn from as a whole


def convert(
    model: Path,
    out: Path,
    to: str = "ddpm",
    *,
    preset: str | None = None,
    flags: Mapping[str, Any] | None = None,
    class_names: Path | None = None,
    null_class: bool = False,
    schedule: str | None = None,
    num_timesteps: int | None = None,
    prediction: str | None = None,
) -> None:
    """Converts a model and says how to use the result.

    Args:
        model: a file of the reference's weights; a folder of a UNet2DModel, or of a diffusers pipeline that holds one;
            or, to be converted to diffusers, a run directory, one of its checkpoints, or a pipeline.
        out: directory of the result; made whole or not at all.
        to: an entry of FORMATS.
        preset: which released model a file of weights is, an entry of PRESETS.
        flags: what the model of a file of weights was trained with, as `Flags.read` takes it.
        class_names: a file of one class name per line; ids unless given.
        null_class: whether the last class embedding of a UNet2DModel stands for "no class".
        schedule: noise schedule of a UNet2DModel that has no scheduler beside it, an entry of SCHEDULES.
        num_timesteps: its number of steps T; 1000 unless given.
        prediction: what such a UNet2DModel predicts, an entry of PREDICTIONS.

    Raises:
        ValueError: for a model that cannot be read or converted, options that do not belong to it, or a directory that
            holds something else.
    """
    write = lookup(FORMATS, to, "to")
    if not model.exists():
        raise ValueError(f"{model}: no such file or folder")
    _check_out(out, model)
    options = {
        "preset": preset,
        "flags": flags,
        "class_names": None if class_names is None else _read_names(class_names),
        "null_class": null_class or None,
        "schedule": schedule,
        "num_timesteps": num_timesteps,
        "prediction": prediction,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if to == "diffusers":
        what, read, known = "a model of this program", load_pipeline, ()
    elif model.is_file():
        what, read, known = "a file of weights", read_weights_file, ("preset", "flags", "class_names")
    else:
        what, read, known = "a UNet2DModel", read_folder, tuple(options)[2:]
    for name in given:
        if name not in known:
            raise ValueError(f"{name}: does not belong to {what}; leave --{name.replace('_', '-')} out")
    pipeline = read(model, **given)
    count, names = pipeline.unet.config.num_classes, given.get("class_names")
    if names is not None and len(names) != count:
        raise ValueError(f"class_names: {class_names} has {len(names)} names, and the model {count} classes")
    given.pop("class_names", None)          # they are in the result
    record = {"from": str(model), "to": to, "options": given, "adagn-ddpm": __version__}

    def fill(folder: Path) -> None:
        write(pipeline, folder)
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    write_directory_atomically(out, fill)
    print(_summary(pipeline, out))
    print(_usage(pipeline, out) if to == "ddpm" else _usage_in_diffusers(pipeline, out))


def _check_out(out: Path, model: Path) -> None:
    """Refuses to write over the model, or over what this command did not make."""
    if model.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"out: {out} holds the model that is to be converted; name another directory")
    if out.is_file():
        raise ValueError(f"out: {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()):
        files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        if find_damage(out) is not None or RECORD not in digests(out) or not files <= {*digests(out), MANIFEST}:
            raise ValueError(f"out: {out} holds other things than an earlier conversion; name another directory")


def _read_names(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"class_names: {file} is no text") from None
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"class_names: {file} has {twice!r} twice; each class needs a name of its own")
    return names


def read_weights_file(
    file: Path,
    preset: str | None = None,
    flags: Mapping[str, Any] | None = None,
    class_names: list[str] | None = None,
) -> ClassConditionalPipeline:
    """Reads the weights of a released model, or of one that the reference's scripts trained.

    Args:
        file: as `ddpm.io.adm.load_adm` takes it.
        preset: which released model it is, an entry of PRESETS.
        flags: or what it was trained with, as `Flags.read` takes it.
        class_names: in the order of ids; ids unless given.

    Raises:
        ValueError: for a file that cannot be read, or that is not what it is said to be.
    """
    if preset is not None and flags is not None:
        raise ValueError("preset: says what the flags say; give one of --preset and --flags")
    if preset is None and flags is None:
        fitting = fitting_presets(read_weights(file))
        known = f"the presets that fit: {', '.join(fitting)}" if fitting else "no preset fits, so give --flags FILE"
        raise ValueError(f"preset: not given for {file}; {known}")
    chosen = _read_flags(flags) if preset is None else lookup(PRESETS, preset, "preset")
    unet = load_adm(file, chosen)
    schedule = NoiseSchedule(SCHEDULES[chosen.noise_schedule](chosen.diffusion_steps))
    names = class_names or [str(i) for i in range(unet.config.num_classes)]
    return ClassConditionalPipeline.from_parts(unet, schedule, chosen.prediction, names)


def _read_flags(given: Mapping[str, Any]) -> Flags:
    try:
        return Flags.read(given)
    except ValueError as problem:
        raise ValueError(f"flags: {problem}") from None


# ------------------------------------------------------------------------------------------------------------ results


def _write_ours(pipeline: ClassConditionalPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)


def _write_diffusers(pipeline: ClassConditionalPipeline, folder: Path) -> None:
    names = pipeline.class_names
    plain = ClassConditionalPipeline.from_parts(pipeline.unet, pipeline.schedule, pipeline.prediction, names)
    to_unet2d(pipeline.unet).save_pretrained(folder / "unet")
    plain.scheduler.save_pretrained(folder / "scheduler")
    (folder / CLASS_NAMES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


FORMATS = {"ddpm": _write_ours, "diffusers": _write_diffusers}


def _summary(pipeline: ClassConditionalPipeline, out: Path) -> str:
    config = pipeline.unet.config
    parameters = sum(p.numel() for p in pipeline.unet.parameters())
    classes = f"{config.num_classes} classes" if config.num_classes else "no classes"
    null = " and the null class" if config.num_classes and config.null_class else ""
    return (
        f"{out}: {parameters:,} parameters, {classes}{null}, images of {config.in_channels} x {config.resolution} x "
        f"{config.resolution}, {pipeline.schedule.num_timesteps} timesteps, predicts {pipeline.prediction}"
    )


def _usage(pipeline: ClassConditionalPipeline, out: Path) -> str:
    many = " --classes 0,1,2,3" if pipeline.unet.config.num_classes > SHOWN_CLASSES else ""
    folder = shlex.quote(str(out))
    draw = f"draw from it: python scripts/sample.py {folder}{many}"
    try:
        options = training_options(pipeline)
    except ValueError as problem:
        return f"{draw}\nit cannot be fine-tuned: {problem}"
    usual = {f"{name}.{key}": value for name, section in Config().to_dict().items() for key, value in section.items()}
    needed = [f"--{key} {str(value).lower()}" for key, value in options.items() if value != usual[key]]
    train = "python scripts/train.py --data.source FOLDER --train.learning_rate 1e-4"
    return f"{draw}\nfine-tune it: {' '.join([train, f'--model.pretrained {folder}', *needed])}"


def _usage_in_diffusers(pipeline: ClassConditionalPipeline, out: Path) -> str:
    config = pipeline.unet.config
    labels = f"class_labels are the rows of {CLASS_NAMES}, from 0" if config.num_classes else "it takes no class_labels"
    if config.num_classes and config.null_class:
        labels += f", and {config.num_classes} stands for no class"
    if config.out_channels == 2 * config.in_channels:
        labels += "; the second half of the output's channels is the variance"
    return "\n".join(
        [
            f'unet = UNet2DModel.from_pretrained({str(out)!r}, subfolder="unet")',
            f'scheduler = DDIMScheduler.from_pretrained({str(out)!r}, subfolder="scheduler")',
            labels,
        ]
    )
