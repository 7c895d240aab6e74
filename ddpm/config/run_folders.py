"""Which folders are run directories, and which run is meant by a path that is none."""

from pathlib import Path

from ddpm.names import did_you_mean

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
    inside = runs_in(path)
    beside = [run for folder in dict.fromkeys((path.parent, Path("runs"))) for run in runs_in(folder)]
    found = [str(run) for run in inside or beside]
    near = "" if inside else did_you_mean(str(path), found)
    return near or (f"; there are the runs {', '.join(found[:LISTED_RUNS])}" if found else "")
