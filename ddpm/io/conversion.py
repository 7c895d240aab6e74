"""The conversions of scripts/convert.py: from other programs' models to pipelines, and from pipelines to diffusers."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddpm import __version__
from ddpm.atomic import MANIFEST, digests, find_damage, write_directory_atomically, write_json
from ddpm.config.commands import ConvertCommand
from ddpm.config.sections import Config
from ddpm.data.labels.class_ids import check_distinct
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.adm import describe_matching_presets, load_adm, read_weights
from ddpm.io.adm_flags import PRESETS, Flags
from ddpm.io.diffusers_folder import read_folder
from ddpm.io.pipelines import load_pipeline
from ddpm.io.pretrained import training_options
from ddpm.io.unet2d import to_unet2d
from ddpm.names import did_you_mean_path
from ddpm.pipeline import ClassConditionalPipeline

CONVERSION_RECORD = "conversion.json"           # describes a conversion; only this command writes it
CLASS_NAMES_FILE = "class_names.txt"
SHOWN_CLASSES = 16                  # with more classes, the suggested command samples only a few


def convert(command: ConvertCommand, flags: Mapping[str, Any] | None = None) -> None:
    """Convert a model and print how to use the result.

    Args:
        command: its `model` is a file of weights of guided-diffusion or improved-diffusion; a folder of a UNet2DModel,
            or of a diffusers pipeline with one; or, with `to="diffusers"`, a run directory, one of its checkpoints, or
            a pipeline. The output directory is written atomically.
        flags: the content of the file `command.flags`, as for `Flags.read`.

    Raises:
        ValueError: for a model that cannot be read or converted, options that do not apply to it, or an output
            directory with other content.
    """
    model, out = command.model, command.out
    if not model.exists():
        raise ValueError(f"{model}: no such file or folder{did_you_mean_path(model) or '; give one that exists'}")
    _check_out(out, model)
    what = "a model of this program"
    if command.to != "diffusers":
        what = "a file of weights" if model.is_file() else "a UNet2DModel"
    read, known = _SOURCES[what]
    options = {**vars(command), "flags": flags, "null_class": command.null_class or None}
    given = {name: options[name] for name in _OPTIONS if options[name] is not None}
    for name in given:
        if name not in known:
            raise ValueError(f"{name}: does not apply to {what}; omit --{name.replace('_', '-')}")
    given.pop("class_names", None)          # the names are in the result
    record = {"from": str(model), "to": command.to, "options": given, "adagn-ddpm": __version__}
    names = None if command.class_names is None else _read_names(command.class_names)
    pipeline = read(model, **given, **({} if names is None else {"class_names": names}))
    count = pipeline.unet.config.num_classes
    if names is not None and len(names) != count:
        raise ValueError(f"class_names: {command.class_names} has {len(names)} names; the model has {count} classes")

    def fill(folder: Path) -> None:
        CONVERSION_TARGETS[command.to](pipeline, folder)
        write_json(folder / CONVERSION_RECORD, record)

    write_directory_atomically(out, fill)
    print(_summary(pipeline, out))
    print(_usage(pipeline, out) if command.to == "ddpm" else _usage_in_diffusers(pipeline, out))


def _check_out(out: Path, model: Path) -> None:
    """Refuse to overwrite the model, or anything that is not an earlier conversion."""
    if model.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"out: {out} contains the model to convert; choose another directory")
    if out.is_file():
        raise ValueError(f"out: {out} is a file; choose a directory")
    if out.is_dir() and any(out.iterdir()):
        files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        written = {*digests(out), MANIFEST}
        if find_damage(out) is not None or CONVERSION_RECORD not in written or not files <= written:
            raise ValueError(f"out: {out} contains other files than an earlier conversion; choose another directory")


def _read_names(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"class_names: {file} is not a UTF-8 text file") from None
    check_distinct(names, f"class_names: {file}")
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
        matching = describe_matching_presets(read_weights(file))
        raise ValueError(f"preset: required for {file}, or --flags FILE; {matching}")
    try:
        chosen = PRESETS[preset] if preset is not None else Flags.read(flags or {})
    except ValueError as problem:
        raise ValueError(f"flags: {problem}") from None
    unet = load_adm(file, chosen)
    schedule = NoiseSchedule(SCHEDULES[chosen.noise_schedule](chosen.diffusion_steps))
    names = class_names or [str(i) for i in range(unet.config.num_classes)]
    return ClassConditionalPipeline.from_parts(unet, schedule, chosen.prediction, names)


def _write_diffusers(pipeline: ClassConditionalPipeline, folder: Path) -> None:
    names = pipeline.class_names
    plain = ClassConditionalPipeline.from_parts(pipeline.unet, pipeline.schedule, pipeline.prediction, names)
    to_unet2d(pipeline.unet).save_pretrained(folder / "unet")
    plain.scheduler.save_pretrained(folder / "scheduler")
    (folder / CLASS_NAMES_FILE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


CONVERSION_TARGETS: dict[str, Callable[[ClassConditionalPipeline, Path], None]] = {
    "ddpm": ClassConditionalPipeline.save_pretrained,
    "diffusers": _write_diffusers,
}

_SOURCES: dict[str, tuple[Callable[..., ClassConditionalPipeline], tuple[str, ...]]] = {       # and their options
    "a model of this program": (load_pipeline, ()),
    "a file of weights": (read_weights_file, ("preset", "flags", "class_names")),
    "a UNet2DModel": (read_folder, ("class_names", "null_class", "schedule", "num_timesteps", "prediction")),
}
_OPTIONS = dict.fromkeys(option for _, options in _SOURCES.values() for option in options)


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
    labels = f"class_labels are row numbers of {CLASS_NAMES_FILE}, from 0" if config.num_classes else "no class_labels"
    if config.num_classes and config.null_class:
        labels += f", and {config.num_classes} means no class"
    if config.out_channels == 2 * config.in_channels:
        labels += "; the second half of the output channels is the variance"
    return (
        f'unet = UNet2DModel.from_pretrained({str(out)!r}, subfolder="unet")\n'
        f'scheduler = DDIMScheduler.from_pretrained({str(out)!r}, subfolder="scheduler")\n{labels}'
    )
