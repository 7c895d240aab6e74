"""Positions and learning rates of a run whose settings change, by closed forms."""

import math
from dataclasses import replace
from typing import Any

import pytest

from ddpm.config.changes import Change, change_kind
from ddpm.config.sections import OPTIONS, TrainConfig
from ddpm.training.batches import micro_batch_positions
from ddpm.training.optim import describe_unfinished_warmup, learning_rate
from ddpm.training.timeline import STEP_OPTIONS, Timeline

COSINE = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0, batch_size=8)


def timeline(config: TrainConfig, *changes: tuple[int, dict[str, Any]]) -> Timeline:
    """Return the history of a run that began with `config` and got other options at some steps."""
    records = []
    for step, options in changes:
        for name, new in options.items():
            records.append({"step": step, "option": f"train.{name}", "old": getattr(config, name), "new": new})
        config = replace(config, **options)
    return Timeline.of(config, records)


def cosine(step: int, steps: int, peak: float = 2.0, warmup: int = 10) -> float:
    return peak * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2


def test_a_finished_cosine_run_is_extended() -> None:
    longer = timeline(COSINE, (100, {"steps": 300}))
    assert [learning_rate(longer, s) for s in range(100)] == [
        learning_rate(Timeline.of(COSINE), s) for s in range(100)
    ]
    for step in range(100, 300):
        weight = min(1, (step - 99) / 10)           # from 0, where the first schedule ends
        assert learning_rate(longer, step) == pytest.approx(weight * cosine(step, 300), rel=1e-12)     # float64


@pytest.mark.parametrize("steps", [60, 90, 400])
def test_an_unfinished_cosine_run_gets_another_length(steps: int) -> None:
    other = timeline(COSINE, (50, {"steps": steps}))
    before = cosine(50, 100)
    for step in range(50, steps):
        weight = min(1, (step - 49) / 10)
        expected = (1 - weight) * before + weight * cosine(step, steps)
        assert learning_rate(other, step) == pytest.approx(expected, rel=1e-12)     # float64


def test_changes_in_the_middle_of_a_transition() -> None:
    twice = timeline(COSINE, (100, {"steps": 200}), (104, {"steps": 400, "learning_rate": 1.0, "warmup_steps": 4}))
    there = 0.5 * cosine(104, 200)                  # half-way: the fifth of ten steps
    for step in range(104, 400):
        weight = min(1, (step - 103) / 4)
        expected = (1 - weight) * there + weight * cosine(step, 400, 1.0, 4)
        assert learning_rate(twice, step) == pytest.approx(expected, rel=1e-12)     # float64


def test_no_warmup_is_a_jump() -> None:
    jump = timeline(replace(COSINE, warmup_steps=0), (100, {"steps": 200}))
    assert learning_rate(jump, 100) == pytest.approx(cosine(100, 200, warmup=0), rel=1e-12)


def test_a_longer_run_at_a_constant_rate_is_as_if_longer_from_the_start() -> None:
    constant = replace(COSINE, lr_schedule="constant")
    longer, whole = timeline(constant, (100, {"steps": 300})), Timeline.of(replace(constant, steps=300))
    assert [learning_rate(longer, s) for s in range(300)] == [learning_rate(whole, s) for s in range(300)]
    lower = timeline(constant, (100, {"steps": 300, "learning_rate": 1.0}))
    assert [learning_rate(lower, s) for s in (99, 100, 104, 109, 299)] == pytest.approx([2.0, 1.9, 1.5, 1.0, 1.0])


def test_changes_that_were_taken_back_before_a_step_leave_no_trace() -> None:
    there_and_back = timeline(COSINE, (50, {"steps": 400}), (50, {"steps": 100}))
    assert [learning_rate(there_and_back, s) for s in range(100)] == [
        learning_rate(Timeline.of(COSINE), s) for s in range(100)
    ]
    early = timeline(COSINE, (0, {"steps": 50, "batch_size": 4}))
    assert early == Timeline.of(replace(COSINE, steps=50, batch_size=4))


