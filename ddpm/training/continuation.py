"""Continuing a run: what may change, from which step, and what is recorded about it."""

import json
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ddpm.atomic import newest_intact, read_json
from ddpm.config.changes import READING, all_differences, another_run, differences, fill_nulls, reason_against
from ddpm.config.sections import Config, flatten
from ddpm.config.yaml_files import prefixed_errors, read_config
from ddpm.data import ImageData
from ddpm.data.overview import data_facts
from ddpm.io.provenance import git_commit, versions
from ddpm.training.derived_options import derive_config
from ddpm.training.optim import learning_rate
from ddpm.training.timeline import Timeline

DATA = "data.source"        # allows other images


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
        if not (config_file.is_file() and facts_file.is_file()):
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

    def complete(self, config: Config) -> Config:
        """Return a configuration with the values of this run where it has null, which stands for what the data gives.

        Raises:
            ValueError: if a value is out of range.
        """
        return fill_nulls(config, self.config)

    def newest_step(self) -> int:
        """Return the step of the newest intact checkpoint, or 0; changes nothing on disk."""
        newest, _ = newest_intact(self.path / "checkpoints")
        return step_of(newest)

    def check(self, config: Config, allowed: Collection[str] = ()) -> None:
        """Check that the run may continue with other options.

        Args:
            config: the configuration to continue with.
            allowed: options that may change although they affect the result.

        Raises:
            ValueError: if another option differs; names it, both values and the remedies.
        """
        free = {"train.steps", *READING}
        changed = {key: pair for key, pair in differences(self.config, config).items() if key not in free}
        reasons = {key: reason_against(key, *pair) for key, pair in changed.items()}
        refused = [key for key in changed if reasons[key] or key not in allowed]
        if not refused:
            return
        listed = ", ".join(f"{key} ({changed[key][0]} there, {changed[key][1]} now)" for key in refused)
        held = f"{self.path}: holds a run with other settings: {listed}"
        why = [f"{key} cannot change, because {reasons[key]}" for key in refused if reasons[key]]
        if why:
            raise ValueError(f"{held}; {'; '.join(why)}; {another_run()}")
        raise ValueError(
            f"{held}; to change them in this run from here on, add --allow-change {','.join(refused)}; otherwise "
            f"leave the options out, or {another_run()}"
        )

    def check_data(self, config: Config, data: ImageData, allowed: Collection[str] = ()) -> bool:
        """Check that the images are those of the run, wherever they are.

        Args:
            config: the configuration to continue with.
            data: its images.
            allowed: `data.source` allows other images of the same classes, size and channels.

        Returns:
            Whether they are the same images.

        Raises:
            ValueError: if they are not; says what differs, and the remedies.
        """
        known = self.facts["data"]
        if known.get("fingerprint") == data.fingerprint:
            return True
        now = data_facts(data)
        there, here = (list(names) for names in (self.facts.get("class_names", data.class_names), data.class_names))
        options = [key for key in differences(self.config, config) if key in READING]
        about = f"{self.path} holds a run on other data ({known.get('summary')} there, {now['summary']} now"
        about = f"{', '.join(options) or DATA}: {about}{_describe_classes(there, here)})"
        if there != here or known.get("shape", now["shape"]) != now["shape"]:
            raise ValueError(
                f"{about}, which its model does not fit; give the run's own images with --data.source, or "
                f"{another_run()}"
            )
        if DATA not in allowed:
            raise ValueError(
                f"{about}, whose content is not the same; give the run's own images with --data.source, continue with "
                f"these on purpose with --allow-change {DATA}, or {another_run()}"
            )
        return False

    def plan(
        self, config: Config, data: ImageData, allowed: Collection[str], done: Callable[[], int]
    ) -> "tuple[KnownRun, list[str]]":
        """Return the run with another configuration, and what changes, in sentences.

        Args:
            config: the configuration to continue with, without null where null means a value that follows from data.
            data: its images.
            allowed: as for `check`, and `data.source` for other images.
            done: returns the number of steps that the run has made.

        Raises:
            ValueError: if the run cannot continue in this way; names the option, what is wrong, and the remedies.
        """
        if (derived := derive_config(self.config, data)) != self.config:        # runs of older versions stored null
            return replace(self, config=derived).plan(config, data, allowed, done)
        self.check(config, allowed)
        same_data = self.check_data(config, data, allowed)
        changed = all_differences(self.config, config)
        if not changed and same_data:
            return replace(self, facts={**self.facts, "config": options_of(config)}), []
        before = self.facts.get("changes", [])
        # A change that was recorded later is kept: it is reached again after a damaged checkpoint.
        step = max([done(), *(change["step"] for change in before)])
        if config.train.steps < step and "train.steps" in changed:
            raise ValueError(
                f"train.steps: {config.train.steps} is less than the {step} steps that {self.path} has made; give "
                f"{step} or more, or {another_run()}"
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made_with = {"time": now, "versions": versions(), "git_commit": git_commit()}
        records = [(key, old, new) for key, (old, new) in changed.items()]
        if not same_data:
            records.append(("data", self.facts["data"], data_facts(data)))
        changes = [
            {"step": step, "option": key, "old": old, "new": new, "allow_change": key in allowed} | made_with
            for key, old, new in records
        ]
        facts = {**self.facts, "config": options_of(config), "changes": before + changes, "data": data_facts(data)}
        after = replace(self, config=config, facts=facts)
        return after, [*_describe(changed, same_data, step), *_describe_curve(self.timeline, after.timeline, step)]


def step_of(checkpoint: Path | None) -> int:
    """Return the training step of a checkpoint, 0 for None."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("step_"))


def options_of(config: Config) -> dict[str, Any]:
    """Return the options of a configuration as JSON values, by names such as `model.norm`."""
    return {f"{section}.{name}": v for section, values in config.to_dict().items() for name, v in values.items()}


def continue_command(path: Path) -> str:
    """Return the command that continues the run in a directory, from the present working directory."""
    return f"scripts/train.py --run-dir {shlex.quote(str(path))}"


def _describe_classes(there: list[str], here: list[str]) -> str:
    """Return how lists of classes differ, with a semicolon before it; empty if they are equal."""
    lists = {"missing": [n for n in there if n not in here], "new": [n for n in here if n not in there]}
    named = [f"; classes {word}: {', '.join(names[:5])}" for word, names in lists.items() if names]
    return "".join(named) or "; the classes are in another order" * (there != here)


def _describe(changed: dict[str, tuple[Any, Any]], same_data: bool, step: int) -> list[str]:
    """Return one sentence for each option that changes."""
    lines = [] if same_data else [f"data: other images from step {step} on, as --allow-change {DATA} says"]
    for key, (old, new) in changed.items():
        remark = " (the same images)" if key in READING and same_data else ""
        lines.append(f"{key}: {_plain(old)} becomes {_plain(new)} at step {step}{remark}")
    return lines


def _describe_curve(before: Timeline, after: Timeline, step: int) -> list[str]:
    """Return a sentence on the learning rate if it follows another schedule from now on."""
    if len(after.curves(step)) < 2 or after.curves(step)[-1].step < step:
        return []
    config = after.at(step).config
    schedule = f"the {config.lr_schedule} schedule" + f" of {config.steps} steps" * (config.lr_schedule != "constant")
    return [
        f"train.learning_rate: from step {step} on, the rate moves within {config.warmup_steps} steps "
        f"(train.warmup_steps) from {learning_rate(before, step):.3g} to {schedule} with peak {config.learning_rate:g}"
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
