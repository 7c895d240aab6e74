"""Continuing a run: what may change, from which step, and what is recorded about it."""

import shlex
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ddpm.atomic import newest_intact, read_json
from ddpm.config.changes import (
    OTHER_IMAGES,
    Change,
    change_kind,
    differences,
    reason_against,
    suggest_length,
    suggest_run,
    suggest_shape,
)
from ddpm.config.places import find_places, is_same_path, with_places
from ddpm.config.run_folders import is_run
from ddpm.config.sections import Config, flatten
from ddpm.config.values import spell_value
from ddpm.config.yaml_files import prefixed_errors, read_config
from ddpm.data import ImageData
from ddpm.data.overview import data_facts
from ddpm.io.provenance import git_commit, versions
from ddpm.training.derived_options import derive_config
from ddpm.training.optim import learning_rate
from ddpm.training.timeline import Timeline

# Options of the section `train` that hold for a whole process, and not from a step on.
OF_A_PROCESS = ("train.mixed_precision",)


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

    def newest_step(self) -> int:
        """Return the step of the newest intact checkpoint, or 0."""
        return step_of(self.newest_checkpoint())

    def check(self, config: Config, allowed: Collection[str] = ()) -> None:
        """Check that the run may continue with other options.

        Args:
            config: the configuration to continue with.
            allowed: options that may change although they affect the result.

        Raises:
            ValueError: if another option differs; names it, both values and the remedies.
        """
        changed = differences(self.config, config, {Change.BY_NAME, Change.NEVER})
        pretrained = self.config.model.pretrained
        if pretrained is not None and not Path(pretrained).expanduser().exists():
            changed.pop("model.pretrained", None)       # it has moved, and a checkpoint replaces it
        reasons = {key: reason_against(key, *pair) for key, pair in changed.items()}
        refused = [key for key in changed if reasons[key] or key not in allowed]
        if not refused:
            return
        held = f"{self.path}: holds a run with other settings: {_list({key: changed[key] for key in refused})}"
        keep = self._how_to_keep(refused, config)
        if lost := [key for key in refused if reasons[key]]:
            named = {why: " and ".join(key for key in lost if reasons[key] == why) for why in map(reasons.get, lost)}
            why = "; ".join(f"{keys} cannot change, because {why}" for why, keys in named.items())
            raise ValueError(f"{held}; {why}; {keep}, or {suggest_run(lost, self.path, self.config)}")
        raise ValueError(
            f"{held}; to change them in this run from here on, give --allow-change {','.join([*allowed, *refused])}; "
            f"otherwise {keep}, or {suggest_run(refused, self.path, self.config)}"
        )

    def _how_to_keep(self, keys: Collection[str], config: Config) -> str:
        """Return the remedy that keeps the settings of the run: where options with other values have come from."""
        file = self.path / "config.yaml"
        with suppress(ValueError, OSError):         # it may be damaged
            stored, given = flatten(read_config(file).to_dict()), flatten(config.to_dict())
            if edited := [key for key in keys if stored[key] == given[key]]:
                was = flatten(self.config.to_dict())
                return f"restore {', '.join(f'{key} {spell_value(was[key])}' for key in edited)} in {file}"
        return f"give --run-dir {shlex.quote(str(self.path))} without these options and without --config"

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
        summaries = known.get("summary"), data.summary()
        there, here = (list(names) for names in (self.facts.get("class_names", data.class_names), data.class_names))
        options = differences(self.config, config, {Change.SAME_IMAGES})
        differing = [_list(options)] if options else []
        differing += ["{} there, {} now".format(*summaries)] if summaries[0] != summaries[1] else []
        differing += _describe_classes(there, here)
        if not {*options} - {OTHER_IMAGES} and summaries[0] == summaries[1] and there == here:
            differing.append("the files or their labels have other content")
        about = f"{', '.join(options) or OTHER_IMAGES}: {self.path} holds a run on other data: {'; '.join(differing)}"
        read_otherwise = [key for key in options if key != OTHER_IMAGES]
        own = f"leave {' and '.join(read_otherwise)} out" if read_otherwise else ""
        place = with_places(self.config.data, self.facts.get("places", {})).source
        known_place = "" if is_same_path(place, config.data.source) else f" {shlex.quote(place)}"
        own = own or f"give the run's own images with --data.source{known_place}"
        shape = list(data.pixels.shape[1:])
        if known.get("shape", shape) != shape:
            raise ValueError(
                f"{about}, which its model does not fit; {own}, or {suggest_shape(self.path, self.config)}"
            )
        if there != here:
            raise ValueError(f"{about}; {own}, or {suggest_run(options, self.path)}")
        if OTHER_IMAGES not in allowed:
            raise ValueError(
                f"{about}; {own}, continue with these images on purpose with --allow-change "
                f"{','.join([*allowed, OTHER_IMAGES])}, or {suggest_run(options, self.path)}"
            )
        return False

    def describe_unused(self, config: Config, data: ImageData, allowed: Collection[str]) -> list[str]:
        """Return one line on each option that may change, but has the value of the run and has not changed before.

        Args:
            config: the configuration to continue with, without null where null means a value that follows from data.
            data: its images.
            allowed: the options that may change.
        """
        changed = {*differences(self.config, config), *(c["option"] for c in self.facts.get("changes", []))}
        if self.facts["data"].get("fingerprint") != data.fingerprint or "data" in changed:
            changed.add(OTHER_IMAGES)
        values = {key: f"it is {spell_value(value)} already" for key, value in flatten(config.to_dict()).items()}
        values[OTHER_IMAGES] = "the images are those of the run"
        return [
            f"--allow-change {key} has no effect, because {values[key]}; give --{key} another value, or leave it out"
            for key in dict.fromkeys(allowed)
            if key not in changed
        ]

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
        # Again, because the run may have changed before this process held its directory.
        self.check(config, allowed)
        same_data = self.check_data(config, data, allowed)
        changed = differences(self.config, config)
        facts = {**self.facts, **facts_on_options(config, self.facts.get("places"))}
        if not changed and same_data:
            return replace(self, config=config, facts=facts), []
        before = self.facts.get("changes", [])
        # A change that was recorded later is kept: it is reached again after a damaged checkpoint.
        step = max([done(), *(change["step"] for change in before)])
        if config.train.steps < step and "train.steps" in changed:
            raise ValueError(
                f"train.steps: {config.train.steps} is less than the {step} steps that {self.path} has made; give "
                f"{step} or more, or {suggest_length(self.path, config.train.steps)}"
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made_with = {"time": now, "versions": versions(), "git_commit": git_commit()}
        records = [(key, old, new, key in allowed) for key, (old, new) in changed.items()]
        if not same_data:
            records.append(("data", self.facts["data"], data_facts(data), True))
        changes = [
            {"step": step, "option": key, "old": old, "new": new, "allow_change": by_name} | made_with
            for key, old, new, by_name in records
        ]
        after = replace(self, config=config, facts=facts | {"changes": before + changes, "data": data_facts(data)})
        lines = _describe(changed, same_data, step)
        if step < config.train.steps:
            return after, lines + _describe_rate(self.timeline, after.timeline, step)
        if any(change_kind(key) is Change.BY_NAME for key, *_ in records):
            lines.append(f"train.steps: all {step} steps are made, so the changes wait for more; give a larger number")
        return after, lines

    def warn_of_changes_ahead(self, done: Callable[[], int]) -> list[str]:
        """Return a warning for each change that was made at a later step, but is in effect already.

        After a damaged checkpoint, the steps before a change are made again. The options of the section `train` have
        their old values in these steps, as `Timeline` says; the others have their new ones.

        Args:
            done: returns the number of steps that the run has made.
        """
        changes = [c for c in self.facts.get("changes", []) if _holds_for_all_steps(c["option"])]
        if not changes:
            return []
        step = done()
        return [
            f"{change['option']}: was changed at step {change['step']}, but training goes on from step {step}, where "
            "it has its new value already"
            for change in changes
            if change["step"] > step
        ]


def _holds_for_all_steps(option: str) -> bool:
    """Return whether a change affects the steps before it too, if they are made again."""
    return change_kind(option) is Change.BY_NAME and (not option.startswith("train.") or option in OF_A_PROCESS)


def step_of(checkpoint: Path | None) -> int:
    """Return the training step of a checkpoint, 0 for None."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("step_"))


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


def _list(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return options with their old and new values."""
    return ", ".join(f"{key} ({spell_value(old)} there, {spell_value(new)} now)" for key, (old, new) in changed.items())


def _describe_classes(there: list[str], here: list[str]) -> list[str]:
    """Return how lists of classes differ, one phrase each; none if they are equal."""
    lists = {"missing": [n for n in there if n not in here], "new": [n for n in here if n not in there]}
    named = [f"classes {word}: {', '.join(names[:5])}" for word, names in lists.items() if names]
    return named or ["the classes are in another order"] * (there != here)


def _describe(changed: dict[str, tuple[Any, Any]], same_data: bool, step: int) -> list[str]:
    """Return one sentence for each option that changes."""
    lines = [] if same_data else [f"data: other images from step {step} on, as --allow-change {OTHER_IMAGES} says"]
    for key, (old, new) in changed.items():
        remark = " (the same images)" if change_kind(key) is Change.SAME_IMAGES and same_data else ""
        if key == "model.pretrained" and step > 0:
            remark = " (the weights are those of the checkpoint)"
        lines.append(f"{key}: {spell_value(old)} becomes {spell_value(new)} at step {step}{remark}")
    return lines


def _describe_rate(before: Timeline, after: Timeline, step: int) -> list[str]:
    """Return a sentence on the learning rate if it follows another schedule from now on."""
    schedules = [[(c.step, c.schedule_key) for c in timeline.schedule_changes(step)] for timeline in (before, after)]
    if schedules[0] == schedules[1] or len(schedules[1]) < 2 or schedules[1][-1][0] < step:
        return []
    config = after.at(step).config
    schedule = f"the {config.lr_schedule} schedule" + f" of {config.steps} steps" * (config.lr_schedule != "constant")
    left = Timeline(tuple(segment for segment in after.segments if segment.step < step))      # the schedule until now
    there, peak = f"from {learning_rate(left, step):.3g}", f"to {schedule} with peak {config.learning_rate:g}"
    if config.warmup_steps == 0:
        return [f"train.learning_rate: at step {step}, the rate jumps {there} {peak}"]
    return [
        f"train.learning_rate: from step {step} on, the rate moves within {config.warmup_steps} steps "
        f"(train.warmup_steps) {there} {peak}"
    ]
