"""The page of a study: one self-contained HTML file, with the verdict first and then the evidence."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ddpm.config.study import Arm
from ddpm.evaluation.text_table import number
from ddpm.lab.ablation.glossary import MEANINGS, describe_norm
from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.ablation.run_provenance import path_from_parent
from ddpm.lab.ablation.statistics import LEAST_PAIRS, POWER, Contrast
from ddpm.lab.ablation.study_charts import draw_curves, draw_denoising, draw_differences
from ddpm.lab.ablation.sweep import read_sweep
from ddpm.lab.ablation.timing import read_timing
from ddpm.lab.charts import STYLES
from ddpm.lab.comparison.comparison_table import setting, signed
from ddpm.lab.comparison.runs import Evaluation, finite
from ddpm.lab.comparison.sample_grids import ClassStrips, find_shared_samples
from ddpm.lab.pages import template_environment


def render_study(outcome: Outcome) -> str:
    """Return the page.

    Raises:
        ValueError: if a sample image cannot be read.
    """
    study = outcome.study
    styles = {arm.name: i % STYLES for i, arm in enumerate(study.arms)}
    runs = [run for of_arm in outcome.runs.values() for run in of_arm]
    samples, sample_seed, gone = _samples(outcome)
    templates = template_environment()
    templates.globals |= {
        "interval": _interval,
        "number": _number,
        "describe_norm": describe_norm,
        "percent": _percent,
        "signed": _signed,
        "state": _state,
        "value_of": _value_of,
    }
    return templates.get_template("ablation/study.html.jinja").render(
        study=study,
        outcome=outcome,
        styles=styles,
        arms=[_arm_row(arm, outcome) for arm in study.arms],
        runs=runs,
        diverged=sum(run.diverged is not None for run in runs),
        norms=list(dict.fromkeys(arm.config.model.norm for arm in study.arms)),
        metrics=[study.metric, *(name for name in outcome.exploratory if name != study.metric)],
        meanings=MEANINGS,
        level=next(iter(outcome.primary.values())).level,
        comparisons=len(outcome.primary),
        power=POWER,
        least_pairs=LEAST_PAIRS,
        paired=draw_differences(outcome, styles),
        curves=draw_curves(outcome, styles),
        denoising=draw_denoising(outcome, styles),
        samples=samples,
        sample_seed=sample_seed,
        gone=gone,
        timing=read_timing(outcome.path),
        sweep=read_sweep(outcome.path),
        text=_text(outcome.path / "study.yaml"),
        base_text=_text(outcome.path / "base.yaml"),
        commands=_commands(outcome),
        made_with=[*outcome.registered["versions"].items(), ("commit", outcome.registered["git_commit"] or "unknown")],
        images=_images(outcome.registered, runs),
    )


def _text(path: Path) -> str:
    """Return the content of a file; empty if it does not exist."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _arm_row(arm: Arm, outcome: Outcome) -> dict[str, Any]:
    """Return the cells of an arm in the table of arms."""
    runs = outcome.runs[arm.name]
    facts = next((run.run.facts for run in runs if run.run is not None), {})
    seconds, baseline = (outcome.step_seconds.get(name) for name in (arm.name, outcome.study.baseline.name))
    changes = [f"{key}: {setting(value)}" for key, value in arm.overrides.items()]
    if arm.seed_shift:
        changes.append(f"all seeds shifted by {arm.seed_shift:,}")
    finished = sum(run.measured is not None for run in runs)
    diverged = sum(run.diverged is not None for run in runs)
    missing = len(runs) - finished - diverged
    others = [f"{count} {state}" for count, state in ((diverged, "diverged"), (missing, "missing")) if count]
    return {
        "name": arm.name,
        "changes": changes,
        "norm": arm.config.model.norm,
        "parameters": _counted(facts.get("parameters")),
        "relative_size": _relative_size(arm, facts.get("parameters"), outcome),
        "multiply_adds": _counted(facts.get("multiply_adds")),
        "step": f"{1000 * median(seconds):.4g} ms" if seconds else "none",
        "ratio": f"{median(seconds) / median(baseline):.3f}" if seconds and baseline else "none",
        "runs": ", ".join([f"{finished} of {len(runs)}", *others]),
    }


