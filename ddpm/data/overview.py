"""What was read from a data source, as a table for people and as facts for run.json."""

from collections import Counter
from collections.abc import Mapping
from textwrap import TextWrapper
from typing import Any

from ddpm.data.counts import format_count
from ddpm.data.images import ImageData
from ddpm.data.notes import count_classes, describe_sizes, format_range

LISTED_CLASSES = 6      # more are abbreviated
_LINES = TextWrapper(120, subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False)


def describe_data(data: ImageData) -> str:
    """Return a table of a few lines: images, classes, sizes, channels, values, what was left out, and decisions."""
    rows = {"data": data.summary(), **_rows_on_classes(data), **_rows_on_pixels(data)}
    if data.ignored:
        rows["ignored"] = ", ".join(f"{reason} ({count:,})" for reason, count in data.ignored.items())
    lines = [*rows.items(), *(("note", note) for note in data.notes)]
    return "\n".join(_LINES.fill(f"{name:<13}{text}") for name, text in lines)


def data_facts(data: ImageData) -> dict[str, Any]:
    """Return what was read and decided, as JSON."""
    facts: dict[str, Any] = {
        "summary": data.summary(),
        "fingerprint": data.fingerprint,
        "contents": data.contents_digest,
        "images": len(data),
        "class_counts": count_classes(data.labels, data.num_classes),
        "shape": list(data.pixels.shape[1:]),
        "skipped": data.skipped,
        "ignored": dict(data.ignored),
        "notes": list(data.notes),
    }
    if data.format is not None and data.survey is not None:
        sizes = sorted(data.survey.sizes, key=lambda size: (size[0] * size[1], size))
        facts["sizes"] = {
            "smallest": list(sizes[0]),
            "largest": list(sizes[-1]),
            "different": len(sizes),
            "surveyed": len(data.survey),
        }
        facts["fit"] = data.format.fit
        facts["intensity"] = None if data.intensity is None else list(data.intensity)
        facts["values"] = None if data.survey.values is None else list(data.survey.values)
        facts["frames"] = data.frames
        facts["files_with_unused_frames"] = len(data.survey.where(lambda f: f.frames > 1))
    return facts


def with_decisions(options: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `load_data` that make pixels as they were made of earlier images.

    Args:
        options: arguments; None is replaced by the earlier size and channels, and by the earlier range of values that
            are not uint8.
        facts: `data_facts` of the earlier images; empty or of an earlier version, they decide nothing.
    """
    channels, resolution, _ = facts.get("shape", (None, None, None))
    scale = facts.get("intensity") if options["intensity"] is None else None
    decided = {"channels": options["channels"] or channels, "resolution": options["resolution"] or resolution}
    return {**options, **decided, "default_intensity": None if scale is None else tuple(scale)}


def _rows_on_classes(data: ImageData) -> dict[str, str]:
    """Return the row on classes, with the number of images of each; none without classes."""
    if not data.num_classes:
        return {}
    counts = count_classes(data.labels, data.num_classes)
    if len(counts) <= LISTED_CLASSES:
        each = ", ".join(f"{name} {count:,}" for name, count in zip(data.class_names, counts, strict=True))
        return {"classes": each}
    present = [count for count in counts if count]
    low, high, missing = min(present), max(present), len(counts) - len(present)
    without = f", and {missing:,} without images" if missing else ""
    if low == high:
        return {"classes": f"{len(present):,} with {format_count(low, 'image')} each{without}"}
    fewest, most = (data.class_names[counts.index(count)] for count in (low, high))
    return {"classes": f"{len(present):,} with {low:,} ({fewest}) to {high:,} ({most}) images{without}"}


def _rows_on_pixels(data: ImageData) -> dict[str, str]:
    """Return the rows on sizes, channels and values; none if the pictures are not known."""
    if data.survey is None or data.format is None:
        return {}
    survey, target = data.survey, data.format
    sizes = describe_sizes(survey)
    if set(survey.sizes) != {(target.resolution, target.resolution)}:
        sizes += f"; {target.resolution}x{target.resolution} by {target.fit}"
    kinds = Counter[str]()
    for facts, count in survey.counts.items():
        name = {1: "gray", 3: "color"}.get(facts.channels, f"{facts.channels} channels")
        kinds[name + (f" with {facts.extra}" if facts.extra else "")] += count
    found = ", ".join(f"{name} ({count:,})" for name, count in sorted(kinds.items()))
    values = " and ".join(sorted({facts.kind for facts in survey.counts}))
    if data.intensity is not None:
        known = "" if survey.values is None else f" from {format_range(survey.values)}"
        values += f"{known}, scaled from {format_range(data.intensity)}"
    return {"sizes": sizes, "channels": f"{target.channels}; images: {found}", "values": values}
