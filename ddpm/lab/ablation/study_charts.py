"""The charts of a study."""

from collections.abc import Mapping, Sequence

from ddpm.lab.ablation.curves import Band, average, over_seconds, over_steps
from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.charts import Chart, Mark, Row, Series, draw_lines, draw_rows
from ddpm.lab.comparison.runs import is_finite
from ddpm.training.tracking import EVALUATION_PREFIX, EVALUATION_SETTINGS

Errors = dict[float, float]     # sigma -> mean squared error of x_0
RANGE = "Lines are means over seeds; the shaded range extends from the smallest to the largest value."


def draw_differences(outcome: Outcome, styles: Mapping[str, int]) -> Chart | None:
    """Draw the differences of the deciding metric by seed; return None where no seed has both arms."""
    metric, baseline = outcome.study.metric, outcome.study.baseline.name
    values = {
        arm: {run.seed: run.measured.value for run in runs if run.measured is not None}
        for arm, runs in outcome.runs.items()
    }
    rows = []
    for arm, found in outcome.deciding.items():
        both = [seed for seed in values[arm] if seed in values[baseline]]
        if both and found.value is not None:
            differences = {seed: values[arm][seed] - values[baseline][seed] for seed in both}
            seeds = [Mark(styles[arm], value, alpha=0.5, note=f"seed {s}") for s, value in differences.items()]
            mean = Mark(styles[arm], found.value, found.low, found.high, line=1, shape="D", note="mean")
            rows.append(Row(arm, [*seeds, mean], reference=0.0))
    if not rows:
        return None
    caption = f"Each dot is one seed: {metric} of the arm minus {metric} of {baseline}. The diamond is the mean."
    if any(row.marks[-1].low is not None for row in rows):
        caption += " The bar is its interval; if it crosses the dashed line at 0, no difference was found."
    sides = ("← better", "worse →") if outcome.better[metric] == "lower" else ("← worse", "better →")
    figure = draw_rows(rows, f"{metric}, minus the baseline's", sides=sides)
    return Chart("Differences by seed", figure, caption=caption)


def draw_curves(outcome: Outcome, styles: Mapping[str, int]) -> list[Chart]:
    """Draw the loss and the metrics evaluated during training, over steps and, where these were timed, over seconds."""
    runs = {arm: [run.run for run in of_arm if run.run is not None] for arm, of_arm in outcome.runs.items()}
    recorded = {key for of_arm in runs.values() for run in of_arm for record in run.records for key in record}
    evaluated = sorted(key for key in recorded if key.startswith(EVALUATION_PREFIX) and key != EVALUATION_SETTINGS)
    study, charts = outcome.study, []
    unlike = [arm.name for arm in study.arms if arm.config.diffusion != study.baseline.config.diffusion]
    for key in ("loss", *evaluated):
        bands = {arm: band for arm, of_arm in runs.items() if (band := over_steps(of_arm, key)) is not None}
        seconds = outcome.step_seconds
        timed = {arm: over_seconds(band, seconds[arm]) for arm, band in bands.items() if seconds.get(arm)}
        name = key.removeprefix(EVALUATION_PREFIX).replace("_", " ")
        for drawn, x_label in ((bands, "training steps"), (timed, "seconds of training")):
            others = [arm for arm in unlike if arm in drawn and key == "loss"]
            notes = [RANGE] if any(band.runs > 1 for band in drawn.values()) else []
            averaged = max((band.points_averaged for band in drawn.values()), default=1)
            if averaged > 1:
                notes.append(f"Each point is the mean of up to {averaged} logged values.")
            notes += [
                f"{arm}: {band.runs} of {len(runs[arm])} runs, the others end earlier."
                for arm, band in drawn.items()
                if band.runs < len(runs[arm])
            ]
            if others:
                notes.append(f"The loss of {', '.join(others)} cannot be compared with that of {study.baseline.name}.")
            if drawn:
                figure = draw_lines(_to_series(drawn, styles), x_label, name)
                charts.append(Chart(f"{name.capitalize()} over {x_label}", figure, list(drawn), " ".join(notes)))
    return charts


def draw_denoising(outcome: Outcome, styles: Mapping[str, int]) -> list[Chart]:
    """Draw the error of x_0 at each sigma, and its ratio to the baseline's at the same seed."""
    baseline = outcome.study.baseline.name
    errors = {arm: _errors(runs) for arm, runs in outcome.runs.items()}
    ratios = {
        arm: [
            {sigma: error / its[sigma] for sigma, error in own.items() if sigma in its}
            for seed, own in by_seed.items()
            if (its := errors[baseline].get(seed)) is not None
        ]
        for arm, by_seed in errors.items()
    }
    absolute = _over_sigmas({arm: list(by_seed.values()) for arm, by_seed in errors.items()})
    relative = _over_sigmas(ratios)
    charts = []
    if absolute:
        figure = draw_lines(_to_series(absolute, styles), "sigma", "mean squared error of x_0", x_scale="log")
        charts.append(Chart("Denoising error", figure, list(absolute), RANGE))
    if relative.keys() - {baseline}:             # the baseline is the line at 1
        figure = draw_lines(_to_series(relative, styles), "sigma", "ratio to the baseline's error", x_scale="log")
        title = f"Denoising error compared with {baseline}"
        charts.append(Chart(title, figure, list(relative), f"Below 1 is better. {RANGE}"))
    return charts


def _errors(runs: Sequence[RunOutcome]) -> dict[int, Errors]:
    """Return the errors of each seed that can be drawn on logarithmic axes."""
    found = {}
    for run in runs:
        points = () if run.evaluation is None else run.evaluation.content.get("denoising") or ()
        positive = [p for p in points if is_finite(p["x_0_error"]) and p["x_0_error"] > 0 and p["sigma"] > 0]
        if positive:
            found[run.seed] = {point["sigma"]: point["x_0_error"] for point in positive}
    return found


def _over_sigmas(errors: Mapping[str, Sequence[Errors]]) -> dict[str, Band]:
    """Return the mean and the range over the seeds of each arm, at the sigmas that all of them have."""
    bands = {}
    for arm, seeds in errors.items():
        sigmas = sorted(set.intersection(*map(set, seeds))) if seeds else []
        if sigmas:
            bands[arm] = average(sigmas, [[by_sigma[sigma] for sigma in sigmas] for by_sigma in seeds])
    return bands


def _to_series(bands: Mapping[str, Band], styles: Mapping[str, int]) -> list[Series]:
    series = []
    for arm, band in bands.items():
        shaded = list(zip(band.low, band.high, strict=True)) if band.runs > 1 else None
        series.append(Series(arm, styles[arm], list(zip(band.x, band.mean, strict=True)), band=shaded))
    return series