def _relative_size(arm: Arm, parameters: Any, outcome: Outcome) -> str:
    """Return the difference of the number of parameters from the baseline, so that a poor match is visible."""
    baseline = outcome.study.baseline.name
    theirs = next((run.run.facts.get("parameters") for run in outcome.runs[baseline] if run.run is not None), None)
    if arm.name == baseline or not finite(parameters) or not finite(theirs):
        return ""
    percent = 100 * (parameters - theirs) / theirs
    return f"{abs(percent):.2f} % {'more' if percent > 0 else 'fewer'} than {baseline}" if percent else f"as {baseline}"


def _samples(outcome: Outcome) -> tuple[list[ClassStrips], int | None, list[str]]:
    """Return images of the seed that most arms finished (the lowest of these), and notes on missing arms."""
    by_seed: dict[int, dict[str, Evaluation]] = {}
    for arm, runs in outcome.runs.items():
        for run in runs:
            if run.evaluation is not None:
                by_seed.setdefault(run.seed, {})[arm] = run.evaluation
    if not by_seed:
        return [], None, []
    seed = min(by_seed, key=lambda seed: (-len(by_seed[seed]), seed))
    shown, notes = find_shared_samples(by_seed[seed])
    missing = [arm for arm in outcome.runs if arm not in by_seed[seed]]
    if missing:
        notes.append(f"no seed was finished by all arms; for seed {seed} there are no images of {', '.join(missing)}")
    return shown, seed, notes


def _commands(outcome: Outcome) -> list[tuple[str, str]]:
    """Return descriptions and commands. Paths are relative to the parent of the study's directory."""
    options = [
        f"--{key.replace('_', '-')} {shlex.quote(setting(value))}" for key, value in outcome.study.evaluation.items()
    ]
    first_run = outcome.path / outcome.study.baseline.name / f"seed_{outcome.study.seeds[0]}"
    whole, text, first = (
        shlex.quote(path_from_parent(outcome.path, place))
        for place in (outcome.path, outcome.path / "resolved.yaml", first_run / "config.yaml")
    )
    again = "runs/again"
    return [
        ("the whole study from the start (resolved.yaml has the values of all options)",
         f"python scripts/ablate.py --study {text} --run-dir {again}"),
        ("on several GPUs", f"accelerate launch scripts/ablate.py --study {text} --run-dir {again}"),
        ("the unfinished runs of this study", f"python scripts/ablate.py --study {text} --run-dir {whole}"),
        ("one of the runs", f"python scripts/train.py --config {first} --run-dir {again}"),
        ("the evaluation of that run", " ".join([f"python scripts/evaluate.py {again}", *options])),
    ]


def _images(registered: Mapping[str, Any], runs: Sequence[RunOutcome]) -> list[tuple[str, str, str]]:
    """Return role, summary and fingerprint of all image sets, without duplicates."""
    found: dict[tuple[str, str, str], None] = {}

    def add(role: str, record: Mapping[str, Any] | None) -> None:
        if record:
            found[role, record["summary"], record["fingerprint"]] = None

    add("training", registered["data"])
    for run in runs:
        if run.run is not None:
            add("training", run.run.facts["data"])
        if run.evaluation is not None:
            add("reference", run.evaluation.content["reference"])
            add("held out", run.evaluation.content.get("held_out"))
    return list(found)


def _state(run: RunOutcome) -> str:
    if run.diverged is not None:
        return f"diverged: {run.diverged}"
    if run.measured is not None:
        return "finished"
    return "does not exist yet" if run.run is None else "without a comparable metric"


def _value_of(run: RunOutcome, metric: str) -> str:
    """Format a metric of a run with enough digits to repeat the statistics."""
    content = {} if run.evaluation is None else run.evaluation.content["metrics"]
    value = content[metric]["value"] if metric in content else None
    return f"{value:.8g}" if finite(value) else ""


def _number(value: float | None) -> str:
    return number(value) if finite(value) else ""


def _signed(value: float | None) -> str:
    return signed(value) if finite(value) else ""


def _interval(found: Contrast) -> str:
    return f"{signed(found.low)} to {signed(found.high)}" if finite(found.low) and finite(found.high) else ""


def _percent(fraction: float | None, sign: bool = False) -> str:
    """Format a fraction as a percentage with four digits, such as 97.5 %, without a line break."""
    return f"{100 * fraction:{'+' if sign else ''}.4g}\u00a0%" if finite(fraction) else ""


def _counted(value: Any) -> str:
    return f"{value:,}" if finite(value) else "unknown"
