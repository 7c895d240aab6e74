"""The compare command: prints a comparison of runs and writes it as a page."""

from collections.abc import Sequence
from pathlib import Path

from ddpm.atomic import write_text
from ddpm.lab.comparison.comparison import Comparison, compare
from ddpm.lab.comparison.comparison_page import render_comparison
from ddpm.lab.comparison.formats import TEMPLATE_FUNCTIONS
from ddpm.lab.comparison.runs import read_runs
from ddpm.lab.pages import render_text


def write_comparison(paths: Sequence[Path], out: Path) -> None:
    """Print the comparison of runs, and write it as one self-contained HTML file.

    Args:
        paths: one or more run directories; the others are compared with the first.
        out: the file; replaced if it exists.

    Raises:
        ValueError: if a path is not a run directory or is given twice, or `out` is a directory.
        OSError: if the file cannot be written; the message names it.
    """
    if out.is_dir():
        raise ValueError(f"out: {out} is a directory; give the path of a file, such as comparison.html")
    comparison = compare(read_runs(paths))
    write_text(out, render_comparison(comparison))
    print(f"{format_comparison(comparison)}\n\n{out}")


def format_comparison(comparison: Comparison) -> str:
    """Return the runs, the settings that differ, the metrics with their differences, and the notes, as text."""
    return render_text("comparison/comparison.txt.jinja", comparison=comparison, **TEMPLATE_FUNCTIONS)
