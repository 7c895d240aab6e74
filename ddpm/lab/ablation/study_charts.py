"""The charts of a study."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ddpm.lab.ablation.curves import Band, over_seconds, over_steps
from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.axes import fitting, linear, logarithmic
from ddpm.lab.charts import Chart, Series, legend, line_chart
from ddpm.lab.comparison.runs import EVALUATED, EVALUATED_BY, Run, finite
from ddpm.lab.paired import Paired, difference_chart

Errors = dict[float, float]     # noise level -> mean squared error of x_0
RANGE = "Lines are means over seeds, shaded from the least to the greatest."


def paired_chart(outcome: Outcome, styles: Mapping[str, int]) -> Chart | None:
    """Differences of the deciding figure by seed; None where no seed has both arms."""
    metric, baseline = outcome.study.metric, _values(outcome, outcome.study.baseline.name)
    rows = []
    for arm, found in outcome.primary.items():
        differences = {s: value - baseline[s] for s, value in _values(outcome, arm).items() if s in baseline}
        if differences and found.value is not None:
            rows.append(Paired(arm, styles[arm], differences, found.value, found.low, found.high))
    if not rows:
        return None
    caption = f"A dot is a seed: the arm's {metric} minus that of {outcome.study.baseline.name}. A diamond is a mean."
    if any(row.low is not None for row in rows):
        caption += " The bar is its interval; where it crosses the upright line, the arms are not told apart."
    svg = difference_chart(rows, metric, outcome.better[metric])
    return Chart("Differences by seed", Markup(svg), (), caption)


def curve_charts(outcome: Outcome, styles: Mapping[str, int]) -> list[Chart]:
    """The loss, and what was evaluated while the runs trained: over steps, and over seconds where steps were timed."""
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
                charts.append(_curve(key, drawn, x_label, outcome, runs, styles))
    return charts


def _curve(
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
    told = [RANGE] if any(line.band for line in series) else []
    together = max(band.together for band in bands.values())
    if together > 1:
        told.append(f"Each point is the mean of up to {together} logged values.")
    told += [
        f"{arm}: of {band.runs} of {len(runs[arm])} runs, the others end earlier."
        for arm, band in bands.items()
        if band.runs < len(runs[arm])
    ]
    configs = {arm.name: arm.config for arm in outcome.study.arms}
    others = [arm for arm in bands if configs[arm].diffusion != outcome.study.baseline.config.diffusion]
    if key == "loss" and others:
        told.append(f"The loss of {', '.join(others)} is another quantity than that of {outcome.study.baseline.name}.")
    svg = line_chart(series, x_label, name, linear, fitting)
    return Chart(f"{name.capitalize()} over {x_label}", Markup(svg), legend(series), " ".join(told))


def denoising_charts(outcome: Outcome, styles: Mapping[str, int]) -> list[Chart]:
    """Error of x_0 at each noise level, and the same as a share of the baseline's at the same seed."""
    errors = {arm: _errors(runs) for arm, runs in outcome.runs.items()}
    base = errors[outcome.study.baseline.name]
    lines = [_line(arm, styles, list(by_seed.values())) for arm, by_seed in errors.items()]
    ratios = [_line(arm, styles, _ratios(by_seed, base)) for arm, by_seed in errors.items()]
    charts = []
    if any(lines):
        series = [line for line in lines if line is not None]
        svg = line_chart(series, "noise level", "mean squared error of x_0", logarithmic, fitting)
        charts.append(Chart("Denoising error", Markup(svg), legend(series), RANGE))
    others = [line for line in ratios if line is not None and line.name != outcome.study.baseline.name]
    if others:
        shown = [line for line in ratios if line is not None]       # the baseline is the line at 1
        svg = line_chart(shown, "noise level", f"error / that of {outcome.study.baseline.name}", logarithmic, fitting)
        title = f"Denoising error beside {outcome.study.baseline.name}"
        charts.append(Chart(title, Markup(svg), legend(shown), f"Below 1 is better. {RANGE}"))
    return charts


def _values(outcome: Outcome, arm: str) -> dict[int, float]:
    """Seed -> the deciding figure."""
    measured = {run.seed: run.measured for run in outcome.runs[arm]}
    return {seed: found.value for seed, found in measured.items() if found is not None and finite(found.value)}


def _errors(runs: Sequence[RunOutcome]) -> dict[int, Errors]:
    """Seed -> its errors, as far as they can be drawn on axes of factors."""
    found = {}
    for run in runs:
        points = (run.evaluation.content.get("denoising") if run.evaluation is not None else None) or ()
        good = [p for p in points if finite(p["x_0_error"]) and p["x_0_error"] > 0 and p["noise_level"] > 0]
        if good:
            found[run.seed] = {p["noise_level"]: p["x_0_error"] for p in good}
    return found


def _ratios(arm: Mapping[int, Errors], baseline: Mapping[int, Errors]) -> list[Errors]:
    pairs = [(errors, baseline[seed]) for seed, errors in arm.items() if seed in baseline]
    return [{at: own[at] / other[at] for at in own if at in other} for own, other in pairs]


def _line(arm: str, styles: Mapping[str, int], seeds: Sequence[Errors]) -> Series | None:
    """Mean and range over seeds, at the noise levels that all of them have."""
    levels = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not levels:
        return None
    columns = [[errors[level] for errors in seeds] for level in levels]
    means = [(level, sum(column) / len(column)) for level, column in zip(levels, columns, strict=True)]
    band = [(min(column), max(column)) for column in columns] if len(seeds) > 1 else None
    return Series(arm, styles[arm], means, band=band)
