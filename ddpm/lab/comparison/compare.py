"""What scripts/compare.py does: runs side by side, printed and as a page."""

from collections.abc import Sequence
from pathlib import Path

from ddpm.atomic import write_text
from ddpm.lab.comparison.comparison import compare
from ddpm.lab.comparison.comparison_page import page
from ddpm.lab.comparison.comparison_table import as_table
from ddpm.lab.comparison.runs import read_runs


def report(paths: Sequence[Path], out: Path) -> None:
    """Prints the comparison of runs, and writes it as one HTML file that needs nothing else.

    Args:
        paths: run directories, one or more; the first is what the others are compared with.
        out: the file; replaced if it is there.

    Raises:
        ValueError: if a path is no run directory or given twice, or `out` is a directory.
        OSError: if the file cannot be written; names it.
    """
    if out.is_dir():
        raise ValueError(f"out: {out} is a directory; name a file, such as comparison.html")
    comparison = compare(read_runs(paths))
    content = page(comparison)
    write_text(out, content)
    print(f"{as_table(comparison)}\n\n{out}")
