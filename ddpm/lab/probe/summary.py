"""Summarizes the results of a probe in sentences for readers who do not know the code."""

from collections.abc import Sequence
from statistics import NormalDist, fmean

from ddpm.evaluation.estimates import Estimate
from ddpm.lab.pages import template_environment
from ddpm.lab.probe.results import Layer, MeanAblation, ProbeResults, Variance

PARTS = ("scale", "shift")
MEANS = {"class": "mean over classes", "timestep": "mean over timesteps", "all": "mean over both"}
SYMPTOMS = {
    "flips": "1 + scale < 0, which flips the sign of a channel; healthy models show this too",
    "dead": "channels with a gain close to 0 at every timestep and class",
    "exploding": "channels with a very large gain or shift",
    "unmoved": "channels that neither timestep nor class changes",
}
FAILURES = ("dead", "exploding", "unmoved")


def summarize(results: ProbeResults) -> list[str]:
    """Return the findings, the most general first; measurements that were left out are not mentioned."""
    whole = [ablation for ablation in results.mean_ablations if ablation.part == "both"]
    alone = [ablation for ablation in whole if ablation.layer is not None]
    text = template_environment().get_template("probe/summary.txt.jinja").render(
        results=results,
        names=number_layers(results.layers),
        pooled=[row for part in PARTS if (row := pool_variance(results, part)) is not None],
        together=[ablation for ablation in whole if ablation.layer is None],
        alone=alone,
        significant=[f for f in alone if (bonferroni_interval(f.relative, len(alone)).low or 0) > 0],
        failures=find_failures(results),
        means=MEANS,
        symptoms=SYMPTOMS,
        mean=fmean,
        percent=percent,
        change=format_change,
        is_inconclusive=is_inconclusive,
    )
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def number_layers(layers: Sequence[Layer]) -> dict[str, str]:
    """Return a short display name for each layer, numbered in the order of the forward pass."""
    return {layer.name: f"{i} {layer.side} {layer.resolution} px" for i, layer in enumerate(layers, 1)}


def pool_variance(results: ProbeResults, part: str) -> Variance | None:
    """Return the analysis of variance of the channels of all layers together; None if no layer has this part.

    Each layer is weighted by its variance and its number of channels.
    """
    channels = {layer.name: layer.channels for layer in results.layers}
    own = [(channels[row.layer] * row.total, row) for row in results.variance if row.part == part]
    if not own:
        return None
    whole = sum(weight for weight, _ in own)
    timestep, class_, interaction = (
        sum(weight * getattr(row, source) for weight, row in own) / (whole or 1.0)
        for source in ("timestep", "class_", "interaction")
    )
    return Variance("", part, whole / sum(channels[row.layer] for _, row in own), timestep, class_, interaction)


def bonferroni_interval(metric: Estimate, comparisons: int) -> Estimate:
    """Widen the interval of an estimate so that the intervals of all comparisons hold jointly (Bonferroni).

    Args:
        metric: an estimate with a nearly normal distribution.
        comparisons: number of comparisons, 1 or more.
    """
    value, low, high, count = metric
    if low is None or high is None:
        return metric
    wider = NormalDist().inv_cdf(1 - 0.025 / comparisons) / NormalDist().inv_cdf(0.975)
    return Estimate(value, value - wider * (value - low), value + wider * (high - value), count)


def is_inconclusive(ablation: MeanAblation) -> bool:
    """Return whether the largest rise may be 0, given that it is the largest of several."""
    _, low, high, _ = bonferroni_interval(ablation.largest.relative, len(ablation.rises))
    return low is not None and high is not None and low <= 0 <= high


def percent(fraction: float, sign: str = "") -> str:
    """Format a fraction as a percentage, with one decimal below 10 %, and with the sign if `sign` is "+"."""
    if 0 < fraction < 0.0005 and not sign:
        return "less than 0.1 %"
    return f"{100 * fraction:{sign},.{1 if 0 < abs(fraction) < 0.0995 else 0}f} %"


def format_change(metric: Estimate) -> str:
    """Format a relative change and its interval."""
    value, *ends = ("" if fraction is None else percent(fraction, "+") for fraction in metric[:3])
    return f"{value} ({' to '.join(ends)})" if all(ends) else value


def find_failures(results: ProbeResults) -> dict[str, list[tuple[str, float]]]:
    """Return the layers that show each symptom of failure, with the fraction of channels, worst first."""
    found = {name: [(r.layer, value) for r in results.symptoms if (value := getattr(r, name))] for name in FAILURES}
    return {name: sorted(layers, key=lambda pair: -pair[1]) for name, layers in found.items() if layers}
