"""The result of the benchmark as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddpm.data.counts import format_count
from ddpm.evaluation.text_table import align_columns

LONGEST, NAME = 12, 60        # kernels that are listed, and characters of their names
COLUMNS = ("", "ours", "quartiles", "diffusers", "quartiles", "diffusers / ours", "rounds", "unit")


def benchmark_table(result: Mapping[str, Any]) -> str:
    """Format the content of benchmark.json: where and what was measured, a table, and remarks."""
    rows = [COLUMNS]
    for name, found in result["comparisons"].items():
        ratio = f"{found['ratio']:.2f}" if "ratio" in found else ""
        rounds = max((found[side]["count"] for side in ("ours", "diffusers") if side in found), default=0)
        rows.append((name, *_cells(found, "ours"), *_cells(found, "diffusers"), ratio, str(rounds), found["unit"]))
    lines = [*_describe(result), "", *align_columns(rows), "", *_remarks(result)]
    return "\n".join(line.rstrip() for line in lines)


def _cells(found: Mapping[str, Any], side: str) -> tuple[str, str]:
    """Return the median of a side and its quartiles; empty without values."""
    if side not in found:
        return "", ""
    low, high = found[side]["quartiles"]
    spread = "" if found[side]["count"] == 1 else f"{_figure(low)} to {_figure(high)}"
    return _figure(found[side]["median"]), spread


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _describe(result: Mapping[str, Any]) -> Iterator[str]:
    machine, setting = result["machine"], result["setting"]
    where = machine["gpu"] or f"{machine['processor']}, {format_count(machine['threads'], 'thread')}"
    yield f"{where}; {', '.join(f'{name} {version}' for name, version in machine['versions'].items())}"
    yield (
        f"{setting['name']}: {setting['parameters']:,} parameters, {setting['multiply_adds'] / 1e6:,.1f} million "
        f"multiply-adds per image, {setting['resolution']}x{setting['resolution']}, batch {setting['batch_size']}, "
        f"{setting['precision']}; images: {setting['images']}"
    )
    equal = ", ".join(
        f"{difference:.1g} in {precision} (allowed {setting['tolerance'][precision]:g})"
        for precision, difference in setting["difference_of_outputs"].items()
    )
    yield f"equal weights; difference of the outputs, relative root mean square: {equal}"


def _remarks(result: Mapping[str, Any]) -> Iterator[str]:
    yield "medians of rounds in which the sides alternate; above 1 in the column diffusers / ours, ours needs less"
    for name, found in result["comparisons"].items():
        if "images_per_s" in found:
            speeds = ", ".join(f"{side} {_figure(value)}" for side, value in found["images_per_s"].items())
            calls = ", ".join(f"{side} {count}" for side, count in found["warm_up_calls"].items())
            yield f"{name}: images/s {speeds}; calls before the first round: {calls}"
        if "mfu" in found:
            shares = ", ".join(f"{side} {share:.1%}" for side, share in found["mfu"].items())
            yield f"{name}: model FLOPs utilization {shares}"
        if "images" in found:
            yield (
                f"{name}: {result['setting']['sampling_steps']} steps, guidance scale {found['guidance_scale']}; the "
                f"images differ by {found['images']['mean_difference']:.3f} gray levels in the mean and "
                f"{found['images']['largest_difference']} at most"
            )
        if "waits" in found:
            waits = ", ".join(f"{side} {count}" for side, count in found["waits"].items())
            yield f"{name}: the program waits for the GPU in one step: {waits}"
        for side, kernels in found.get("kernel_ms", {}).items():
            longest = ", ".join(f"{_figure(ms)} {kernel[:NAME]}" for kernel, ms in [*kernels.items()][:LONGEST])
            yield f"{name}: kernels of {side} take {_figure(sum(kernels.values()))} ms, most of all: {longest}"
    yield from (f"left out: {name}: {reason}" for name, reason in result["left_out"].items())
    yield from (f"failed: {name}: {reason}" for name, reason in result["failed"].items())
