"""A study: a question, arms that differ from one base configuration, seeds, and the metric that decides."""

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from ddpm.config.sections import Config, differences
from ddpm.names import did_you_mean, lookup

# The metrics of an evaluation, each with the entry of METRICS in ddpm.evaluation that measures it.
STUDY_METRICS = {
    "frechet_distance": "frechet_distance",
    "frechet_distance_infinity": "frechet_distance",
    "kernel_distance": "kernel_distance",
    "precision": "precision_recall",
    "recall": "precision_recall",
    "density": "precision_recall",
    "coverage": "precision_recall",
    "inception_score": "inception_score",
    "accuracy": "accuracy",
    "memorised": "memorisation",
    "denoising_error": "denoising",
    "bits_per_dim": "bits_per_dim",
}
# Data options an arm may override. All arms must train on the same images, for the same number of samples.
OF_THE_DATA = ("data.shuffle_labels", "data.horizontal_flip", "data.workers", "data.memory_gb")
BUDGET = ("train.steps", "train.batch_size")
# Model options an arm may override where the base is a pretrained model, which determines the architecture.
OF_PRETRAINED = ("model.dropout", "model.gradient_checkpointing")
# Options that have no effect on the result, in addition to CHANGEABLE.
OF_NO_EFFECT = ("train.log_every",)
SWEEP_SEED = 1_000_000      # added to the first seed of the study for the runs that choose a learning rate
# Suffixes of the files next to the folders of the arms.
FILES = (".yaml", ".json", ".html")


@dataclass(frozen=True)
class Arm:
    """A variant of the base configuration.

    Attributes:
        name: name of the arm and of its folder.
        overrides: options that differ from the base, such as "model.norm", and their values.
        config: base configuration with the overrides; its seed is not used.
        seed_shift: added to every seed, so that two arms with the same configuration are different runs of it.

    Raises:
        ValueError: if the name is not a valid folder name, or an override would make the comparison unfair.
    """

    name: str
    overrides: dict[str, Any]
    config: Config
    seed_shift: int = 0

    def __post_init__(self) -> None:
        if len(self.name) > 100 or not re.fullmatch(r"\w([\w.+-]*[\w+-])?", self.name) or self.name.endswith(FILES):
            raise ValueError(
                f"arms: {self.name!r} is not a valid folder name; use letters, digits, _, -, + and dots, as in "
                "adagn_scale"
            )
        for key in self.overrides:
            if key == "train.seed":
                raise ValueError(f"arms.{self.name}: train.seed is set by seeds; remove it, or use seed_shift")
            if key in BUDGET:
                raise ValueError(f"arms.{self.name}: {key} would give the arms unequal budgets; set it in base")
            if key == "model.pretrained":
                raise ValueError(
                    f"arms.{self.name}: {key} would give the arms unequal budgets, because its weights are already "
                    "trained; set it in base"
                )
            if self.config.model.pretrained and key.startswith("model.") and key not in OF_PRETRAINED:
                raise ValueError(
                    f"arms.{self.name}: {key} has no effect, because the model.pretrained of base determines the "
                    f"architecture; an arm may set {', '.join(OF_PRETRAINED)}"
                )
            if key.startswith("sample."):
                raise ValueError(
                    f"arms.{self.name}: {key} would make the evaluation of the arms unequal; set it in base, or set "
                    f"{key.removeprefix('sample.')} in evaluation"
                )
            if key.startswith("data.") and key not in OF_THE_DATA:
                raise ValueError(
                    f"arms.{self.name}: {key} would give the arms unequal data; set it in base (an arm may set "
                    f"{', '.join(OF_THE_DATA)})"
                )


