"""An evaluation as a table for people."""

from collections.abc import Sequence
from typing import Any


def as_table(result: dict[str, Any]) -> str:
    """The content of evaluation.json in lines: what was compared with what, and each figure beside its floor."""
    samples, extractor, judge = result["samples"], result["extractor"], result["judge"]
    images = "" if extractor["features"] is None else f": {samples['count']:,} images{_drawn(samples)}"
    lines = [
        f"{samples['source']}{images}",
        f"real images: {result['reference']['summary']} ({result['reference']['fingerprint'][:8]}){_role(result)}",
    ]
    if result["held_out"] is not None:
        lines.append(f"held out: {result['held_out']['summary']} ({result['held_out']['fingerprint'][:8]})")
    if extractor["features"] is not None:
        lines.append(f"features: {extractor['features']} of {extractor['name']} ({extractor['digest'][:8]})")
    if judge is not None:
        read = f"{judge['value']:.1%} ({judge['low']:.1%} to {judge['high']:.1%})"
        lines.append(f"judge ({judge['digest'][:8]}): reads {read} of {judge['held_out']:,} real images new to it")
    rows = [("", "figure", "95 % interval", "images", "better", "of as many: samples", "real", "images")]
    for name, figure in result["figures"].items():
        own = (name, number(figure["value"]), interval(figure), f"{figure['count']:,}", figure["better"])
        floor = figure["floor"]
        if floor is None:
            rows.append((*own, "", "", ""))
        else:
            rows.append((*own, number(floor["samples"]), number(floor["value"]), f"{floor['count']:,}"))
    lines += ["", *aligned(rows)]
    for name, reason in result["skipped"].items():
        lines.append(f"{name}: left out, {reason}")
    images = result["likelihood_images"]
    if images is not None:
        trained_on = result["reference"]["trained_on"]
        kind = "held out" if images["held_out"] else "of the training images" if trained_on else "of the reference"
    if "bits_per_dim" in result["figures"]:
        lines.append(f"bits_per_dim: of {images['count']:,} images, {kind}, at {result['bound_steps']} timesteps each")
    if result["denoising"]:
        rows = [("timestep", "noise level", "error of x_0", "error of eps")]
        for point in result["denoising"]:
            error = f"{number(point['x_0_error'])} ± {number(point['standard_error'])}"
            rows.append((str(point["timestep"]), number(point["noise_level"]), error, number(point["eps_error"])))
        lines += ["", f"denoising, mean squared error on {images['count']:,} images, {kind}:", *aligned(rows)]
    return "\n".join(lines)


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def interval(figure: dict[str, Any]) -> str:
    """Both ends, or nothing."""
    return "" if figure["low"] is None else f"{number(figure['low'])} to {number(figure['high'])}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as lines with columns of equal width, the first `left` of them to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def _role(result: dict[str, Any]) -> str:
    trained_on = result["reference"]["trained_on"]
    return "" if trained_on is None else "; the model was trained on them" if trained_on else "; not trained on"


def _drawn(samples: dict[str, Any]) -> str:
    how = samples["settings"]
    if how is None:
        return ""
    guidance = f", guidance {how['guidance']:g}" if how["guidance"] != 1 else ""
    if samples["guide"] is not None:
        guidance += f" by {samples['guide'][:8]}"
    if how["guidance_interval"] is not None:
        guidance += f" at noise levels {how['guidance_interval'][0]:g} to {how['guidance_interval'][1]:g}"
    return f" drawn by {how['sampler']} ({how['steps']} evaluations, {how['spacing']}{guidance}), seed {how['seed']}"
