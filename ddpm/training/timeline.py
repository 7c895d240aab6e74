"""The history of a run: which batch size and learning rate schedule each of its steps has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ddpm.config.changes import Change, change_kind
from ddpm.config.sections import TrainConfig


class StepSettings(NamedTuple):
    """The options of the section `train` that each step has its own values of; others hold for a whole process."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    lr_schedule: str
    weight_decay: float
    beta2: float
    max_grad_norm: float
    ema_half_life: float
    ema_warmup: float


STEP_OPTIONS = {f"train.{name}": name for name in StepSettings._fields}


class Segment(NamedTuple):
    """Consecutive steps with the same settings.

    Attributes:
        step: the first of these steps.
        position: position in the run of the first sample of this step, which is the number of samples before it.
        settings: the settings.
    """

    step: int
    position: int
    settings: StepSettings

    @property
    def schedule_key(self) -> tuple[Any, ...]:
        """What the learning rate depends on; at a constant rate, a longer run is as if longer from the start."""
        s = self.settings
        return s.learning_rate, s.warmup_steps, s.lr_schedule, None if s.lr_schedule == "constant" else s.steps


@dataclass(frozen=True)
class Timeline:
    """The settings of all steps of a run: those it began with, and those after each change.

    Attributes:
        segments: one per change of settings, in the order of steps; the first begins at step 0.
        images_since: the step from which on the images, or what is made of them, are the present ones.
    """

    segments: tuple[Segment, ...]
    images_since: int = 0

    @classmethod
    def of(cls, config: TrainConfig, changes: Sequence[Mapping[str, Any]] = ()) -> "Timeline":
        """Return the history that led to a configuration.

        Args:
            config: the present settings.
            changes: records of changes in the order of steps, each with `step`, `option`, `old` and `new`. Those of
                STEP_OPTIONS and of the images matter.
        """
        settings = StepSettings(*(getattr(config, name) for name in StepSettings._fields))
        made = [(c["step"], STEP_OPTIONS[c["option"]], c) for c in changes if c["option"] in STEP_OPTIONS]
        for _, name, change in reversed(made):
            settings = settings._replace(**{name: change["old"]})
        by_step = {0: settings}
        for step, name, change in made:         # of several changes at one step, the last counts
            by_step[step] = settings = settings._replace(**{name: change["new"]})
        timeline = cls((Segment(0, 0, by_step.pop(0)),))
        for step, settings in by_step.items():
            timeline = cls((*timeline.segments, Segment(step, timeline.position(step), settings)))
        of_data = [c for c in changes if c["option"].startswith("data")]
        other_images = [c["step"] for c in of_data if change_kind(c["option"]) is Change.BY_NAME]
        return cls(timeline.segments, max(other_images, default=0))

    def at(self, step: int) -> Segment:
        """Return the segment that a step belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.step <= step)

    def batch_size(self, step: int) -> int:
        """Return the number of samples of a step, over all processes."""
        return self.at(step).settings.batch_size

    def position(self, step: int) -> int:
        """Return the position of the first sample of a step, which is the number of samples before it."""
        segment = self.at(step)
        return segment.position + (step - segment.step) * segment.settings.batch_size

    def schedule_changes(self, step: int) -> list[Segment]:
        """Return the segments up to a step in which the learning rate begins to follow another schedule.

        The first is the segment that begins at step 0.
        """
        found: list[Segment] = []
        for segment in self.segments:
            if segment.step <= step and not (found and found[-1].schedule_key == segment.schedule_key):
                found.append(segment)
        return found

    def has_schedule_of(self, other: "Timeline", step: int) -> bool:
        """Return whether the learning rate follows the same schedules as in another history, up to a step."""
        mine, theirs = (
            [(segment.step, segment.schedule_key) for segment in timeline.schedule_changes(step)]
            for timeline in (self, other)
        )
        return mine == theirs
