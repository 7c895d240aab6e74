"""The history of a run: which batch size and learning rate schedule each of its steps has."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ddpm.config.changes import Change, change_kind
from ddpm.config.sections import TrainConfig


class Segment(NamedTuple):
    """Consecutive steps with the same settings.

    Attributes:
        step: the first of these steps.
        position: position in the run of the first sample of this step, which is the number of samples before it.
        config: the settings.
    """

    step: int
    position: int
    config: TrainConfig

    @property
    def schedule_key(self) -> tuple[Any, ...]:
        """What the learning rate depends on; at a constant rate, a longer run is as if longer from the start."""
        c = self.config
        return c.learning_rate, c.warmup_steps, c.lr_schedule, None if c.lr_schedule == "constant" else c.steps


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
                the section `train` and of the images matter.
        """
        values = asdict(config)
        names = [(c["option"].removeprefix("train."), c) for c in changes if c["option"].startswith("train.")]
        for name, change in reversed(names):
            values[name] = change["old"]
        configs = {0: TrainConfig(**values)}
        for name, change in names:          # of several changes at one step, the last counts
            values[name] = change["new"]
            configs[change["step"]] = TrainConfig(**values)
        timeline = cls((Segment(0, 0, configs.pop(0)),))
        for step, settings in configs.items():
            timeline = cls((*timeline.segments, Segment(step, timeline.position(step), settings)))
        of_data = [c for c in changes if c["option"].startswith("data")]
        other_images = [c["step"] for c in of_data if change_kind(c["option"]) is Change.BY_NAME]
        return cls(timeline.segments, max(other_images, default=0))

    def at(self, step: int) -> Segment:
        """Return the segment that a step belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.step <= step)

    def batch_size(self, step: int) -> int:
        """Return the number of samples of a step, over all processes."""
        return self.at(step).config.batch_size

    def position(self, step: int) -> int:
        """Return the position of the first sample of a step, which is the number of samples before it."""
        segment = self.at(step)
        return segment.position + (step - segment.step) * segment.config.batch_size

    def schedule_changes(self, step: int) -> list[Segment]:
        """Return the segments up to a step in which the learning rate begins to follow another schedule.

        The first is the segment that begins at step 0.
        """
        found: list[Segment] = []
        for segment in self.segments:
            if segment.step <= step and not (found and found[-1].schedule_key == segment.schedule_key):
                found.append(segment)
        return found
