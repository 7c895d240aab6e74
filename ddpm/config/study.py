"""A study: one question, arms that differ from one configuration, seeds, and the figure that decides."""

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from ddpm.config.sections import Config, differences
from ddpm.names import did_you_mean, lookup

# The figures of an evaluation, and the metric of scripts/evaluate.py that each comes with.
FIGURES = {
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
# What an arm may say of the data: which images there are, and how many are seen, is the same for all.
OF_THE_DATA = ("data.shuffle_labels", "data.flip", "data.workers", "data.memory_gb")
BUDGET = ("train.steps", "train.batch_size")
# What an arm may say of a model whose weights, and so whose architecture, the base gives.
OF_PRETRAINED = ("model.dropout", "model.gradient_checkpointing")
# Beside CHANGEABLE, what changes nothing that is computed.
OF_NO_EFFECT = ("train.log_every",)
SWEEP_SEED = 1_000_000      # plus the first seed of the study; the runs that choose a learning rate are no runs of it
# Names that stand beside the folders of the arms.
FILES = (".yaml", ".json", ".html")


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: of its folder.
        overrides: key such as "model.norm" -> value; how it differs from the base.
        config: the base with these; its seed does not count.
        seed_shift: added to every seed, so that two arms of one configuration are different runs of it.

    Raises:
        ValueError: if its name makes no folder name, or it sets what must be the same for all arms.
    """

    name: str
    overrides: dict[str, Any]
    config: Config
    seed_shift: int = 0

    def __post_init__(self) -> None:
        if len(self.name) > 100 or not re.fullmatch(r"\w([\w.+-]*[\w+-])?", self.name) or self.name.endswith(FILES):
            raise ValueError(
                f"arms: {self.name!r} cannot be the name of a folder here; use letters, digits, _, -, + and dots, as "
                "adagn_scale"
            )
        for key in self.overrides:
            if key == "train.seed":
                raise ValueError(f"arms.{self.name}: train.seed comes from seeds; remove it (seed_shift moves them)")
            if key in BUDGET:
                raise ValueError(f"arms.{self.name}: {key} gives the arms unequal budgets; set it in base")
            if key == "model.pretrained":
                raise ValueError(
                    f"arms.{self.name}: {key} gives the arms unequal budgets: its weights are trained already; set it "
                    "in base"
                )
            if self.config.model.pretrained and key.startswith("model.") and key not in OF_PRETRAINED:
                raise ValueError(
                    f"arms.{self.name}: {key} has no effect beside the model.pretrained of base: its architecture goes "
                    f"before the options; an arm may set {', '.join(OF_PRETRAINED)}"
                )
            if key.startswith("sample."):
                raise ValueError(
                    f"arms.{self.name}: {key} has the arms evaluated unequally; set it in base, or "
                    f"{key.removeprefix('sample.')} in evaluation"
                )
            if key.startswith("data.") and key not in OF_THE_DATA:
                raise ValueError(
                    f"arms.{self.name}: {key} gives the arms unequal data; set it in base (an arm may set "
                    f"{', '.join(OF_THE_DATA)})"
                )


@dataclass(frozen=True)
class Study:
    """Arms x seeds, and what decides between them.

    Attributes:
        question: for people.
        arms: two or more; the first is what the others are compared with.
        seeds: distinct; every arm is trained with each.
        metric: an entry of FIGURES, chosen before anything is measured.
        learning_rates: tried for each arm before the study, with a seed of their own; empty for no sweep.
        evaluation: options of scripts/evaluate.py -> values, the same for all runs.

    Raises:
        ValueError: if a value is out of range, arms do not differ, or the metric is not among what is evaluated.
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
        """The first arm, with which the others are compared."""
        return self.arms[0]

    @property
    def sweep_seed(self) -> int:
        """Of the runs that choose a learning rate, before an arm's shift."""
        return SWEEP_SEED + self.seeds[0]

    def config(self, arm: Arm, seed: int, learning_rate: float | None = None) -> Config:
        """The configuration of a run.

        Args:
            arm: one of the study's.
            seed: one of `seeds`, or that of a sweep; the arm's shift is added.
            learning_rate: in place of the arm's own; None leaves it.

        Raises:
            ValueError: if a value is out of range.
        """
        changes: dict[str, Any] = {"seed": seed + arm.seed_shift}
        if learning_rate is not None:
            changes["learning_rate"] = learning_rate
        return dataclasses.replace(arm.config, train=dataclasses.replace(arm.config.train, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the whole configuration of every arm, but for the seed: what is registered."""
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
            raise ValueError(f"arms: there are {len(self.arms)}; a study compares two or more")
        names = [arm.name.casefold() for arm in self.arms]      # some file systems do not tell A from a
        for i, arm in enumerate(self.arms):
            if names[i] in names[:i]:
                raise ValueError(f"arms: two are called {arm.name!r}; give each a name of its own")

    def _check_seeds(self) -> None:
        if not self.seeds:
            raise ValueError("seeds: there are none; give a list, as [0, 1, 2, 3, 4] (intervals need 3 or more)")
        for i, seed in enumerate(self.seeds):
            if seed in self.seeds[:i]:
                raise ValueError(f"seeds: {seed} is there twice; a run that is repeated tells nothing new")
        for arm, seed in itertools.product(self.arms, self.seeds):
            if not 0 <= seed + arm.seed_shift < 2**62:
                shifted = f" moved by seed_shift {arm.seed_shift} of {arm.name}" if arm.seed_shift else ""
                raise ValueError(f"seeds: {seed}{shifted} is out of range; allowed: 0 to 2^62 - 1")

    def _check_learning_rates(self) -> None:
        for i, rate in enumerate(self.learning_rates):
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"learning_rates: {rate} is out of range; allowed: above 0")
            if rate in self.learning_rates[:i]:
                raise ValueError(f"learning_rates: {rate} is there twice; remove one")
            if f"{rate:g}" in [f"{other:g}" for other in self.learning_rates[:i]]:
                raise ValueError(f"learning_rates: two are {rate:g} to six digits, as their folders say; remove one")
        if len(self.learning_rates) == 1:
            raise ValueError("learning_rates: one leaves nothing to choose; give two or more, or set it in base")
        if self.learning_rates:
            self._check_sweep_seeds()
        key = "train.learning_rate"
        for arm in self.arms:
            if self.learning_rates and key in arm.overrides:
                raise ValueError(f"arms.{arm.name}: {key} is chosen among learning_rates; remove one of the two")

    def _check_sweep_seeds(self) -> None:
        """The runs that choose a learning rate have seeds that no run of the study has."""
        of_study = {seed + arm.seed_shift for seed, arm in itertools.product(self.seeds, self.arms)}
        for arm in self.arms:
            seed = self.sweep_seed + arm.seed_shift
            if seed in of_study:
                raise ValueError(
                    f"seeds: {seed} is that of the sweep of {arm.name} too ({SWEEP_SEED:,} beyond the first seed); "
                    "take others, or a smaller seed_shift"
                )

    def _check_metric(self) -> None:
        needed = lookup(FIGURES, self.metric, "metric")
        named = self.evaluation.get("metrics")
        if named is None:
            return
        names = [name.strip() for name in named.split(",") if name.strip()]
        for name in names:
            if name not in FIGURES.values():
                known = list(dict.fromkeys(FIGURES.values()))
                raise ValueError(
                    f"evaluation.metrics: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}"
                )
        if needed not in names:
            raise ValueError(f"metric: {self.metric} is not among what is measured; add {needed} to evaluation.metrics")

    def _check_differ(self, a: Arm, b: Arm) -> None:
        unseeded = [dataclasses.replace(x.config.train, seed=0) for x in (a, b)]
        first, second = (dataclasses.replace(x.config, train=t) for x, t in zip((a, b), unseeded, strict=True))
        # Both ways: a longer run at a constant rate goes on from a shorter one, and yet is another arm.
        if {*differences(first, second), *differences(second, first)} - {*OF_NO_EFFECT}:
            return
        if a.seed_shift == b.seed_shift:
            raise ValueError(
                f"arms: {a.name} and {b.name} do not differ in what they compute; change an option of one, or give it "
                "a seed_shift to see what chance alone does"
            )
        shared = {s + a.seed_shift for s in self.seeds} & {s + b.seed_shift for s in self.seeds}
        if shared:
            raise ValueError(
                f"arms: {a.name} and {b.name} are the same but for seed_shift, and share the run of seed "
                f"{min(shared)}; shift by more than {max(self.seeds) - min(self.seeds)}"
            )
