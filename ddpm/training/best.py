"""RUN/best: the averaged model of the step whose evaluation was best so far, a pipeline directory with best.json."""

import json
import shutil
from pathlib import Path
from typing import Any

from ddpm.manifest import damage, publish
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
        identity: JSON-able facts that must be equal for two values to be compared; a model of others is replaced.
    """

    def __init__(self, folder: Path, better: str, identity: dict[str, Any]) -> None:
        self._folder, self._better, self._identity = folder, BETTER[better], identity

    def facts(self) -> dict[str, Any] | None:
        """best.json of the model that is there: step, samples, value, identity; None if there is none that counts."""
        if not self._folder.is_dir() or damage(self._folder) is not None:
            return None
        facts = json.loads((self._folder / FACTS).read_text())
        return facts if facts["identity"] == self._identity else None

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
        for leftover in self._folder.parent.glob(f".{self._folder.name}.*"):       # of a process that was killed here
            shutil.rmtree(leftover)
        known = self.facts()
        if known is not None and not self._better(value, known["value"]):
            return
        facts = {"step": step, "samples": samples, "value": value, "identity": self._identity}

        def fill(folder: Path) -> None:
            pipeline.save_pretrained(folder)
            (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")

        publish(self._folder, fill)
