"""RUN/best: the averaged model of the step whose evaluation was best so far, a pipeline directory with best.json."""

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpm.atomic import find_damage, recover, write_directory_atomically, write_json
from ddpm.pipeline import ClassConditionalPipeline

FACTS = "best.json"
BETTER = {"lower": lambda new, old: new < old, "higher": lambda new, old: new > old}


class Best:
    """The best model of a run.

    A run that goes on from a checkpoint older than its best model comes to that step again and finds it there: what it
    draws is a function of the configuration, the seed and the step.

    Args:
        folder: where it is published.
        better: "lower" or "higher".
        identity: JSON-able facts that must be equal for two values to be compared; a model of others is replaced,
            and that is said.
    """

    def __init__(self, folder: Path, better: str, identity: dict[str, Any]) -> None:
        self._folder, self._better, self._identity = folder, BETTER[better], identity

    def facts(self) -> dict[str, Any] | None:
        """best.json of the model that is there: step, samples, value, identity; None if there is no whole one."""
        if not self._folder.is_dir() or find_damage(self._folder) is not None:
            return None
        return json.loads((self._folder / FACTS).read_text())

    def offer(self, value: float, step: int, samples: int, pipeline: ClassConditionalPipeline) -> None:
        """Publishes a model if it is better than the one that is there; of equal ones the first stays.

        Args:
            value: of its evaluation.
            step: of training.
            samples: images that it was trained on.
            pipeline: holds it.

        Raises:
            OSError: if it cannot be written.
        """
        recover(self._folder)
        known = self.facts()
        changes = [] if known is None else self._changes(known["identity"])
        if known is not None and not changes and not self._better(value, known["value"]):
            return
        facts = {"step": step, "samples": samples, "value": value, "identity": self._identity}

        def fill(folder: Path) -> None:
            pipeline.save_pretrained(folder)
            write_json(folder / FACTS, facts)

        write_directory_atomically(self._folder, fill)
        if changes:
            tqdm.write(         # not into the line of the progress bar
                f"WARNING: {self._folder}: the model of step {known['step']} was chosen by other settings: "
                f"{', '.join(changes)}; that of step {step} is there now",
                file=sys.stderr,
            )

    def _changes(self, identity: dict[str, Any]) -> list[str]:
        """What makes values of another identity incomparable, key by key."""
        pairs = {key: (identity.get(key), self._identity.get(key)) for key in identity | self._identity}
        return [f"{key} ({there} there, {now} now)" for key, (there, now) in pairs.items() if there != now]
