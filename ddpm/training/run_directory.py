"""The run directory: locked by one process at a time, with the configuration and the facts of its run."""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator

from ddpm.atomic import read_json, write_json, write_text
from ddpm.config.sections import Config, differences
from ddpm.config.yaml_files import read_config
from ddpm.io.provenance import git_commit, versions
from ddpm.processes import InUse, acquire_lock, on_main


@contextmanager
def hold_run_directory(
    accelerator: Accelerator, path: Path, config: Config, facts: dict[str, Any]
) -> Iterator[str | None]:
    """Hold a run directory while a run trains into it; all processes call this.

    Args:
        accelerator: the processes.
        path: the directory; created if it does not exist.
        config: the run's configuration.
        facts: as in `RunDirectory.begin`.

    Yields:
        The identifier of the run on the main process, None on the others.

    Raises:
        ValueError: if another process holds the directory, or it belongs to another run.
    """
    directory = on_main(accelerator, lambda: RunDirectory(path))
    with directory or nullcontext():
        yield on_main(accelerator, lambda: directory.begin(config, facts)["id"])


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
                f"{path}: in use by {self._lock.read().strip() or 'another process'}; wait for it, or choose another "
                "directory with --run-dir"
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    def begin(self, config: Config, facts: dict[str, Any]) -> dict[str, Any]:
        """Write config.yaml and run.json, or check that the existing files belong to the same run.

        Args:
            config: the resolved configuration.
            facts: further facts for run.json; `data` must be the same when a run is resumed.

        Returns:
            The content of run.json.

        Raises:
            ValueError: if the directory holds a run with another configuration or other data; names the keys.
        """
        config_file, facts_file = self.path / "config.yaml", self.path / "run.json"
        if facts_file.exists() and config_file.exists():
            different = differences(read_config(config_file), config)
            if different:
                listed = ", ".join(f"{key} ({old} there, {new} now)" for key, (old, new) in different.items())
                raise ValueError(
                    f"{self.path}: holds a run with other settings: {listed}; choose another directory with --run-dir"
                )
            known = read_json(facts_file, "id", "data")
            if known["data"].get("fingerprint") != facts["data"]["fingerprint"]:
                raise ValueError(
                    f"{self.path}: holds a run on other data ({known['data'].get('summary')} there, "
                    f"{facts['data']['summary']} now); choose another directory with --run-dir"
                )
            return known
        if (self.path / "study.json").exists():
            raise ValueError(f"{self.path}: is the directory of a study; choose another directory with --run-dir")
        if any((self.path / "checkpoints").glob("step_*")):
            missing = config_file.name if facts_file.exists() else facts_file.name
            raise ValueError(f"{self.path}: holds checkpoints but no {missing}; restore it, or change --run-dir")
        facts = {"id": secrets.token_hex(4), **facts, "versions": versions(), "git_commit": git_commit()}
        write_text(config_file, f"# scripts/train.py --config {config_file}\n{config.to_yaml()}")
        write_json(facts_file, facts)
        return facts
