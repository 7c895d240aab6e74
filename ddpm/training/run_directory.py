"""The run directory: who may write to it, what it was made with, and how it is told from another."""

import fcntl
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any, Self

from ddpm.atomic import appearing
from ddpm.config.sections import Config, differences
from ddpm.config.yaml_files import read_config
from ddpm.io.provenance import git_commit, versions
from ddpm.processes import InUse, acquired


class RunDirectory:
    """A run's files, held by one process at a time.

    The lock is the kernel's: it ends with the process, however that ends.

    Args:
        path: the directory; made if it does not exist.

    Raises:
        InUse: if another process is using it.
        OSError: if it may not be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / ".lock").open("a+")
        if not acquired(self._lock, fcntl.LOCK_EX):
            self._lock.seek(0)
            raise InUse(
                f"{path}: in use by {self._lock.read().strip() or 'another process'}; wait for it, or name another "
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
        """Writes config.yaml and run.json, or checks that they are of the same run.

        Args:
            config: the resolved configuration.
            facts: what identifies the run beside it; `data` must not change when it goes on.

        Returns:
            run.json as it stands.

        Raises:
            ValueError: if the directory holds a run of another configuration, or on other data; names the keys.
        """
        config_file, facts_file = self.path / "config.yaml", self.path / "run.json"
        if facts_file.exists() and config_file.exists():
            different = differences(read_config(config_file), config)
            if different:
                listed = ", ".join(f"{key} ({old} there, {new} now)" for key, (old, new) in different.items())
                raise ValueError(f"{self.path}: holds a run with other settings: {listed}; name another with --run-dir")
            known = json.loads(facts_file.read_text())
            if known["data"]["fingerprint"] != facts["data"]["fingerprint"]:
                raise ValueError(
                    f"{self.path}: holds a run on other data ({known['data']['summary']} there, "
                    f"{facts['data']['summary']} now); name another with --run-dir"
                )
            return known
        if any((self.path / "checkpoints").glob("step_*")):
            missing = config_file.name if facts_file.exists() else facts_file.name
            raise ValueError(f"{self.path}: holds checkpoints but no {missing}; restore it, or change --run-dir")
        facts = {"id": secrets.token_hex(4), **facts, "versions": versions(), "git_commit": git_commit()}
        with appearing(config_file) as file:
            file.write(f"# scripts/train.py --config {config_file}\n{config.to_yaml()}".encode())
        with appearing(facts_file) as file:
            file.write((json.dumps(facts, indent=2) + "\n").encode())
        return facts
