"""Experiment tracking: metrics.jsonl, and optionally wandb and tensorboard, whose errors never end a run."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ddpm.atomic import with_path_in_error, write_text
from ddpm.config.sections import Config, TrackingConfig
from ddpm.processes import warn

EVALUATION_PREFIX = "evaluation/"                   # of the keys of metrics that were measured during training
SPEED = ("images_per_s", "memory_gb", "mfu")         # keys of what differs between two equal runs
EVALUATION_SETTINGS = "evaluation/settings"         # key of the digest of the settings that these metrics depend on


class MetricsFile:
    """A file with one JSON line per record, written immediately.

    Args:
        path: path of the file.
        step: step from which the run continues; records of later steps are removed, because they will be logged again.
    """

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
            write_text(path, "".join(line + "\n" for line in kept))
        self._path = path
        self._file = path.open("a", buffering=1)

    def log(self, record: dict[str, Any]) -> None:
        """Write one line."""
        with with_path_in_error(self._path):
            self._file.write(json.dumps(record) + "\n")

    def image(self, path: Path, step: int, name: str = "grid") -> None:
        """Do nothing: pictures are files in the run directory."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")         # a line truncated by a crash


def last_step(file: Path) -> int:
    """Return the last step that metrics.jsonl has a record of; 0 if there is none."""
    steps = [_step(line) for line in file.read_text().splitlines()] if file.exists() else []
    return int(max((step for step in steps if step < float("inf")), default=0))


def has_record(file: Path, step: int, key: str, value: float | str) -> bool:
    """Return whether metrics.jsonl has a record of a step in which `key` is `value`."""
    return any(_step(line) == step and json.loads(line).get(key) == value for line in file.read_text().splitlines())


class Wandb:
    """Weights & Biases.

    Args:
        config: the options of tracking.
        run: the run directory.
        run_id: identifier of the run, the same after every resume.
        settings: the run's configuration, shown with the curves.
    """

    def __init__(self, config: TrackingConfig, run: Path, run_id: str, settings: dict[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE") or config.wandb        # wandb checks the value
        if mode == "online":
            mode = self._reachable_mode()
        self._run = wandb.init(
            project=config.wandb_project,
            name=run.name,
            id=run_id,
            resume="allow",
            dir=run,
            mode=mode,
            config=settings,
            allow_val_change=True,          # a run may continue with other settings
            settings=wandb.Settings(init_timeout=30, silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def _reachable_mode(self) -> str:
        """Return `online` if there is an API key and the server answers; wandb.init may wait for long."""
        address = urlparse(self._wandb.Settings().base_url)
        try:
            if not self._wandb.api.api_key:
                raise OSError("no API key; run `wandb login`")
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname, port), timeout=5).close()
            return "online"
        except OSError as problem:
            warn(f"wandb is used offline: {problem}")
            return "offline"

    def log(self, record: dict[str, Any]) -> None:
        """Send one record."""
        self._run.log(record)

    def image(self, path: Path, step: int, name: str = "grid") -> None:
        """Send a picture."""
        self._run.log({name: self._wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        """Finish the wandb run."""
        self._run.finish()


class TensorBoard:
    """Event files of TensorBoard.

    Args:
        folder: folder of the files.

    Raises:
        ValueError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "tracking.tensorboard: tensorboard is not installed; run `pip install 'adagn-ddpm[tensorboard]'`"
            ) from None
        self._writer = SummaryWriter(str(folder))

    def log(self, record: dict[str, Any]) -> None:
        """Write the numbers of one record."""
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(key, value, record["step"])

    def image(self, path: Path, step: int, name: str = "grid") -> None:
        """Write a picture."""
        import numpy as np
        from PIL import Image

        self._writer.add_image(name, np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending and close the files."""
        self._writer.close()


Tracker = MetricsFile | Wandb | TensorBoard


class Trackers:
    """All trackers of a run. An error of metrics.jsonl ends the run; any other tracker is dropped with a warning.

    Args:
        trackers: the trackers; empty on all processes except the main process.
    """

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def _call(self, method: str, *args: Any) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*args)
            except Exception as problem:        # clients of other services can raise anything, and training goes on
                if isinstance(tracker, MetricsFile):
                    raise
                warn(f"{type(tracker).__name__} is dropped: {problem}")
                self._trackers.remove(tracker)

    def log(self, record: dict[str, Any]) -> None:
        """Log a record of numbers and strings with its `step` to all trackers; None is an unknown number."""
        self._call("log", record)

    def image(self, path: Path, step: int, name: str = "grid") -> None:
        """Log a picture to all trackers: a sample grid, or another one by its name."""
        self._call("image", path, step, name)

    def close(self) -> None:
        """Close all trackers."""
        self._call("close")


def open_trackers(config: Config, run: Path, step: int, run_id: str | None) -> Trackers:
    """Open the configured trackers on the main process, and none on the others.

    Args:
        config: the run's configuration.
        run: the run directory.
        step: step from which the run continues.
        run_id: identifier of the run, the same after every resume; None except on the main process.
    """
    if run_id is None:
        return Trackers([])
    tracking = config.tracking
    trackers: list[Tracker] = [MetricsFile(run / "metrics.jsonl", step)]
    if tracking.tensorboard:
        trackers.append(TensorBoard(run / "tensorboard"))
    if (os.environ.get("WANDB_MODE") or tracking.wandb) not in ("off", "disabled"):
        try:
            trackers.append(Wandb(tracking, run, run_id, config.to_dict()))
        except Exception as problem:            # as in Trackers
            warn(f"wandb is not used: {problem}")
    return Trackers(trackers)


class Stopwatch:
    """Measures the seconds since the last restart, without pauses."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def restart(self) -> float:
        """Return the seconds and start again."""
        start, self._start = self._start, time.perf_counter()
        return self._start - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside the context."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start
