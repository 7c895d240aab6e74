"""The run directory: locked by one process at a time, with the configuration and the facts of its run."""

import fcntl
import os
import secrets
import shlex
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator

from ddpm.atomic import list_checkpoints, step_of, write_json, write_text
from ddpm.config.run_folders import name_near_runs, run_of, runs_in
from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.data.folders.scan import IMAGE_SUFFIXES
from ddpm.data.overview import data_facts
from ddpm.io.provenance import git_commit, versions
from ddpm.processes import InUse, acquire_lock, broadcast_from_main, on_main, warn
from ddpm.training.checkpoint import find_checkpoint
from ddpm.training.continuation import plan_continuation
from ddpm.training.run_record import KnownRun, continue_command, facts_on_options
from ddpm.training.timeline import Timeline
from ddpm.training.tracking import last_step

ANOTHER = "choose another directory with --run-dir"
SEARCHED = 1000         # number of files in a folder among which images are looked for
# Files by which directories are recognized that are not those of a run; what they are, and what to do.
OTHER_DIRECTORIES = {
    "model_index.json": (
        "a pipeline, which has no state of training", "start from its weights with --model.pretrained {path}; "
    ),
    "evaluation.json": ("an evaluation", ""),
    "samples.json": ("a folder of drawn images", "train on them with --data.source {path}; "),
}


@contextmanager
def hold_run_directory(
    accelerator: Accelerator,
    path: Path,
    config: Config,
    data: ImageData,
    facts: dict[str, Any],
    allowed: Collection[str] = (),
) -> Iterator[tuple[str | None, Timeline, Path | None]]:
    """Hold a run directory while a run trains into it; all processes call this.

    Args:
        accelerator: the processes.
        path: the directory; created if it does not exist.
        config: the run's configuration.
        data: its images.
        facts: as in `RunDirectory.begin`.
        allowed: options that may change although they affect the result.

    Yields:
        The identifier of the run on the main process, None on the others; the settings of all its steps; and the
        checkpoint from which it continues, None at its start.

    Raises:
        ValueError: if another process holds the directory, or the run in it cannot continue in this way.
    """
    directory = on_main(accelerator, lambda: RunDirectory(path))
    with directory or nullcontext():
        checkpoint = broadcast_from_main(accelerator, lambda: find_checkpoint(path / "checkpoints"))
        run = on_main(accelerator, lambda: directory.begin(config, data, facts, allowed, step_of(checkpoint)))
        timeline = broadcast_from_main(accelerator, lambda: run.timeline)
        yield None if run is None else run.facts["id"], timeline, checkpoint


