"""Summarises the results of a probe in sentences for readers who do not know the code."""

from collections.abc import Sequence
from statistics import NormalDist, fmean

from ddpm.evaluation.estimates import Estimate
from ddpm.lab.probe.results import Erasure, Layer, ProbeResults, Swap, SwapPoint, Variance

SIGNIFICANT = 0.05          # significance level of p-values

FROZEN = {"class": "mean over classes", "timestep": "mean over timesteps", "all": "mean over both"}
SIGNS = {
    "flips": "1 + scale < 0, which flips the sign of a channel; healthy models show this too",
    "dead": "channels with a gain close to 0 at every timestep and class",
    "exploding": "channels with a very large gain or shift",
    "unmoved": "channels that neither timestep nor class changes",
}
FAILURES = ("dead", "exploding", "unmoved")


def summarize(results: ProbeResults) -> list[str]:
    """Return the findings, the most general first; measurements that were left out are not mentioned."""
    found = [
        _variance(results),
        _freezing(results),
        _one_layer(results),
        _separability(results),
        _swapped(results.swap),
        _sensitivity(results),
        _erasure(results),
        _flips(results),
        describe_failures(results),
    ]
    return [sentence for sentence in found if sentence]


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
        sum(weight * getattr(row, name) for weight, row in own) / (whole or 1.0)
        for name in ("timestep", "class_", "interaction")
    )
    return Variance("", part, whole / sum(channels[row.layer] for _, row in own), timestep, class_, interaction)


def bonferroni_interval(metric: Estimate, comparisons: int) -> Estimate:
    """Widen the interval of an estimate so that the intervals of all comparisons hold jointly (Bonferroni).

    Args:
        metric: an estimate with a nearly normal distribution.
        comparisons: number of comparisons, 1 or more.
    """
    if metric.low is None or metric.high is None:
        return metric
    wider = NormalDist().inv_cdf(1 - 0.025 / comparisons) / NormalDist().inv_cdf(0.975)
    value, low, high, count = metric
    return Estimate(value, value - wider * (value - low), value + wider * (high - value), count)


def percent(share: float) -> str:
    """Format a fraction as a percentage, with one decimal below 10 %."""
    if 0 < share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if 0 < abs(share) < 0.0995 else f"{100 * share:,.0f} %"


def format_change(metric: Estimate) -> str:
    """Format a relative change and its interval."""
    if metric.low is None or metric.high is None:
        return _signed(metric.value)
    return f"{_signed(metric.value)} ({_signed(metric.low)} to {_signed(metric.high)})"


def find_failures(results: ProbeResults) -> dict[str, list[tuple[str, float]]]:
    """Return the layers that show each sign of failure, with the fraction of channels, worst first."""
    found = {
        sign: sorted(
            ((row.layer, value) for row in results.signs if (value := getattr(row, sign))), key=lambda pair: -pair[1]
        )
        for sign in FAILURES
    }
    return {sign: layers for sign, layers in found.items() if layers}


def describe_failures(results: ProbeResults) -> str:
    """Return a sentence on the signs of failure; empty if they were not measured."""
    if not results.signs:
        return ""
    names, found = number_layers(results.layers), find_failures(results)
    if not found:
        return f"Signs of failure: none in {_layers(len(results.signs))}."
    sentences = [
        f"{SIGNS[sign]} ({_layers(len(layers))}, most in {names[layers[0][0]]}: {percent(layers[0][1])})"
        for sign, layers in found.items()
    ]
    return f"Signs of failure: {'; '.join(sentences)}."


def _flips(results: ProbeResults) -> str:
    known = [row for row in results.signs if row.flips is not None]
    if not any(row.flips for row in known):
        return ""
    names, most = number_layers(results.layers), max(known, key=lambda row: row.flips or 0.0)
    mean = percent(fmean(row.flips for row in known))
    return (
        f"1 + scale is negative, which flips the sign of a channel, for {mean} of timesteps, classes and channels "
        f"on average over {_layers(len(known))} (most in {names[most.layer]}: {percent(most.flips)}). This is an "
        "observation, not a failure: healthy models show it too."
    )


def _variance(results: ProbeResults) -> str:
    rows = [row for part in ("scale", "shift") if (row := pool_variance(results, part)) is not None]
    if not rows:
        return ""
    where = (
        f"over {len(results.grid.timesteps)} timesteps (nearly evenly spaced in the log signal-to-noise ratio) and "
        f"{_classes(len(results.grid.classes))}"
    )
    still = [row.part for row in rows if row.total == 0]
    sentences = [
        f"of the variance of the {row.part} {where}, the timestep explains {percent(row.timestep)}, the class "
        f"{percent(row.class_)} and their interaction {percent(row.interaction)} (effects of the class that depend on "
        "the timestep)"
        if not i else
        f"for the {row.part}, it is {percent(row.timestep)}, {percent(row.class_)} and {percent(row.interaction)}"
        for i, row in enumerate(row for row in rows if row.total > 0)
    ]
    sentences += [f"the {part} is constant {where}" for part in still]
    return _sentence("; ".join(sentences))