@dataclass(frozen=True)
class Study:
    """Arms x seeds, and the metric that decides between the arms.

    Attributes:
        question: the question that the study answers, as text.
        arms: two or more arms; the others are compared with the first.
        seeds: distinct seeds; every arm is trained with each of them.
        metric: deciding metric, an entry of STUDY_METRICS; it is fixed before the first measurement.
        learning_rates: learning rates to try for each arm before the study, with a seed of their own; empty for no
            sweep.
        evaluation: options of scripts/evaluate.py and their values, the same for all runs.

    Raises:
        ValueError: if a value is out of range, two arms do not differ, or the evaluation does not measure the metric.
    """

    question: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    metric: str
    learning_rates: tuple[float, ...] = ()
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_arms()
        self._check_seeds()
        self._check_learning_rates()
        self._check_metric()
        for a, b in itertools.combinations(self.arms, 2):
            self._check_differ(a, b)

    @property
    def baseline(self) -> Arm:
        """The first arm; the others are compared with it."""
        return self.arms[0]

    @property
    def sweep_seed(self) -> int:
        """Seed of the runs that choose a learning rate, before an arm's shift."""
        return SWEEP_SEED + self.seeds[0]

    def config(self, arm: Arm, seed: int, learning_rate: float | None = None) -> Config:
        """Return the configuration of a run.

        Args:
            arm: an arm of the study.
            seed: one of `seeds`, or `sweep_seed`; the arm's shift is added.
            learning_rate: learning rate that replaces the arm's own; None keeps it.

        Raises:
            ValueError: if a value is out of range.
        """
        changes: dict[str, Any] = {"seed": seed + arm.seed_shift}
        if learning_rate is not None:
            changes["learning_rate"] = learning_rate
        return dataclasses.replace(arm.config, train=dataclasses.replace(arm.config.train, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the whole configuration of every arm except its seed."""
        arms = []
        for arm in self.arms:
            config = arm.config.to_dict()
            del config["train"]["seed"]
            entry = {"name": arm.name, "overrides": arm.overrides, "seed_shift": arm.seed_shift, "config": config}
            arms.append(entry)
        return {
            "question": self.question,
            "arms": arms,
            "seeds": list(self.seeds),
            "metric": self.metric,
            "learning_rates": list(self.learning_rates),
            "evaluation": self.evaluation,
        }

    def _check_arms(self) -> None:
        if len(self.arms) < 2:
            raise ValueError(f"arms: there are {len(self.arms)}; give two or more to compare")
        names = [arm.name.casefold() for arm in self.arms]      # some file systems ignore case
        for i, arm in enumerate(self.arms):
            if names[i] in names[:i]:
                raise ValueError(f"arms: two have the name {arm.name!r}; rename one (case is ignored)")

    def _check_seeds(self) -> None:
        if not self.seeds:
            raise ValueError("seeds: the list is empty; give seeds, such as [0, 1, 2, 3, 4] (intervals need 3 or more)")
        for i, seed in enumerate(self.seeds):
            if seed in self.seeds[:i]:
                raise ValueError(f"seeds: {seed} occurs twice; remove one, because equal seeds give equal runs")
        for arm, seed in itertools.product(self.arms, self.seeds):
            if not 0 <= seed + arm.seed_shift < 2**62:
                shifted = f" plus seed_shift {arm.seed_shift} of {arm.name}" if arm.seed_shift else ""
                raise ValueError(f"seeds: {seed}{shifted} is out of range; allowed: 0 to 2^62 - 1")

    def _check_learning_rates(self) -> None:
        for i, rate in enumerate(self.learning_rates):
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"learning_rates: {rate} is out of range; allowed: above 0")
            if rate in self.learning_rates[:i]:
                raise ValueError(f"learning_rates: {rate} occurs twice; remove one")
            if f"{rate:g}" in [f"{other:g}" for other in self.learning_rates[:i]]:
                raise ValueError(f"learning_rates: two are {rate:g} in six digits, as in folder names; remove one")
        if len(self.learning_rates) == 1:
            raise ValueError("learning_rates: there is only one; give two or more, or set train.learning_rate in base")
        if self.learning_rates:
            self._check_sweep_seeds()
        key = "train.learning_rate"
        for arm in self.arms:
            if self.learning_rates and key in arm.overrides:
                raise ValueError(f"arms.{arm.name}: {key} is chosen from learning_rates; remove one of the two")

    def _check_sweep_seeds(self) -> None:
        """Check that the runs of the sweep and of the study have different seeds."""
        of_study = {seed + arm.seed_shift for seed, arm in itertools.product(self.seeds, self.arms)}
        for arm in self.arms:
            seed = self.sweep_seed + arm.seed_shift
            if seed in of_study:
                raise ValueError(
                    f"seeds: {seed} is also the seed of the learning rate sweep of {arm.name} ({SWEEP_SEED:,} plus the "
                    "first seed); use other seeds, or a smaller seed_shift"
                )

    def _check_metric(self) -> None:
        needed = lookup(STUDY_METRICS, self.metric, "metric")
        named = self.evaluation.get("metrics")
        if named is None:
            return
        names = [name.strip() for name in named.split(",") if name.strip()]
        for name in names:
            if name not in STUDY_METRICS.values():
                known = list(dict.fromkeys(STUDY_METRICS.values()))
                raise ValueError(
                    f"evaluation.metrics: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}"
                )
        if needed not in names:
            raise ValueError(f"metric: {self.metric} is not measured; add {needed} to evaluation.metrics")

    def _check_differ(self, a: Arm, b: Arm) -> None:
        unseeded = [dataclasses.replace(x.config.train, seed=0) for x in (a, b)]
        first, second = (dataclasses.replace(x.config, train=t) for x, t in zip((a, b), unseeded, strict=True))
        # In both directions: at a constant rate a longer run can resume a shorter one, but is still another arm.
        if {*differences(first, second), *differences(second, first)} - {*OF_NO_EFFECT}:
            return
        if a.seed_shift == b.seed_shift:
            raise ValueError(
                f"arms: {a.name} and {b.name} compute the same; change an option of one, or give it a seed_shift to "
                "measure the effect of chance alone"
            )
        shared = {s + a.seed_shift for s in self.seeds} & {s + b.seed_shift for s in self.seeds}
        if shared:
            raise ValueError(
                f"arms: {a.name} and {b.name} differ only in seed_shift, and both contain seed {min(shared)}; use a "
                f"seed_shift above {max(self.seeds) - min(self.seeds)}"
            )
