"""What the numbers of a probe bear, in sentences for somebody who has never met the code."""

from collections.abc import Sequence
from statistics import NormalDist, fmean

from ddpm.evaluation.estimates import Figure
from ddpm.lab.probe.results import Erasure, Layer, Probed, Swap, SwapPoint, Variance

SIGNIFICANT = 0.05          # p-values up to here are counted

FROZEN = {"class": "the class averaged away", "timestep": "the timestep averaged away", "all": "both averaged away"}
SIGNS = {
    "flips": "1 + scale below 0, so that channels change their sign; healthy models do that too",
    "dead": "channels whose gain is next to nothing at every timestep and class",
    "exploding": "channels with a very large gain or shift",
    "unmoved": "channels that neither timestep nor class moves",
}
FAILURES = ("dead", "exploding", "unmoved")


def verdict(probed: Probed) -> list[str]:
    """The findings, most general first; what was not measured is not spoken of."""
    found = [
        _variance(probed),
        _freezing(probed),
        _one_layer(probed),
        _separability(probed),
        _swapped(probed.swap),
        _sensitivity(probed),
        _erasure(probed),
        _flips(probed),
        failure(probed),
    ]
    return [sentence for sentence in found if sentence]


def numbered(layers: Sequence[Layer]) -> dict[str, str]:
    """Name of each layer -> a short name for people, counted in the order of the forward pass."""
    return {layer.name: f"{i} {layer.depth} {layer.resolution} px" for i, layer in enumerate(layers, 1)}


def shares(probed: Probed, part: str) -> Variance | None:
    """Analysis of variance of all layers' channels together; None where no layer has this part.

    Each layer counts with its variance and its number of channels.
    """
    channels = {layer.name: layer.channels for layer in probed.layers}
    own = [(channels[row.layer] * row.total, row) for row in probed.variance if row.part == part]
    if not own:
        return None
    whole = sum(weight for weight, _ in own)
    timestep, class_, interaction = (
        sum(weight * getattr(row, name) for weight, row in own) / (whole or 1.0)
        for name in ("timestep", "class_", "interaction")
    )
    return Variance("", part, whole / sum(channels[row.layer] for _, row in own), timestep, class_, interaction)


def of_many(figure: Figure, comparisons: int) -> Figure:
    """The figure with the interval that holds for all of so many figures together (Bonferroni).

    Args:
        figure: close to normal.
        comparisons: how many it is the most striking of, 1 or more.
    """
    if figure.low is None or figure.high is None:
        return figure
    wider = NormalDist().inv_cdf(1 - 0.025 / comparisons) / NormalDist().inv_cdf(0.975)
    value, low, high, count = figure
    return Figure(value, value - wider * (value - low), value + wider * (high - value), count)


def per_cent(share: float) -> str:
    """A share, with a digit after the point below 10 %."""
    if 0 < share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if 0 < abs(share) < 0.0995 else f"{100 * share:,.0f} %"


def change(figure: Figure) -> str:
    """A relative change and its interval."""
    if figure.low is None or figure.high is None:
        return _signed(figure.value)
    return f"{_signed(figure.value)} ({_signed(figure.low)} to {_signed(figure.high)})"


def failing(probed: Probed) -> dict[str, list[tuple[str, float]]]:
    """Sign of failure -> the layers that show it and the share there, worst first; without those that none shows."""
    found = {
        sign: sorted(((row.layer, value) for row in probed.signs if (value := getattr(row, sign))), key=lambda p: -p[1])
        for sign in FAILURES
    }
    return {sign: layers for sign, layers in found.items() if layers}


def failure(probed: Probed) -> str:
    """The signs of failure that were found, or that none was; empty where nothing was looked at."""
    if not probed.signs:
        return ""
    names, found = numbered(probed.layers), failing(probed)
    if not found:
        return f"Signs of failure: none found in {_layers(len(probed.signs))}."
    told = [
        f"{SIGNS[sign]} ({_layers(len(layers))}, most in {names[layers[0][0]]}: {per_cent(layers[0][1])})"
        for sign, layers in found.items()
    ]
    return f"Signs of failure: {'; '.join(told)}."


def _flips(probed: Probed) -> str:
    known = [row for row in probed.signs if row.flips is not None]
    if not any(row.flips for row in known):
        return ""
    names, most = numbered(probed.layers), max(known, key=lambda row: row.flips or 0.0)
    mean = per_cent(fmean(row.flips for row in known))
    return (
        f"1 + scale is below 0, so that the sign of a channel changes, in {mean} "
        f"of cases on average over {_layers(len(known))} (most in {names[most.layer]}: {per_cent(most.flips)}). That "
        "is an observation and no failure: healthy models do it too."
    )


def _variance(probed: Probed) -> str:
    rows = [row for part in ("scale", "shift") if (row := shares(probed, part)) is not None]
    if not rows:
        return ""
    where = (
        f"over {len(probed.grid.timesteps)} timesteps (nearly even in the log signal-to-noise ratio) and "
        f"{_classes(len(probed.grid.classes))}"
    )
    still = [row.part for row in rows if row.total == 0]
    told = [
        f"of the variance of the {row.part} {where}, {per_cent(row.timestep)} follows the timestep, "
        f"{per_cent(row.class_)} the class and {per_cent(row.interaction)} their interaction (classes that differ in "
        "another way at other timesteps)"
        if not i else
        f"of that of the {row.part}, {per_cent(row.timestep)}, {per_cent(row.class_)} and {per_cent(row.interaction)}"
        for i, row in enumerate(row for row in rows if row.total > 0)
    ]
    told += [f"the {part} is the same {where}: it does nothing that a constant could not" for part in still]
    return _sentence("; ".join(told))