CONSTANT = replace(COSINE, lr_schedule="constant")
UNFINISHED: list[tuple[Timeline, list[str]]] = [
    (Timeline.of(COSINE), []),
    (Timeline.of(replace(COSINE, warmup_steps=100)), []),
    (Timeline.of(replace(COSINE, warmup_steps=101)), ["at most 100", "instead of reaching 2;"]),
    # A finished run gets no steps, enough, or too few to reach the cosine of the new length.
    (timeline(COSINE, (100, {"learning_rate": 1.0})), []),
    (timeline(COSINE, (100, {"steps": 110})), []),
    (timeline(COSINE, (100, {"steps": 109})), ["at most 9, with --allow-change train.warmup_steps"]),
    # What was changed at a step that begins no new schedule.
    (timeline(CONSTANT, (98, {"batch_size": 4})), []),
    (timeline(CONSTANT, (100, {"steps": 105})), []),
    (timeline(CONSTANT, (100, {"steps": 150, "warmup_steps": 200})), ["at most 50, with --allow-change"]),
]


@pytest.mark.parametrize(("history", "parts"), UNFINISHED)
def test_a_schedule_that_is_not_reached_is_told(history: Timeline, parts: list[str]) -> None:
    lines = describe_unfinished_warmup(history)
    assert len(lines) == bool(parts)
    for line in lines:
        assert line.startswith("train.warmup_steps: ") and not [part for part in parts if part not in line], line
        last = learning_rate(history, history.segments[-1].settings.steps - 1)
        assert f"ends at {last:.2g}" in line


@pytest.mark.parametrize(("option", "since"), [
    ("data", 5), ("data.augment", 5), ("data.balance", 5), ("data.horizontal_flip", 5), ("data.source", 0),
    ("data.resolution", 0), ("data.workers", 0), ("train.batch_size", 0), ("diffusion.weighting", 0),
])
def test_since_when_the_images_are_the_present_ones(option: str, since: int) -> None:
    record = {"step": 5, "option": option, "old": 1, "new": 2}
    assert Timeline.of(COSINE, [record]).images_since == since
    assert Timeline.of(COSINE, [{**record, "step": 3}, record]).images_since == since


def test_options_of_steps_are_those_whose_changes_follow_the_steps() -> None:
    """The precision belongs to the whole process, and other options of training are free or never change."""
    kinds = Change.LENGTH, Change.BY_NAME
    changing = {key for key in OPTIONS if key.startswith("train.") and change_kind(key) in kinds}
    assert STEP_OPTIONS.keys() == changing - {"train.mixed_precision"}


def test_other_options_do_not_touch_the_rate() -> None:
    other = timeline(COSINE, (30, {"batch_size": 3, "weight_decay": 0.1, "log_every": 1}))
    assert [learning_rate(other, s) for s in range(100)] == [learning_rate(Timeline.of(COSINE), s) for s in range(100)]


@pytest.mark.parametrize(("processes", "micro_batches"), [(1, 1), (2, 1), (2, 2), (1, 4)])
def test_no_position_is_used_twice_or_left_out(processes: int, micro_batches: int) -> None:
    """Batches of 8, of 16 from step 5 on, and of 4 from step 7 on, whoever works on them."""
    history = timeline(COSINE, (5, {"batch_size": 16}), (7, {"batch_size": 4}))
    used = []
    for step in range(10):
        parts = [micro_batch_positions(history, step, rank, processes, micro_batches) for rank in range(processes)]
        of_step = [position for part in parts for micro_batch in part for position in micro_batch]
        assert len(of_step) == history.batch_size(step) == [8, 8, 8, 8, 8, 16, 16, 4, 4, 4][step]
        assert history.position(step) == len(used)
        used += of_step
    assert used == list(range(8 * 5 + 16 * 2 + 4 * 3))