class RunDirectory:
    """The files of a run, locked by one process at a time; the kernel releases the lock when the process ends.

    Args:
        path: the directory; created if it does not exist.

    Raises:
        InUse: if another process is using it.
        OSError: if it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / ".lock").open("a+")
        if not acquire_lock(self._lock, fcntl.LOCK_EX):
            self._lock.seek(0)
            raise InUse(
                f"{path}: in use by {self._lock.read().strip() or 'another process'}; wait for it, or {ANOTHER}"
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    def begin(
        self, config: Config, data: ImageData, facts: dict[str, Any], allowed: Collection[str] = (), done: int = 0
    ) -> KnownRun:
        """Begin a run, or continue the run that the directory holds; print and record what changes.

        Args:
            config: the configuration.
            data: the images.
            facts: further facts for run.json.
            allowed: options that may change although they affect the result.
            done: number of steps that the run has made.

        Returns:
            The run as it continues.

        Raises:
            ValueError: if the directory holds a run that cannot continue in this way; names the options.
        """
        known = KnownRun.read(self.path)
        if known is None:
            facts = {"id": secrets.token_hex(4), "data": data_facts(data), **facts}
            facts |= {"versions": versions(), "git_commit": git_commit(), **facts_on_options(config), "changes": []}
            run = KnownRun(self.path, config, facts)
        else:
            run, lines, warnings = plan_continuation(known, config, data, allowed, done)
            for line in lines:
                print(line)
            warn(*warnings)
        self._write(run, known)
        return run

    def _write(self, run: KnownRun, known: KnownRun | None) -> None:
        """Write config.yaml and run.json if they are not up to date.

        config.yaml comes first: if the process is killed between the two, the same command makes the change again.
        """
        file, command = self.path / "config.yaml", " ".join(continue_command(self.path).splitlines())
        text = f"# {command}\n{run.config.to_yaml()}"
        if not file.is_file() or file.read_bytes() != text.encode():        # not parsed, because it may be damaged
            write_text(file, text)
        if known is None or run.facts != known.facts:
            write_json(self.path / "run.json", run.facts)


def check_run_directory(path: Path, source: str, continues: bool = False) -> None:
    """Check that a directory can be that of a run, before anything is written.

    Args:
        path: the directory; it need not exist.
        source: the option data.source.
        continues: whether it must hold a run.

    Raises:
        ValueError: if it holds something else or no run, or one without its checkpoints, or lies within the images.
    """
    problem = _find_problem(path, source, continues)
    if problem is not None:
        raise ValueError(f"run_dir: {path} {problem}")


def _find_problem(path: Path, source: str, continues: bool) -> str | None:
    """Return what is wrong with a directory, and what to do; None if it can be that of a run."""
    quoted, run = shlex.quote(str(path)), run_of(path)
    if run is not None and run.resolve() != path.resolve():
        return f"is a part of the run {run}; give --run-dir {shlex.quote(str(run))}, or {ANOTHER}"
    if run is not None:
        return _describe_lost_checkpoints(path)
    if (path / "study.json").exists():
        return f"is the directory of a study, which scripts/ablate.py continues; {ANOTHER}"
    if (problem := find_other_use(path, source)) is not None or not continues:
        return problem
    if (path / "config.yaml").is_file():
        return (
            "holds a configuration, but no run that could continue; begin it with --config "
            f"{shlex.quote(str(path / 'config.yaml'))} --run-dir {quoted}"
        )
    return (
        f"{'holds no run' if path.exists() else 'does not exist, so there is no run'} that could continue; for a new "
        f"run, say what it trains on, without --allow-change: --data.source FOLDER --run-dir {quoted}, or --config "
        f"configs/digits.yaml --run-dir {quoted}{name_near_runs(path)}"
    )


def find_other_use(path: Path, source: str) -> str | None:
    """Return why a directory without a run or a study cannot become that of one, and what to do; None if it can.

    Args:
        path: the directory.
        source: the option data.source.
    """
    if path.exists() and not path.is_dir():
        return f"is a file; {ANOTHER}"
    images = Path(os.path.expanduser(source))
    if images.is_dir() and path.resolve().is_relative_to(images.resolve()):
        apart = Path("runs", images.resolve().name or "images")
        if apart.resolve().is_relative_to(images.resolve()):        # the working directory is the folder of images
            apart = images.resolve().parent / apart
        return f"is in the folder of images {source}, so its pictures would be read as data; {ANOTHER}, such as {apart}"
    if (facts := path / "run.json").is_file():
        return f"holds a run without its config.yaml; restore it (its options are in {facts}), or {ANOTHER}"
    if list_checkpoints(path / "checkpoints"):
        return f"holds checkpoints but no run.json; restore it, or {ANOTHER}"
    quoted = shlex.quote(str(path))
    for file, (kind, remedy) in OTHER_DIRECTORIES.items():
        if (path / file).exists():
            return f"is {kind}; {remedy.format(path=quoted)}{ANOTHER}"
    if runs := runs_in(path):
        one = shlex.quote(str(runs[0]))
        return f"is a folder of runs; {ANOTHER}, or continue one of them with scripts/train.py --run-dir {one}"
    if (found := next(_images_in(path), None)) is not None:
        named = found.relative_to(path)
        return f"is a folder of images, such as {named}; give it as --data.source {quoted}, and {ANOTHER}"
    return None


def _describe_lost_checkpoints(path: Path) -> str | None:
    """Return what to do about a run whose checkpoints were removed, because it would begin again; None for others.

    A run that was interrupted before its first checkpoint has none to lose.
    """
    run, checkpoints = KnownRun.read(path), path / "checkpoints"
    damaged = any(any(checkpoints.glob(f"{prefix}step_*")) for prefix in ("damaged_", "."))     # or half written
    if run is None or damaged or list_checkpoints(checkpoints):
        return None
    changed = [change["step"] for change in run.facts.get("changes", [])]
    made = max([last_step(path / "metrics.jsonl"), *changed])
    has_pipeline = (path / "pipeline" / "model_index.json").is_file()
    # A step is logged before its checkpoint is saved. If the first one failed, which leaves an empty folder, the run
    # went on to the step of the second.
    without = (2 if checkpoints.is_dir() else 1) * run.config.train.checkpoint_every
    if not (has_pipeline or any(changed) or made > without):
        return None
    weights = f", from the weights of this run with --model.pretrained {shlex.quote(str(path / 'pipeline'))}"
    return (
        f"has made {made} steps, but its checkpoints are missing; restore them in {checkpoints}, or begin again in "
        f"another directory with --config {shlex.quote(str(path / 'config.yaml'))} --run-dir OTHER"
        f"{weights if has_pipeline else ''}"
    )


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield images among the first files of a folder and its subfolders."""
    for number, file in enumerate(folder.rglob("*")):
        if number == SEARCHED:
            return
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield file
