"""Which folders are run directories, which run is meant by a path that is none, and options of a run for commands."""

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddpm.atomic import read_json
from ddpm.config.commands import ModelSamplingOptions
from ddpm.config.places import resolve_path, with_places
from ddpm.config.sections import DataConfig, SampleConfig
from ddpm.config.values import field_types
from ddpm.config.yaml_files import read_config
from ddpm.names import nearest_name

LISTED_RUNS = 5         # maximum number of runs that a message lists


def is_run(path: Path) -> bool:
    """Return whether a path is a run directory."""
    return (path / "config.yaml").is_file() and (path / "run.json").is_file()


def run_of(path: Path) -> Path | None:
    """Return the run directory that `path` is or lies in, as a checkpoint does; None if there is none."""
    near = (path, *path.parents[:3], *path.absolute().parents[:3])      # named as the path is, if that is possible
    return next((folder for folder in near if is_run(folder)), None)


def runs_in(folder: Path) -> list[Path]:
    """Return the run directories in a folder, by name."""
    return [path for path in sorted(folder.iterdir()) if is_run(path)] if folder.is_dir() else []


def name_near_runs(path: Path) -> str:
    """Return the end of a message about a path that is no run: which run is probably meant, or which runs there are."""
    run = run_of(path)
    if run is not None:
        return f"; did you mean the run {run}?"
    runs = runs_in(path)
    if not runs:
        runs = [run for folder in dict.fromkeys((path.parent, Path("runs"))) for run in runs_in(folder)]
        by_name = {run.name: run for run in reversed(runs)}         # those beside the path come first
        if (near := nearest_name(path.name, by_name)) is not None:
            return f"; did you mean {by_name[near]}?"
    return f"; there are the runs {', '.join(map(str, runs[:LISTED_RUNS]))}" if runs else ""


def read_data_options(run: Path) -> DataConfig:
    """Return the section `data` of the run in a directory, with paths that lead to its images from here.

    Raises:
        ValueError: if a file is damaged.
    """
    return with_places(read_config(run / "config.yaml").data, read_json(run / "run.json").get("places", {}))


def with_places_of_run(options: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the options in a configuration file with paths that lead to the images from here, if it is that of a run.

    Args:
        options: the content of the file, by names such as `data.source`.
        file: the file.
    """
    if not is_run(file.parent):
        return options
    with suppress(ValueError, OSError):         # run.json may be damaged
        places = read_json(file.parent / "run.json").get("places", {})
        for key in ("data.source", "data.labels"):
            if isinstance(path := options.get(key), str):
                options = options | {key: resolve_path(path, places, prefer_typed=True)}
    return options


def sample_settings(options: ModelSamplingOptions) -> SampleConfig:
    """Return the `sample` section of the run that the model belongs to, if any, with the given options replaced.

    Raises:
        ValueError: if a value is out of range.
    """
    run = run_of(options.model)
    defaults = SampleConfig() if run is None else read_config(run / "config.yaml").sample
    names = field_types(SampleConfig)
    given = {key: value for key, value in vars(options).items() if key in names and value is not None}
    return dataclasses.replace(defaults, **given)
