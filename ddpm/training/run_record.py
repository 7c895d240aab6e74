"""What a run directory says about its run: configuration, history and newest checkpoint."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ddpm.atomic import newest_intact, read_json
from ddpm.config.places import find_places
from ddpm.config.run_folders import is_run
from ddpm.config.sections import Config, flatten
from ddpm.config.yaml_files import prefixed_errors, read_config
from ddpm.training.timeline import Timeline


@dataclass(frozen=True)
class KnownRun:
    """A run that a directory holds.

    Attributes:
        path: the run directory.
        config: the configuration with which it was trained last.
        facts: the content of run.json.
    """

    path: Path
    config: Config
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the run in a directory; None if there is none.

        Raises:
            ValueError: if config.yaml or run.json is damaged.
        """
        config_file, facts_file = path / "config.yaml", path / "run.json"
        if not is_run(path):
            return None
        facts = read_json(facts_file, "id", "data")
        # The copy in run.json shows what was changed by hand in config.yaml; runs of older versions have none.
        if "config" not in facts:
            return cls(path, read_config(config_file), facts)
        with prefixed_errors(facts_file):
            return cls(path, Config().with_options(flatten(facts["config"])), facts)

    @property
    def timeline(self) -> Timeline:
        """The settings of all steps."""
        return Timeline.of(self.config.train, self.facts.get("changes", []))

    def newest_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint; None if there is none. Changes nothing on disk."""
        newest, _ = newest_intact(self.path / "checkpoints")
        return newest


def facts_on_options(config: Config, places: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what run.json says about the options of a run.

    Args:
        config: the configuration.
        places: the places of images that are known already (`ddpm.config.places`).
    """
    return {"config": flatten(config.to_dict()), "places": {**(places or {}), **find_places(config.data)}}


def continue_command(path: Path) -> str:
    """Return the command that continues the run in a directory, from the present working directory."""
    return f"python scripts/train.py --run-dir {shlex.quote(str(path))}"