def _separability(results: ProbeResults) -> str:
    rows = results.separability
    if not rows:
        return ""
    significant = sum(row.p_value <= SIGNIFICANT for row in rows)
    return (
        f"The class can be predicted from the modulation alone in {significant} of {_layers(len(rows))} (p <= "
        f"{SIGNIFICANT} against permuted labels). This shows which layers receive the class, not that they use it: "
        "random projections of the embedding pass this test too."
    )


def _freezing(results: ProbeResults) -> str:
    whole = {f.over: f for f in results.freezing if f.layer is None and f.part == "both"}
    known = [(words, whole[over]) for over, words in FROZEN.items() if over in whole]
    if not known:
        return ""
    sentences = [
        f"with the {words}, {format_change(f.largest.relative)} at sigma {f.largest.sigma:.3g}"
        f"{_doubt(bonferroni_interval(f.largest.relative, len(f.rises)))} and {format_change(f.relative)} on average"
        for words, f in known
    ]
    levels = len(known[0][1].rises)
    return (
        "Change of the denoising error when the modulation of all layers is replaced by its mean, at the sigma with "
        f"the largest rise and on average over {levels} sigmas with equal weights, in percent of the error there: "
        f"{'; '.join(sentences)}."
    )


def _one_layer(results: ProbeResults) -> str:
    names = number_layers(results.layers)
    rows = [f for f in results.freezing if f.layer is not None and f.part == "both" and f.over in FROZEN]
    if not rows:
        return ""
    significant = [f for f in rows if (bonferroni_interval(f.relative, len(rows)).low or 0) > 0]
    if not significant:
        return (
            f"No single layer matters measurably: when the modulation of one of {_layers(len(rows))} is replaced by "
            "its mean, no rise of the error is significantly above 0."
        )
    worst = max(significant, key=lambda f: f.relative.value)
    return (
        f"The most important single layer is {names[worst.layer]}: when its modulation is replaced by its "
        f"{FROZEN[worst.over]}, the error changes by {format_change(worst.relative)} on average over sigmas with equal "
        f"weights (the largest of {len(rows)} layers, and therefore an overestimate; {len(significant)} of them "
        "are significantly above 0 after correction for multiple comparisons)."
    )


def _swapped(swap: Swap | None) -> str:
    if swap is None:
        return ""
    levels = [point for point in swap.points if point.kind == "levels"]
    sections = [point for point in swap.points if point.kind == "section"]
    found = []
    turned = next((point for point in levels[1:] if _reads_second(point)), None)
    if turned is not None:
        found.append(
            f"when {_where(turned)} are conditioned on another class, {percent(turned.second.value)} of the images are "
            "classified as that class"
        )
    elif levels:
        last = levels[-1]
        found.append(
            f"even when {_where(last)} are conditioned on another class, only {percent(last.second.value)} of the "
            "images are classified as that class, not significantly more than as the original class"
        )
    turning = [point for point in sections if _reads_second(point)]
    if sections and not turning:
        found.append("no section alone determines the class")
    elif turning:
        strongest = max(turning, key=lambda point: point.second.value)
        found.append(
            f"of the sections alone, the {strongest.where} has the largest effect ({percent(strongest.second.value)} "
            "of the images are classified as its class)"
        )
    accuracy = f"a reference classifier with an accuracy of {percent(swap.classifier_accuracy.value)} on new real images"
    return f"Where the class acts, according to {accuracy}: {'; '.join(found)}." if found else ""


def _where(point: SwapPoint) -> str:
    return "all layers" if point.where == "everywhere" else f"layers {point.where}"


def _reads_second(point: SwapPoint) -> bool:
    """Return whether more images are classified as B than as A, with disjoint intervals."""
    if point.second.low is None or point.first.high is None:
        return point.second.value > point.first.value
    return point.second.low > point.first.high


def _sensitivity(results: ProbeResults) -> str:
    if not results.sensitivity:
        return ""
    most = max(results.sensitivity, key=lambda point: point.difference.value / point.error)
    return (
        f"The class matters most at sigma {most.sigma:.3g}: with another class, the prediction of the network "
        f"changes by {percent(most.difference.value / most.error)} of its error there (root mean squares over images "
        "and pixels)."
    )


def _erasure(results: ProbeResults) -> str:
    known = [row for row in results.erasure if row.total is not None]
    if not known:
        return ""
    most = max(known, key=_total)
    names = number_layers(results.layers)
    return (
        f"The shift is added before the norm, which erases {percent(fmean(map(_total, known)))} of its variance by "
        f"subtracting group means, on average over {_layers(len(known))} "
        f"({percent(fmean(row.expected for row in known))} is expected for shifts that are independent between "
        f"channels); most in {names[most.layer]}: {percent(_total(most))}."
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %" if abs(share) < 0.0995 else f"{100 * share:+,.0f} %"


def _total(row: Erasure) -> float:
    return row.total or 0.0


def _doubt(metric: Estimate) -> str:
    return " (inconclusive)" if metric.low is not None and metric.low <= 0 <= metric.high else ""


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _classes(count: int) -> str:
    return f"{count} class{'es' * (count != 1)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
