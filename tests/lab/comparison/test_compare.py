"""The command that compares runs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.cli.parser import parse_command
from ddpm.config.commands import CompareCommand
from ddpm.lab.comparison.compare import write_comparison

ROOT = Path(__file__).parents[3]


def test_command_line(tmp_path: Path) -> None:
    command = parse_command(CompareCommand, "compare.py", ["a", "b", "--out", "x.html"])
    assert (command.runs, command.out) == ([Path("a"), Path("b")], Path("x.html"))
    assert parse_command(CompareCommand, "compare.py", ["a"]).out == Path("comparison.html")


def run_compare(*args: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_script(runs: tuple[Path, Path], tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    done = run_compare("a", "b", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "comparison.html" and "+1 to +11" in done.stdout
    read_page((tmp_path / "comparison.html").read_text())


def test_a_mistake_is_one_line_with_exit_code_2(runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = run_compare(runs[0], tmp_path / "none", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "comparison.html").exists()
    assert str(tmp_path / "none") in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_mistakes_name_the_path_and_the_remedy(runs: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = runs
    page = tmp_path / "page.html"
    for paths, out, words in (
        ([a, tmp_path / "none"], page, ("none", "scripts/train.py")),
        ([a, a / "samples"], page, ("samples", "config.yaml", "run.json", "scripts/train.py")),
        ([a, b / ".." / "a"], page, ("twice", "once")),
        ([a], Path("."), ("out", "comparison.html")),
        ([a], b, ("out", str(b), "comparison.html")),
    ):
        with pytest.raises(ValueError) as error:
            write_comparison(paths, out)
        assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), words
        assert not page.exists()
    with pytest.raises(OSError, match=r"page\.html"):
        write_comparison([a], tmp_path / "no" / "page.html")


def test_a_damaged_run_leaves_no_page(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (runs[0] / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json"):
        write_comparison(runs, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
