"""The page of a study: one self-contained HTML file, with the verdict first and then the evidence."""

import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path

from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.ablation.statistics import MIN_PAIRS, POWER
from ddpm.lab.ablation.study_charts import draw_curves, draw_denoising, draw_differences
from ddpm.lab.ablation.sweep import read_sweep
from ddpm.lab.ablation.timing import read_timing
from ddpm.lab.charts import STYLES
from ddpm.lab.comparison.formats import TEMPLATE_FUNCTIONS
from ddpm.lab.comparison.sample_grids import ClassStrips, find_shared_samples
from ddpm.lab.pages import template_environment
from ddpm.models.norm import NORMS


def render_study(outcome: Outcome) -> str:
    """Return the page.

    Raises:
        ValueError: if a sample image cannot be read.
    """
    styles = {arm: i % STYLES for i, arm in enumerate(outcome.runs)}
    runs = [run for of_arm in outcome.runs.values() for run in of_arm]
    samples, sample_seed, sample_notes = _find_samples(outcome, runs)
    return template_environment().get_template("ablation/study.html.jinja").render(
        study=outcome.study,
        outcome=outcome,
        styles=styles,
        runs=runs,
        power=POWER,
        min_pairs=MIN_PAIRS,
        paired=draw_differences(outcome, styles),
        curves=draw_curves(outcome, styles),
        denoising=draw_denoising(outcome, styles),
        samples=samples,
        sample_seed=sample_seed,
        sample_notes=sample_notes,
        timing=read_timing(outcome.path),
        sweep=read_sweep(outcome.path),
        text=_read(outcome.path / "study.yaml"),
        base_text=_read(outcome.path / "base.yaml"),
        images=_list_images(outcome, runs),
        describe_norm=describe_norm,
        percent=_percent,
        quote=shlex.quote,
        **TEMPLATE_FUNCTIONS,
    )


def describe_norm(name: str) -> str:
    """Return the explanation of an entry of NORMS for readers of the page: the first paragraph of its docstring."""
    return " ".join((inspect.getdoc(NORMS[name]) or "").split("\n\n")[0].split())


def _read(path: Path) -> str:
    """Return the content of a file; empty if it does not exist."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _find_samples(outcome: Outcome, runs: Sequence[RunOutcome]) -> tuple[list[ClassStrips], int, list[str]]:
    """Return images of the seed that most arms finished (the lowest of these), and notes on missing arms."""
    by_seed = {
        seed: {run.arm: run.evaluation for run in runs if run.seed == seed and run.evaluation is not None}
        for seed in sorted(outcome.study.seeds)
    }
    seed = max(by_seed, key=lambda seed: len(by_seed[seed]))
    shown, notes = find_shared_samples(by_seed[seed])
    missing = [arm for arm in outcome.runs if arm not in by_seed[seed]]
    if missing and by_seed[seed]:
        notes.append(f"no seed was finished by all arms; for seed {seed} there are no images of {', '.join(missing)}")
    return shown, seed, notes


def _list_images(outcome: Outcome, runs: Sequence[RunOutcome]) -> list[tuple[str, str, str]]:
    """Return role, summary and fingerprint of all image sets, without duplicates."""
    sets = [("training", outcome.registered["data"])]
    sets += [("training", run.run.facts["data"]) for run in runs if run.run is not None]
    contents = [run.evaluation.content for run in runs if run.evaluation is not None]
    roles = {"reference": "reference", "held out": "held_out"}
    sets += [(role, content.get(key)) for content in contents for role, key in roles.items()]
    return list(dict.fromkeys((role, images["summary"], images["fingerprint"]) for role, images in sets if images))


def _percent(fraction: float | None, sign: bool = False) -> str:
    """Format a fraction as a percentage with four digits, such as 97.5 %, without a line break."""
    return "" if fraction is None else f"{100 * fraction:{'+' if sign else ''}.4g}\u00a0%"
