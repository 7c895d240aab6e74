"""Files of a configuration, and of the flags of foreign models."""

import dataclasses
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from ddpm.cli.parser import Parser, add_sections, to_config
from ddpm.config.commands import Drawing
from ddpm.config.sections import Config, SampleConfig


def read_config(path: Path) -> Config:
    """Reads a configuration file.

    Raises:
        ValueError: if it is not one.
    """
    parser = Parser(exit_on_error=False)
    add_sections(parser)
    try:
        return to_config(parser.instantiate(parser.parse_path(str(path))))
    except (ValueError, jsonargparse.ArgumentError) as problem:
        raise ValueError(f"{path}: cannot be read as a configuration: {' '.join(str(problem).split())}") from problem


def run_of(path: Path) -> Path | None:
    """The run directory that a path is, or is in, such as that of a checkpoint; None if it is in none."""
    near = (path, *path.absolute().parents[:3])
    return next((f for f in near if (f / "config.yaml").is_file() and (f / "run.json").is_file()), None)


def sample_settings(drawing: Drawing) -> SampleConfig:
    """The `sample` section of the run that the model is from, if any, with what the command line gives.

    Raises:
        ValueError: if a value is out of range.
    """
    run = run_of(drawing.model)
    return with_options(SampleConfig() if run is None else read_config(run / "config.yaml").sample, drawing)


def with_options(defaults: SampleConfig, drawing: Drawing) -> SampleConfig:
    """Settings with what a command line gives in place of the defaults."""
    names = {f.name for f in dataclasses.fields(SampleConfig)}
    given = {key: value for key, value in vars(drawing).items() if key in names and value is not None}
    return dataclasses.replace(defaults, **given)


def read_flags(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file of the flags that a foreign model was trained with.

    Raises:
        ValueError: if it holds something else than names and values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ValueError(f"flags: {path} cannot be read: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"flags: {path} holds no names and values, as image_size: 64")
    return {str(name): value for name, value in content.items()}
