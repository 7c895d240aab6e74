"""Where metrics go: metrics.jsonl always; wandb and tensorboard on request. A tracker never ends a run."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from ddpm.atomic import with_path_in_error
from ddpm.config.sections import Config, TrackingConfig


class Tracker(Protocol):
    """Receives what a run has to tell."""

    def log(self, record: dict[str, Any]) -> None:
        """Takes one record of numbers and texts, with its `step`; None is a number that is not known."""

    def image(self, path: Path, step: int) -> None:
        """Takes a sample grid."""

    def close(self) -> None:
        """Finishes."""


class MetricsFile:
    """One JSON line per record, written at once.

    Args:
        path: of the file.
        step: of the checkpoint that the run goes on from; lines after it are dropped, for they will come again.
    """

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
            working = path.with_suffix(".tmp")
            working.write_text("".join(line + "\n" for line in kept))
            working.replace(path)
        self._path = path
        self._file = path.open("a", buffering=1)

    def log(self, record: dict[str, Any]) -> None:
        """Writes one line."""
        with with_path_in_error(self._path):
            self._file.write(json.dumps(record) + "\n")

    def image(self, path: Path, step: int) -> None:
        """Grids are files in the run directory already."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")         # a line cut short by a crash


def has_record(file: Path, step: int, key: str, value: float | str) -> bool:
    """Whether a line of metrics.jsonl says of a step that `key` is `value`."""
    return any(_step(line) == step and json.loads(line).get(key) == value for line in file.read_text().splitlines())


class Wandb:
    """Weights & Biases.

    Args:
        config: its section of the configuration.
        run: the run directory.
        run_id: the same across resumes.
        settings: the run's whole configuration, to be shown beside the curves.
    """

    def __init__(self, config: TrackingConfig, run: Path, run_id: str, settings: dict[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE") or config.wandb
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
            settings=wandb.Settings(init_timeout=30, silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def _reachable_mode(self) -> str:
        """`online` if there is a key and a server that answers; looked up because wandb.init may wait for long."""
        address = urlparse(self._wandb.Settings().base_url)
        try:
            if not self._wandb.api.api_key:
                raise OSError("no API key; run `wandb login`")
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname, port), timeout=5).close()
            return "online"
        except OSError as problem:
            print(f"warning: wandb goes offline: {problem}", file=sys.stderr)
            return "offline"

    def log(self, record: dict[str, Any]) -> None:
        """Sends one record."""
        self._run.log(record)

    def image(self, path: Path, step: int) -> None:
        """Sends a grid."""
        self._run.log({"grid": self._wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        """Finishes the run there."""
        self._run.finish()


class TensorBoard:
    """Event files for tensorboard.

    Args:
        folder: where they go.

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
        """Writes the numbers of one record."""
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(key, value, record["step"])

    def image(self, path: Path, step: int) -> None:
        """Writes a grid."""
        import numpy as np
        from PIL import Image

        self._writer.add_image("grid", np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


class Trackers:
    """All trackers of a run. One that fails is dropped with a warning; the run goes on.

    Args:
        trackers: the first, metrics.jsonl, is the record of the run and may not fail.
    """

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def _each(self, call: str, *args: Any) -> None:
        getattr(self._trackers[0], call)(*args)
        for tracker in self._trackers[1:]:
            try:
                getattr(tracker, call)(*args)
            except Exception as problem:        # of a third party's client: whatever it is, training matters more
                print(f"warning: {type(tracker).__name__} is dropped: {problem}", file=sys.stderr)
                self._trackers.remove(tracker)

    def log(self, record: dict[str, Any]) -> None:
        """To each tracker."""
        self._each("log", record)

    def image(self, path: Path, step: int) -> None:
        """To each tracker."""
        self._each("image", path, step)

    def close(self) -> None:
        """Each tracker."""
        self._each("close")


def open_trackers(config: Config, run: Path, step: int, run_id: str) -> Trackers:
    """Opens what the configuration asks for.

    Args:
        config: the run's.
        run: the run directory.
        step: that the run goes on from.
        run_id: the same across resumes.
    """
    tracking = config.tracking
    trackers: list[Tracker] = [MetricsFile(run / "metrics.jsonl", step)]
    if tracking.tensorboard:
        trackers.append(TensorBoard(run / "tensorboard"))
    if (os.environ.get("WANDB_MODE") or tracking.wandb) not in ("off", "disabled"):
        try:
            trackers.append(Wandb(tracking, run, run_id, config.to_dict()))
        except Exception as problem:            # as above
            print(f"warning: wandb is not used: {problem}", file=sys.stderr)
    return Trackers(trackers)


class Stopwatch:
    """Seconds since the last restart, pauses aside."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def restart(self) -> float:
        """Returns the seconds and starts again."""
        start, self._start = self._start, time.perf_counter()
        return self._start - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count what is done inside."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start