def _separability(probed: Probed) -> str:
    rows = probed.separability
    if not rows:
        return ""
    told = sum(row.p_value <= SIGNIFICANT for row in rows)
    return (
        f"The class can be told from the modulation alone in {told} of {_layers(len(rows))} (p at most {SIGNIFICANT} "
        "against permuted labels). That shows where the class arrives, not that it is used: random projections of the "
        "embedding show it too."
    )


def _freezing(probed: Probed) -> str:
    whole = {f.over: f for f in probed.freezing if f.layer is None and f.part == "both"}
    known = [(words, whole[over]) for over, words in FROZEN.items() if over in whole]
    if not known:
        return ""
    told = [
        f"with {words} by {change(f.largest.relative)} at noise level {f.largest.noise_level:.3g}"
        f"{_doubt(of_many(f.largest.relative, len(f.rises)))} and by {change(f.relative)} on average"
        for words, f in known
    ]
    levels = len(known[0][1].rises)
    return (
        f"How much the denoising error changes in all layers together, at the noise level where it rises most and on "
        f"average over {levels} noise levels that count alike, in per cent of the error there: {'; '.join(told)}."
    )


def _one_layer(probed: Probed) -> str:
    names = numbered(probed.layers)
    rows = [f for f in probed.freezing if f.layer is not None and f.part == "both" and f.over in FROZEN]
    if not rows:
        return ""
    felt = [f for f in rows if (of_many(f.relative, len(rows)).low or 0) > 0]
    if not felt:
        return (
            f"No single layer is missed: averaged away in one of {len(rows)} alone, no rise of the error can be told "
            "from 0."
        )
    worst = max(felt, key=lambda f: f.relative.value)
    return (
        f"Of single layers, {names[worst.layer]} is worth most: with {FROZEN[worst.over]} there alone, the error "
        f"changes by {change(worst.relative)} on average over noise levels that count alike (the largest of "
        f"{len(rows)}, and so on the high side; {len(felt)} of them can be told from 0 when all are looked "
        "at together)."
    )


def _swapped(swap: Swap | None) -> str:
    if swap is None:
        return ""
    levels = [point for point in swap.points if point.kind == "levels"]
    sections = [point for point in swap.points if point.kind == "section"]
    told = []
    turned = next((point for point in levels[1:] if _reads_second(point)), None)
    if turned is not None:
        told.append(
            f"of images that are told another class {turned.where}, it reads {per_cent(turned.second.value)} as that "
            "class"
        )
    elif levels:
        last = levels[-1]
        told.append(
            f"of images that are told another class {last.where}, it reads no more than {per_cent(last.second.value)} "
            "as that class, which does not stand out from the first"
        )
    turning = [point for point in sections if _reads_second(point)]
    if sections and not turning:
        told.append("no section alone decides the class")
    elif turning:
        strongest = max(turning, key=lambda point: point.second.value)
        told.append(
            f"of the sections alone, the {strongest.where} counts most ({per_cent(strongest.second.value)} are read as "
            "the class that it is told)"
        )
    judge = f"a judge that reads {per_cent(swap.judge_accuracy.value)} of new real images"
    return f"Where the class acts, by {judge}: {'; '.join(told)}." if told else ""


def _reads_second(point: SwapPoint) -> bool:
    """Whether more images are read as B than as A, with intervals that are apart."""
    if point.second.low is None or point.first.high is None:
        return point.second.value > point.first.value
    return point.second.low > point.first.high


def _sensitivity(probed: Probed) -> str:
    if not probed.sensitivity:
        return ""
    most = max(probed.sensitivity, key=lambda point: point.difference.value / point.error)
    return (
        f"The class matters most at noise level {most.noise_level:.3g}: told another class, the network changes its "
        f"answer by {per_cent(most.difference.value / most.error)} of its error there (both root mean squares over "
        "images and pixels)."
    )


def _erasure(probed: Probed) -> str:
    known = [row for row in probed.erasure if row.total is not None]
    if not known:
        return ""
    most = max(known, key=_total)
    names = numbered(probed.layers)
    return (
        "The shift is added before the norm, which by subtracting group means erases "
        f"{per_cent(fmean(map(_total, known)))} of its variation on "
        f"average over {_layers(len(known))} ({per_cent(fmean(row.expected for row in known))} expected for shifts "
        f"that are independent from channel to channel); most in {names[most.layer]}: {per_cent(_total(most))}."
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %" if abs(share) < 0.0995 else f"{100 * share:+,.0f} %"


def _total(row: Erasure) -> float:
    return row.total or 0.0


def _doubt(figure: Figure) -> str:
    return " (not told from 0)" if figure.low is not None and figure.low <= 0 <= figure.high else ""


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _classes(count: int) -> str:
    return f"{count} class{'es' * (count != 1)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
