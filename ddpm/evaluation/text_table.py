"""An evaluation as a plain-text table."""

from collections.abc import Sequence
from typing import Any


def evaluation_table(result: dict[str, Any]) -> str:
    """Format the content of evaluation.json: the images, and each metric with its real-data baseline."""
    samples, extractor, classifier = result["samples"], result["extractor"], result["classifier"]
    images = "" if extractor["features"] is None else f": {samples['count']:,} images{_settings(samples)}"
    lines = [
        f"{samples['source']}{images}",
        f"real images: {result['reference']['summary']} ({result['reference']['fingerprint'][:8]}){_role(result)}",
    ]
    if result["held_out"] is not None:
        lines.append(f"held-out images: {result['held_out']['summary']} ({result['held_out']['fingerprint'][:8]})")
    if extractor["features"] is not None:
        lines.append(f"features: {extractor['features']} of {extractor['name']} ({extractor['digest'][:8]})")
    if classifier is not None:
        read = f"{classifier['value']:.1%} ({classifier['low']:.1%} to {classifier['high']:.1%})"
        images = f"{classifier['held_out']:,} held-out real images"
        lines.append(f"reference classifier ({classifier['digest'][:8]}): accuracy {read} on {images}")
    rows = [("", "value", "95 % interval", "images", "better", "samples, equal number", "real", "images")]
    for name, metric in result["metrics"].items():
        own = (name, number(metric["value"]), interval(metric), f"{metric['count']:,}", metric["better"])
        real_baseline = metric["real_baseline"]
        if real_baseline is None:
            rows.append((*own, "", "", ""))
        else:
            rows.append((*own, number(real_baseline["samples"]), number(real_baseline["value"]), f"{real_baseline['count']:,}"))
    lines += ["", *aligned(rows)]
    for name, reason in result["skipped"].items():
        lines.append(f"{name}: skipped, {reason}")
    images = result["likelihood_images"]
    if images is not None:
        trained_on = result["reference"]["trained_on"]
        kind = "held out" if images["held_out"] else "training images" if trained_on else "reference"
    if "bits_per_dim" in result["metrics"]:
        lines.append(f"bits_per_dim: {images['count']:,} images ({kind}), {result['bound_steps']} timesteps each")
    if result["denoising"]:
        rows = [("timestep", "sigma", "error of x_0", "error of eps")]
        for point in result["denoising"]:
            error = f"{number(point['x_0_error'])} ± {number(point['standard_error'])}"
            rows.append((str(point["timestep"]), number(point["sigma"]), error, number(point["eps_error"])))
        lines += ["", f"denoising, mean squared error on {images['count']:,} images ({kind}):", *aligned(rows)]
    return "\n".join(lines)


def number(value: float) -> str:
    """Format a number with four significant digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def interval(metric: dict[str, Any]) -> str:
    """Format both ends of an interval; empty without an interval."""
    return "" if metric["low"] is None else f"{number(metric['low'])} to {number(metric['high'])}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Align rows in columns of equal width, the first `left` columns to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def _role(result: dict[str, Any]) -> str:
    trained_on = result["reference"]["trained_on"]
    return "" if trained_on is None else f"; the model was {'' if trained_on else 'not '}trained on them"


def _settings(samples: dict[str, Any]) -> str:
    how = samples["settings"]
    if how is None:
        return ""
    guidance = f", guidance {how['guidance_scale']:g}" if how["guidance_scale"] != 1 else ""
    if samples["guide"] is not None:
        guidance += f" with {samples['guide'][:8]}"
    if how["guidance_interval"] is not None:
        guidance += f" at sigma {how['guidance_interval'][0]:g} to {how['guidance_interval'][1]:g}"
    return f" sampled by {how['sampler']} ({how['steps']} evaluations, {how['timestep_spacing']}{guidance}), seed {how['seed']}"
