"""The conversions of scripts/convert.py: from other programs' models to pipelines, and from pipelines to diffusers."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm import __version__
from ddpm.atomic import MANIFEST, digests, find_damage, write_directory_atomically, write_json
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

RECORD = "conversion.json"          # describes a conversion; only this command writes it
CLASS_NAMES = "class_names.txt"
SHOWN_CLASSES = 16                  # with more classes, the suggested command samples only a few


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
    """Convert a model and print how to use the result.

    Args:
        model: a file of weights of guided-diffusion or improved-diffusion; a folder of a UNet2DModel, or of a diffusers
            pipeline with one; or, with `to="diffusers"`, a run directory, one of its checkpoints, or a pipeline.
        out: directory of the result, written atomically.
        to: an entry of FORMATS.
        preset: the released model that a file of weights contains, an entry of PRESETS.
        flags: the training flags of the model in a file of weights, as for `Flags.read`.
        class_names: a file of one class name per line; ids by default.
        null_class: whether the last class embedding of a UNet2DModel means "no class".
        schedule: noise schedule of a UNet2DModel without a scheduler, an entry of SCHEDULES.
        num_timesteps: its number of steps T; 1000 by default.
        prediction: its prediction type, an entry of PREDICTIONS.

    Raises:
        ValueError: for a model that cannot be read or converted, options that do not apply to it, or an `out` with
            other content.
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
            raise ValueError(f"{name}: does not apply to {what}; omit --{name.replace('_', '-')}")
    pipeline = read(model, **given)
    count, names = pipeline.unet.config.num_classes, given.get("class_names")
    if names is not None and len(names) != count:
        raise ValueError(f"class_names: {class_names} has {len(names)} names, and the model has {count} classes")
    given.pop("class_names", None)          # part of the result
    record = {"from": str(model), "to": to, "options": given, "adagn-ddpm": __version__}

    def fill(folder: Path) -> None:
        write(pipeline, folder)
        write_json(folder / RECORD, record)

    write_directory_atomically(out, fill)
    print(_summary(pipeline, out))
    print(_usage(pipeline, out) if to == "ddpm" else _usage_in_diffusers(pipeline, out))


def _check_out(out: Path, model: Path) -> None:
    """Refuse to overwrite the model, or anything that is not an earlier conversion."""
    if model.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"out: {out} contains the model to convert; choose another directory")
    if out.is_file():
        raise ValueError(f"out: {out} is a file; choose a directory")
    if out.is_dir() and any(out.iterdir()):
        files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        if find_damage(out) is not None or RECORD not in digests(out) or not files <= {*digests(out), MANIFEST}:
            raise ValueError(f"out: {out} contains other files than an earlier conversion; choose another directory")


def _read_names(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"class_names: {file} is not a UTF-8 text file") from None
    duplicate = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if duplicate is not None:
        raise ValueError(f"class_names: {file} contains {duplicate!r} twice; give every class a different name")
    return names


def read_weights_file(
    file: Path,
    preset: str | None = None,
    flags: Mapping[str, Any] | None = None,
    class_names: list[str] | None = None,
) -> ClassConditionalPipeline:
    """Read the weights of a released model, or of one trained with the reference scripts.

    Args:
        file: as for `ddpm.io.adm.load_adm`.
        preset: which released model it is, an entry of PRESETS.
        flags: or its training flags, as for `Flags.read`.
        class_names: in the order of ids; ids by default.

    Raises:
        ValueError: for a file that cannot be read, or that does not match `preset` or `flags`.
    """
    if preset is not None and flags is not None:
        raise ValueError("preset: conflicts with flags; use either --preset or --flags")
    if preset is None and flags is None:
        fitting = fitting_presets(read_weights(file))
        known = f"matching presets: {', '.join(fitting)}" if fitting else "no preset matches; use --flags FILE"
        raise ValueError(f"preset: required for {file}; {known}")
    try:
        chosen = lookup(PRESETS, preset, "preset") if flags is None else Flags.read(flags)
    except ValueError as problem:
        raise ValueError(f"flags: {problem}" if preset is None else str(problem)) from None
    unet = load_adm(file, chosen)
    schedule = NoiseSchedule(SCHEDULES[chosen.noise_schedule](chosen.diffusion_steps))
    names = class_names or [str(i) for i in range(unet.config.num_classes)]
    return ClassConditionalPipeline.from_parts(unet, schedule, chosen.prediction, names)


def _write_diffusers(pipeline: ClassConditionalPipeline, folder: Path) -> None:
    names = pipeline.class_names
    plain = ClassConditionalPipeline.from_parts(pipeline.unet, pipeline.schedule, pipeline.prediction, names)
    to_unet2d(pipeline.unet).save_pretrained(folder / "unet")
    plain.scheduler.save_pretrained(folder / "scheduler")
    (folder / CLASS_NAMES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


FORMATS = {"ddpm": ClassConditionalPipeline.save_pretrained, "diffusers": _write_diffusers}


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
    draw = f"sample: python scripts/sample.py {folder}{many}"
    try:
        options = training_options(pipeline)
    except ValueError as problem:
        return f"{draw}\nfine-tuning is not possible: {problem}"
    usual = {f"{name}.{key}": value for name, section in Config().to_dict().items() for key, value in section.items()}
    needed = [f"--{key} {str(value).lower()}" for key, value in options.items() if value != usual[key]]
    train = "python scripts/train.py --data.source FOLDER --train.learning_rate 1e-4"
    return f"{draw}\nfine-tune: {' '.join([train, f'--model.pretrained {folder}', *needed])}"


def _usage_in_diffusers(pipeline: ClassConditionalPipeline, out: Path) -> str:
    config = pipeline.unet.config
    labels = f"class_labels are row numbers of {CLASS_NAMES}, from 0" if config.num_classes else "no class_labels"
    if config.num_classes and config.null_class:
        labels += f", and {config.num_classes} means no class"
    if config.out_channels == 2 * config.in_channels:
        labels += "; the second half of the output channels is the variance"
    return (
        f'unet = UNet2DModel.from_pretrained({str(out)!r}, subfolder="unet")\n'
        f'scheduler = DDIMScheduler.from_pretrained({str(out)!r}, subfolder="scheduler")\n{labels}'
    )
