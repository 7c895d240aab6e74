"""A study: a question, arms that differ from one base configuration, seeds, and the metric that decides."""

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ddpm.config.changes import NOT_FREE, differences
from ddpm.config.ineffective_options import WHY_INEFFECTIVE, without_ineffective
from ddpm.config.sections import Config
from ddpm.names import lookup

# The metrics of an evaluation, each with the entry of METRICS in ddpm.evaluation that measures it.
STUDY_METRICS = {
    "frechet_distance": "frechet_distance", "frechet_distance_infinity": "frechet_distance",
    "kernel_distance": "kernel_distance", "inception_score": "inception_score",
    **dict.fromkeys(["precision", "recall", "density", "coverage"], "precision_recall"),
    "accuracy": "accuracy", "memorized": "memorization",
    "denoising_error": "denoising", "bits_per_dim": "bits_per_dim",
}
# Prefixes of options that would make the comparison of arms unfair, and what is wrong with them.
UNFAIR = {
    "train.seed": "is set by seeds; remove it, or use seed_shift",
    "train.steps": "would give the arms unequal budgets; set it in base",
    "train.batch_size": "would give the arms unequal budgets; set it in base",
    "model.pretrained": "would give the arms unequal budgets, because its weights are trained; set it in base",
    "sample.": "would make the evaluation of the arms unequal; set it in base, or set {name} in evaluation",
    "data.": "would give the arms unequal data; set it in base (an arm may set {allowed})",
}
NO_EFFECT_IF_PRETRAINED = {
    "model.": "has no effect, because model.pretrained in base determines the architecture; an arm may set {allowed}"
}
# Options with a prefix above that an arm may set nevertheless.
ALLOWED_IN_ARMS = {
    "data.": (
        *("data.shuffle_labels", "data.horizontal_flip", "data.balance", "data.augment", "data.augmentations"),
        *("data.workers", "data.cache_gb", "data.memory_gb"),
    ),
    "model.": ("model.dropout", "model.gradient_checkpointing"),
}
SWEEP_SEED = 1_000_000      # added to the first seed of the study for the runs that choose a learning rate
# An arm's name must not end like a file of the study, because its folder is next to them.
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
        rules = UNFAIR | (NO_EFFECT_IF_PRETRAINED if self.config.model.pretrained else {})
        for key, (prefix, problem) in itertools.product(self.overrides, rules.items()):
            allowed = ALLOWED_IN_ARMS.get(prefix, ())
            if key.startswith(prefix) and key not in allowed:
                remedy = problem.format(name=key.removeprefix(prefix), allowed=", ".join(allowed))
                raise ValueError(f"arms.{self.name}: {key} {remedy}")


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
        base: the configuration that the arms override.

    Raises:
        ValueError: if a value is out of range, two arms do not differ, or the evaluation does not measure the metric.
    """

    question: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    metric: str
    learning_rates: tuple[float, ...] = ()
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    base: Config = dataclasses.field(default_factory=Config)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

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
        rate = arm.config.train.learning_rate if learning_rate is None else learning_rate
        return arm.config.with_options({"train.seed": seed + arm.seed_shift, "train.learning_rate": rate})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the whole configuration of every arm except its seed."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))        # with lists instead of tuples
        del plain["base"]       # the arms have its options
        for arm in plain["arms"]:
            del arm["config"]["train"]["seed"]
        return plain

    def _problems(self) -> Iterator[str]:
        if len(self.arms) < 2:
            yield f"arms: there are {len(self.arms)}; give two or more to compare"
        for name in _repeated(arm.name.casefold() for arm in self.arms):        # some file systems ignore case
            yield f"arms: {name} occurs twice; rename one (case is ignored)"
        yield from self._problems_of_seeds()
        yield from self._problems_of_learning_rates()
        yield from self._problems_of_metric()
        for a, b in itertools.combinations(self.arms, 2):
            yield from self._problems_of_pair(a, b)

    def _problems_of_seeds(self) -> Iterator[str]:
        if not self.seeds:
            yield "seeds: the list is empty; give seeds, such as [0, 1, 2, 3, 4] (intervals need 3 or more)"
        for seed in _repeated(self.seeds):
            yield f"seeds: {seed} occurs twice; remove one, because equal seeds give equal runs"
        for arm, seed in itertools.product(self.arms, self.seeds):
            if not 0 <= seed + arm.seed_shift < 2**62:
                shifted = f" plus seed_shift {arm.seed_shift} of {arm.name}" if arm.seed_shift else ""
                yield f"seeds: {seed}{shifted} is out of range; allowed: 0 to 2^62 - 1"

    def _problems_of_learning_rates(self) -> Iterator[str]:
        for rate in self.learning_rates:
            if not 0 < rate < math.inf:
                yield f"learning_rates: {rate} is out of range; allowed: above 0"
        for digits in _repeated(f"{rate:g}" for rate in self.learning_rates):
            yield f"learning_rates: {digits} occurs twice; remove one (folders are named after six digits)"
        if len(self.learning_rates) == 1:
            yield "learning_rates: there is only one; give two or more, or set train.learning_rate in base"
        of_study = {seed + arm.seed_shift for seed, arm in itertools.product(self.seeds, self.arms)}
        for arm in self.arms if self.learning_rates else ():
            if "train.learning_rate" in arm.overrides:
                yield f"arms.{arm.name}: train.learning_rate is chosen from learning_rates; remove one of the two"
            if (seed := self.sweep_seed + arm.seed_shift) in of_study:
                yield (
                    f"seeds: {seed} is also the seed of the learning rate sweep of {arm.name} ({SWEEP_SEED:,} plus the "
                    "first seed); use other seeds, or a smaller seed_shift"
                )

    def _problems_of_metric(self) -> Iterator[str]:
        needed = lookup(STUDY_METRICS, self.metric, "metric")
        given = self.evaluation.get("metrics")
        names = [name.strip() for name in (needed if given is None else given).split(",") if name.strip()]
        for name in names:
            lookup(dict.fromkeys(STUDY_METRICS.values()), name, "evaluation.metrics")
        if needed not in names:
            yield f"metric: {self.metric} is not measured; add {needed} to evaluation.metrics"

    def _problems_of_pair(self, a: Arm, b: Arm) -> Iterator[str]:
        first, second = (without_ineffective(arm.config).with_options({"train.seed": 0}) for arm in (a, b))
        # In both directions: null matches every value of the other arm, but need not stand for it.
        if differences(first, second, NOT_FREE) or differences(second, first, NOT_FREE):
            return
        if a.seed_shift == b.seed_shift:
            given = {key: arm.config for arm in (a, b) for key in arm.overrides if key in WHY_INEFFECTIVE}
            reasons = {key: WHY_INEFFECTIVE[key](config) for key, config in given.items()}
            causes = [f"{key} has no effect {reason}" for key, reason in reasons.items() if reason is not None]
            yield (
                f"arms: {a.name} and {b.name} have the same configuration{', because ' * bool(causes)}"
                f"{' and '.join(causes)}; change an option of one, or give it a seed_shift to measure the effect of "
                "chance alone"
            )
        for seed in sorted({s + a.seed_shift for s in self.seeds} & {s + b.seed_shift for s in self.seeds}):
            yield (
                f"arms: {a.name} and {b.name} differ only in seed_shift, and both contain seed {seed}; use a "
                f"seed_shift above {max(self.seeds) - min(self.seeds)}"
            )


def _repeated(values: Iterable[Any]) -> list[Any]:
    """Return the values that occur more than once."""
    return [value for value, times in Counter(values).items() if times > 1]
