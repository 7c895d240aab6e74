"""Reading of run directories, intact and damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.lab.comparison.runs import read_runs


def test_curves_are_by_images_seen(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "samples": 2560, "loss": null}\n{"step": 50, "samples": 3200, "loss": NaN}\n')
        file.write('{"step": 60, "samples": 3840, "loss": 0.5}\n{"step": 70, "los')      # an unfinished line
    (read,) = read_runs([run])
    assert read.curve("loss") == [(640, 0.1), (1280, 0.05), (1920, 1 / 30), (3840, 0.5)]
    assert [record["step"] for record in read.records] == [10, 20, 30, 40, 50, 60]


def test_directories_with_equal_names_are_shown_with_their_paths(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    a, b = make_run(tmp_path / "x" / "run"), make_run(tmp_path / "y" / "run")
    assert [run.name for run in read_runs([a, b])] == [str(a), str(b)]


@pytest.mark.parametrize(("name", "text", "named"), [
    ("evaluations/ddim50-classifier/evaluation.json", '{"samples": ', "scripts/evaluate.py"),
    ("evaluations/ddim50-classifier/evaluation.json", "{}", "scripts/evaluate.py"),
    ("evaluations/ddim50-classifier/evaluation.json", "[]", "scripts/evaluate.py"),
    ("metrics.jsonl", "{}\n", "step"),
    ("metrics.jsonl", '{"step": 1}\n5x\n', "restore"),
    ("run.json", "[]", "restore"),
    ("run.json", "{}", "data"),
    ("run.json", '{"data": {"summary": "x"}}', "fingerprint"),
])
def test_a_damaged_file_is_named_in_one_line(runs: tuple[Path, Path], name: str, text: str, named: str) -> None:
    (runs[0] / name).write_text(text)
    with pytest.raises(ValueError) as error:
        read_runs(runs)
    assert str(error.value).startswith(f"{runs[0] / name}: ") and named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value", "named"), [
    ("samples", {}, "count"),
    ("reference", {"summary": ""}, "fingerprint"),
    ("extractor", {"name": ""}, "digest"),
])
def test_an_evaluation_is_checked_when_it_is_read(
    tmp_path: Path,
    key: str,
    value: Any,
    named: str,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
) -> None:
    run = make_run(tmp_path / "a")
    add_evaluation(run, **{key: value})
    with pytest.raises(ValueError) as error:
        read_runs([run])
    assert all(word in str(error.value) for word in ("evaluation.json", named, "scripts/evaluate.py"))
