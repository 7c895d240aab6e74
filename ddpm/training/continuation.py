"""Continuing a run: what may change, from which step, and what is recorded about it."""

import os
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.config.changes import (
    OTHER_IMAGES,
    Change,
    change_kind,
    differences,
    reason_against,
    spell_options,
    suggest_length,
    suggest_run,
    suggest_shape,
)
from ddpm.config.places import is_same_path, with_places
from ddpm.config.sections import Config, flatten
from ddpm.config.values import spell_value
from ddpm.config.yaml_files import read_config
from ddpm.data import ImageData
from ddpm.data.overview import data_facts
from ddpm.io.provenance import git_commit, versions
from ddpm.training.derived_options import derive_config
from ddpm.training.optim import learning_rate
from ddpm.training.run_record import KnownRun, facts_on_options
from ddpm.training.timeline import STEP_OPTIONS, Timeline


class Plan(NamedTuple):
    """How a run continues.

    Attributes:
        run: the run as it continues.
        lines: what changes, one sentence each.
        warnings: what was changed at a step that is yet to come again, but is in effect already, one sentence each.
    """

    run: KnownRun
    lines: list[str]
    warnings: list[str]


def plan_continuation(run: KnownRun, config: Config, data: ImageData, allowed: Collection[str], done: int) -> Plan:
    """Return what continuing a run with another configuration means; nothing is printed or written.

    Args:
        run: the run.
        config: the configuration to continue with, without null where null means a value that follows from data.
        data: its images.
        allowed: as for `check_options`, and `data.source` for other images.
        done: number of steps that the run has made.

    Raises:
        ValueError: if the run cannot continue in this way; names the option, what is wrong, and the remedies.
    """
    run = replace(run, config=derive_config(run.config, data))          # runs of older versions stored null
    # Again, because the run may have changed before this process held its directory.
    check_options(run, config, allowed)
    same_data = check_data(run, config, data, allowed)
    changed, before = differences(run.config, config), run.facts.get("changes", [])
    facts = {**run.facts, **facts_on_options(config, run.facts.get("places"))}
    if not changed and same_data:
        after = replace(run, config=config, facts=facts)
        return Plan(after, [], _describe_changes_ahead(after, done))
    # A change that was recorded later is kept: it is reached again after a damaged checkpoint.
    step = max([done, *(change["step"] for change in before)])
    if config.train.steps < step and "train.steps" in changed:
        raise ValueError(
            f"train.steps: {config.train.steps} is less than the {step} steps that {run.path} has made; give "
            f"{step} or more, or {suggest_length(run.path, config.train.steps)}"
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made_with = {"time": now, "versions": versions(), "git_commit": git_commit()}
    records = [(key, old, new, key in allowed) for key, (old, new) in changed.items()]
    if not same_data:
        records.append(("data", run.facts["data"], data_facts(data), True))
    changes = [
        {"step": step, "option": key, "old": old, "new": new, "allow_change": by_name} | made_with
        for key, old, new, by_name in records
    ]
    after = replace(run, config=config, facts=facts | {"changes": before + changes, "data": data_facts(data)})
    lines = _describe(changed, same_data, step)
    if step < config.train.steps:
        lines += _describe_rate(run.timeline, after.timeline, step)
    elif any(change_kind(key) is Change.BY_NAME for key, *_ in records):
        lines.append(f"train.steps: all {step} steps are made, so the changes wait for more; give a larger number")
    return Plan(after, lines, _describe_changes_ahead(after, done))


def _describe_changes_ahead(run: KnownRun, done: int) -> list[str]:
    """Return one line for each change that was made at a later step, but is in effect already.

    After a damaged checkpoint, the steps before a change are made again. STEP_OPTIONS have their old values there.
    """
    return [
        f"{c['option']}: was changed at step {c['step']}, but training goes on from step {done}, where it has its new "
        "value already"
        for c in run.facts.get("changes", [])
        if c["step"] > done and change_kind(c["option"]) is Change.BY_NAME and c["option"] not in STEP_OPTIONS
    ]


def check_options(run: KnownRun, config: Config, allowed: Collection[str] = ()) -> None:
    """Check that a run may continue with other options.

    Args:
        run: the run.
        config: the configuration to continue with.
        allowed: options that may change although they affect the result.

    Raises:
        ValueError: if another option differs; names it, both values and the remedies.
    """
    changed = differences(run.config, config, {Change.BY_NAME, Change.NEVER})
    pretrained = run.config.model.pretrained
    if pretrained is not None and not Path(os.path.expanduser(pretrained)).exists():
        changed.pop("model.pretrained", None)       # it has moved, and a checkpoint replaces it
    reasons = {key: reason_against(key, *pair) for key, pair in changed.items()}
    refused = [key for key in changed if reasons[key] or key not in allowed]
    if not refused:
        return
    # Whether its images are others is known only when they are read, so that an option names them from the beginning.
    of_data = differences(run.config, config, {Change.SAME_IMAGES}) if OTHER_IMAGES not in allowed else {}
    differing = {key: changed[key] for key in refused} | of_data
    options = _retype(run, config)
    held = f"{run.path}: holds a run with other settings: {_list(differing)}"
    keep = _how_to_keep(run, refused, config)
    if lost := [key for key in refused if reasons[key]]:
        named = {why: " and ".join(key for key in lost if reasons[key] == why) for why in map(reasons.get, lost)}
        why = "; ".join(f"{keys} cannot change, because {why}" for why, keys in named.items())
        raise ValueError(f"{held}; {why}; {keep}, or {suggest_run(lost, run.path, run.config)}{options}")
    allow = ",".join([*allowed, *refused, *([OTHER_IMAGES] if of_data else [])])
    with_images = ", for images of the same classes and size" if of_data else ""
    raise ValueError(
        f"{held}; to change them in this run from here on, give --allow-change {allow}{with_images}; otherwise {keep}, "
        f"or {suggest_run(refused, run.path, run.config)}{options}"
    )


def _retype(run: KnownRun, config: Config) -> str:
    """Return the words with which a new run, from the configuration of this one, has all options that differ."""
    return spell_options({key: new for key, (_, new) in differences(run.config, config).items()})


def _how_to_keep(run: KnownRun, keys: Collection[str], config: Config) -> str:
    """Return the remedy that keeps the settings of the run: where options with other values have come from."""
    file = run.path / "config.yaml"
    with suppress(ValueError, OSError):         # it may be damaged
        stored, given = flatten(read_config(file).to_dict()), flatten(config.to_dict())
        if edited := [key for key in keys if stored[key] == given[key]]:
            was = flatten(run.config.to_dict())
            return f"restore {', '.join(f'{key} {spell_value(was[key])}' for key in edited)} in {file}"
    own = f"give --run-dir {shlex.quote(str(run.path))} without these options and without --config"
    return f"{own}, begin a new run with another --run-dir"


def check_data(run: KnownRun, config: Config, data: ImageData, allowed: Collection[str] = ()) -> bool:
    """Check that the images are those of the run, wherever they are.

    Args:
        run: the run.
        config: the configuration to continue with.
        data: its images.
        allowed: `data.source` allows other images of the same classes, size and channels.

    Returns:
        Whether they are the same images.

    Raises:
        ValueError: if they are not; says what differs, and the remedies.
    """
    known = run.facts["data"]
    if known.get("fingerprint") == data.fingerprint:
        return True
    summaries = [_without_place(summary) for summary in (known.get("summary") or "", data.summary())]
    there, here = (list(names) for names in (run.facts.get("class_names", data.class_names), data.class_names))
    options = differences(run.config, config, {Change.SAME_IMAGES})
    differing = [_list(options)] if options else []
    differing += ["{} there, {} now".format(*summaries)] if summaries[0] != summaries[1] else []
    differing += _describe_classes(there, here)
    if not {*options} - {OTHER_IMAGES} and summaries[0] == summaries[1] and there == here:
        same_files = data.contents_digest is not None and data.contents_digest == known.get("contents")
        differing.append(
            "the files have the same content, but another order, as after renaming, or other labels"
            if same_files
            else "the files or their labels have other content"
        )
    about = f"{', '.join(options) or OTHER_IMAGES}: {run.path} holds a run on other data: {'; '.join(differing)}"
    typed = _retype(run, config)
    read_otherwise = [key for key in options if key != OTHER_IMAGES]
    own = f"leave {' and '.join(read_otherwise)} out" if read_otherwise else ""
    place = with_places(run.config.data, run.facts.get("places", {})).source
    is_lost = Path(place).is_absolute() and not Path(place).exists()
    known_place = "" if is_lost or is_same_path(place, config.data.source) else f" {shlex.quote(place)}"
    own = own or f"give the run's own images with --data.source{known_place}"
    shape = list(data.pixels.shape[1:])
    if known.get("shape", shape) != shape:
        other_model = suggest_shape(run.path, run.config) + typed
        raise ValueError(f"{about}, which its model does not fit; {own}, or {other_model}")
    if there != here:
        raise ValueError(f"{about}; {own}, or {suggest_run(options, run.path)}{typed}")
    if OTHER_IMAGES not in allowed:
        raise ValueError(
            f"{about}; {own}, continue with these images on purpose with --allow-change "
            f"{','.join([*allowed, OTHER_IMAGES])}, or {suggest_run(options, run.path)}{typed}"
        )
    return False


def describe_unused(run: KnownRun, config: Config, data: ImageData, allowed: Collection[str]) -> list[str]:
    """Return one line on each option that may change, but has the value of the run and has not changed before.

    Args:
        run: the run.
        config: the configuration to continue with, without null where null means a value that follows from data.
        data: its images.
        allowed: the options that may change.
    """
    changed = {*differences(run.config, config), *(c["option"] for c in run.facts.get("changes", []))}
    if run.facts["data"].get("fingerprint") != data.fingerprint or "data" in changed:
        changed.add(OTHER_IMAGES)
    values = {key: f"it is {spell_value(value)} already" for key, value in flatten(config.to_dict()).items()}
    values[OTHER_IMAGES] = "the images are those of the run"
    return [
        f"--allow-change {key} has no effect, because {values[key]}; give --{key} another value, or leave it out"
        for key in dict.fromkeys(allowed)
        if key not in changed
    ]


def _list(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return options with their old and new values."""
    return ", ".join(f"{key} ({spell_value(old)} there, {spell_value(new)} now)" for key, (old, new) in changed.items())


def _without_place(summary: str) -> str:
    """Return a summary of images without where they are, which does not change them."""
    places = "in memory", "in the cache", "decoded on demand"
    return ", ".join(part for part in summary.split(", ") if not part.startswith(places))


def _describe_classes(there: list[str], here: list[str]) -> list[str]:
    """Return how lists of classes differ, one phrase each; none if they are equal."""
    lists = {"missing": [n for n in there if n not in here], "new": [n for n in here if n not in there]}
    named = [
        f"classes {word}: {', '.join(names[:5])}{f' and {len(names) - 5} more' * (len(names) > 5)}"
        for word, names in lists.items()
        if names
    ]
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
    schedules = after.schedule_changes(step)
    if after.has_schedule_of(before, step) or len(schedules) < 2 or schedules[-1].step < step:
        return []
    settings = after.at(step).settings
    length = f" of {settings.steps} steps" if settings.lr_schedule != "constant" else ""
    left = Timeline(tuple(segment for segment in after.segments if segment.step < step))      # the schedule until now
    there = f"from {learning_rate(left, step):.3g}"
    peak = f"to the {settings.lr_schedule} schedule{length} with peak {settings.learning_rate:g}"
    if settings.warmup_steps == 0:
        return [f"train.learning_rate: at step {step}, the rate jumps {there} {peak}"]
    return [
        f"train.learning_rate: from step {step} on, the rate moves within {settings.warmup_steps} steps "
        f"(train.warmup_steps) {there} {peak}"
    ]
