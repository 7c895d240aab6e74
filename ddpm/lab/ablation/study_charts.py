"""The charts of a study."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from ddpm.lab.ablation.curves import Band, over_seconds, over_steps
from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.charts import Chart, Mark, Row, Series, draw_lines, draw_rows
from ddpm.lab.comparison.runs import EVALUATED, EVALUATED_BY, Run, finite

Errors = dict[float, float]     # sigma -> mean squared error of x_0
RANGE = "Lines are means over seeds; the shaded range is from the least to the greatest."


def draw_differences(outcome: Outcome, styles: Mapping[str, int]) -> Chart | None:
    """Draw the differences of the primary metric by seed; return None where no seed has both arms."""
    metric, baseline = outcome.study.metric, outcome.study.baseline.name
    of_baseline, rows = _values(outcome, baseline), []
    for arm, found in outcome.primary.items():
        differences = {s: value - of_baseline[s] for s, value in _values(outcome, arm).items() if s in of_baseline}
        if differences and found.value is not None:
            seeds = [Mark(styles[arm], value, alpha=0.5, note=f"seed {s}") for s, value in differences.items()]
            mean = Mark(styles[arm], found.value, found.low, found.high, line=1, shape="D", note="mean")
            rows.append(Row(arm, [*seeds, mean], reference=0.0))
    if not rows:
        return None
    caption = f"A dot is a seed: the arm's {metric} minus that of {baseline}. A diamond is a mean."
    if any(row.marks[-1].low is not None for row in rows):
        caption += " The bar is its interval; where it crosses the dashed line at 0, the arms cannot be distinguished."
    sides = ("← better", "worse →") if outcome.better[metric] == "lower" else ("← worse", "better →")
    figure = draw_rows(rows, f"{metric}, minus the baseline's", sides=sides)
    return Chart("Differences by seed", figure, caption=caption)


def draw_curves(outcome: Outcome, styles: Mapping[str, int]) -> list[Chart]:
    """Draw the loss and the metrics evaluated during training, over steps and, where these were timed, over seconds."""
    runs = {arm: [run.run for run in of_arm if run.run is not None] for arm, of_arm in outcome.runs.items()}
    recorded = {key for of_arm in runs.values() for run in of_arm for record in run.records for key in record}
    evaluated = sorted(key for key in recorded if key.startswith(EVALUATED) and key != EVALUATED_BY)
    charts = []
    for key in ("loss", *evaluated):
        bands = {arm: over_steps(of_arm, key) for arm, of_arm in runs.items()}
        known = {arm: band for arm, band in bands.items() if band is not None}
        timed = {
            arm: over_seconds(band, outcome.step_seconds[arm])
            for arm, band in known.items()
            if outcome.step_seconds.get(arm)
        }
        for drawn, x_label in ((known, "training steps"), (timed, "seconds of training")):
            if drawn:
                charts.append(_draw_curve(key, drawn, x_label, outcome, runs, styles))
    return charts


def _draw_curve(
    key: str,
    bands: Mapping[str, Band],
    x_label: str,
    outcome: Outcome,
    runs: Mapping[str, Sequence[Run]],
    styles: Mapping[str, int],
) -> Chart:
    name = key.removeprefix(EVALUATED).replace("_", " ")
    series = [
        Series(
            arm,
            styles[arm],
            list(zip(band.x, band.mean, strict=True)),
            band=list(zip(band.low, band.high, strict=True)) if band.runs > 1 else None,
        )
        for arm, band in bands.items()
    ]
    notes = [RANGE] if any(line.band for line in series) else []
    together = max(band.together for band in bands.values())
    if together > 1:
        notes.append(f"Each point is the mean of up to {together} logged values.")
    notes += [
        f"{arm}: {band.runs} of {len(runs[arm])} runs, the others end earlier."
        for arm, band in bands.items()
        if band.runs < len(runs[arm])
    ]
    configs = {arm.name: arm.config for arm in outcome.study.arms}
    others = [arm for arm in bands if configs[arm].diffusion != outcome.study.baseline.config.diffusion]
    if key == "loss" and others:
        baseline = outcome.study.baseline.name
        notes.append(f"The loss of {', '.join(others)} cannot be compared with that of {baseline}.")
    figure = draw_lines(series, x_label, name)
    return Chart(f"{name.capitalize()} over {x_label}", figure, list(bands), " ".join(notes))


def draw_denoising(outcome: Outcome, styles: Mapping[str, int]) -> list[Chart]:
    """Draw the error of x_0 at each sigma, and its ratio to the baseline's at the same seed."""
    baseline = outcome.study.baseline.name
    errors = {arm: _errors(runs) for arm, runs in outcome.runs.items()}
    ratios = {arm: _ratios(by_seed, errors[baseline]) for arm, by_seed in errors.items()}
    absolute = [_line(arm, styles[arm], list(by_seed.values())) for arm, by_seed in errors.items()]
    relative = [_line(arm, styles[arm], by_seed) for arm, by_seed in ratios.items()]
    absolute, relative = ([line for line in lines if line is not None] for lines in (absolute, relative))
    charts = []
    if absolute:
        figure = draw_lines(absolute, "sigma", "mean squared error of x_0", x_scale="log")
        charts.append(Chart("Denoising error", figure, [line.name for line in absolute], RANGE))
    if any(line.name != baseline for line in relative):             # the baseline is the line at 1
        figure = draw_lines(relative, "sigma", "ratio to the baseline's error", x_scale="log")
        title, names = f"Denoising error compared with {baseline}", [line.name for line in relative]
        charts.append(Chart(title, figure, names, f"Below 1 is better. {RANGE}"))
    return charts


def _values(outcome: Outcome, arm: str) -> dict[int, float]:
    """Return the primary metric of each seed."""
    measured = {run.seed: run.measured for run in outcome.runs[arm]}
    return {seed: found.value for seed, found in measured.items() if found is not None and finite(found.value)}


def _errors(runs: Sequence[RunOutcome]) -> dict[int, Errors]:
    """Return the errors of each seed that can be drawn on logarithmic axes."""
    found = {}
    for run in runs:
        points = (run.evaluation.content.get("denoising") if run.evaluation is not None else None) or ()
        good = [p for p in points if finite(p["x_0_error"]) and p["x_0_error"] > 0 and p["sigma"] > 0]
        if good:
            found[run.seed] = {p["sigma"]: p["x_0_error"] for p in good}
    return found


def _ratios(arm: Mapping[int, Errors], baseline: Mapping[int, Errors]) -> list[Errors]:
    pairs = [(errors, baseline[seed]) for seed, errors in arm.items() if seed in baseline]
    return [{at: own[at] / other[at] for at in own if at in other} for own, other in pairs]


def _line(arm: str, style: int, seeds: Sequence[Errors]) -> Series | None:
    """Return the mean and the range over seeds, at the sigmas that all of them have."""
    levels = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not levels:
        return None
    columns = [[errors[level] for errors in seeds] for level in levels]
    means = [(level, fmean(column)) for level, column in zip(levels, columns, strict=True)]
    band = [(min(column), max(column)) for column in columns] if len(seeds) > 1 else None
    return Series(arm, style, means, band=band)
