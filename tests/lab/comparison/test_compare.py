"""Runs side by side: what is compared with what, by how much they differ, and what the table and the page say."""

import base64
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.cli.parser import parse_command
from ddpm.config.commands import CompareCommand
from ddpm.config.sections import Config, DiffusionConfig, ModelConfig, TrainConfig
from ddpm.evaluation.estimates import wilson_interval
from ddpm.lab.comparison.compare import report
from ddpm.lab.comparison.comparison import ALSO_NEEDED, compare, difference
from ddpm.lab.comparison.comparison_page import page
from ddpm.lab.comparison.comparison_table import as_table
from ddpm.lab.comparison.runs import read_runs

ROOT = Path(__file__).parents[3]
NAMES = ["cat", "dog & <co>"]
VOID = {"meta", "img", "br", "link", "input"}
SETTINGS = {"sampler": "ddim", "steps": 50, "guidance": 1.0, "guidance_interval": None, "batch_size": 100, "seed": 0}


def a_run(path: Path, steps: int = 30, seed: int = 0, **config: Any) -> Path:
    """A run directory that was trained for `steps` steps of 64 images."""
    sections = {"train": TrainConfig(steps=steps, seed=seed), **config}
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(Config(**sections).to_yaml())
    data = {"summary": "1,797 images, 8x8", "fingerprint": "f" * 32}
    facts = {"class_names": NAMES, "parameters": 827745, "multiply_adds": 18767872, "seed": seed, "data": data}
    (path / "run.json").write_text(json.dumps(facts))
    lines = [{"step": s, "samples": 64 * s, "loss": 1 / s} for s in range(10, steps + 1, 10)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "samples").mkdir()
    Image.new("L", (40, 20), 128).save(path / "samples" / f"step_{steps:08d}.png")
    return path


def figure(value: float, half: float | None, better: str = "lower", floor: float | None = None) -> dict[str, Any]:
    ends = {"low": None if half is None else value - half, "high": None if half is None else value + half}
    real = None if floor is None else {"value": floor, "low": None, "high": None, "count": 250, "samples": value + 11}
    return {"value": value, **ends, "count": 500, "better": better, "floor": real}


def evaluated(run: Path, name: str = "ddim50-judge", written: float = 1e9, **changes: Any) -> Path:
    """Adds an evaluation with drawn images; `changes` are of evaluation.json, by dotted key."""
    folder, drawn = run / "evaluations" / name, run / "evaluations" / "samples" / name
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    for c, row in enumerate(["cat", "dog & _co_"]):
        (drawn / row).mkdir(parents=True)
        for j in range(3):
            Image.fromarray(pixels[c, j]).save(drawn / row / f"seed{2 * j + c:06d}.png")
    levels = (0.01, 0.1, 1.0, 10.0)
    content = {
        "model": {"weights": "w" * 64, "name": str(run)},
        "samples": {"count": 500, "digest": "d", "settings": dict(SETTINGS), "guide": None, "source": str(run),
                    "folder": f"../samples/{name}"},
        "reference": {"summary": "1,797 images, 8x8", "fingerprint": "f" * 32, "count": 1797},
        "held_out": None,
        "extractor": {"name": "judge", "digest": "e" * 64, "features": 112},
        "judge": {"digest": "e" * 64, "value": 0.97, "low": 0.95, "high": 0.98, "held_out": 360},
        "figures": {"frechet_distance": figure(20.0, 3.0, floor=1.5), "accuracy": figure(0.8, 0.03, "higher", 0.97),
                    "recall": figure(0.5, None, "higher"), "bits_per_dim": figure(3.0, 0.1),
                    "memorised": figure(0.01, 0.01)},
        "skipped": {"inception_score": "the extractor has no classes"},
        "confusion": [[240, 10], [40, 210]],
        "class_names": NAMES,
        "denoising": [{"timestep": i, "noise_level": x, "x_0_error": 0.01 * x, "standard_error": 0.001 * x,
                       "eps_error": 0.1} for i, x in enumerate(levels)],
        "likelihood_images": {"count": 128, "held_out": False},
        "bound_steps": 20,
        "versions": {},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    (folder / "evaluation.json").write_text(json.dumps(content))
    os.utime(folder / "evaluation.json", (written, written))
    return folder


def checkpoint(run: Path, step: int, digest: str) -> Path:
    """Adds what is read of a checkpoint."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "MANIFEST.json").write_text(json.dumps({"unet/model.safetensors": digest, "training.safetensors": "y"}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that differ in norm and length, evaluated alike; the second has a worse distance, better accuracy."""
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b", steps=50, model=ModelConfig(norm="groupnorm"))
    evaluated(a)
    evaluated(b, figures__frechet_distance=figure(26.0, 4.0, floor=1.5), figures__bits_per_dim=figure(3.05, 0.1),
              figures__accuracy=figure(0.9, 0.02, "higher", 0.97))
    return a, b


# ------------------------------------------------------------------------------------------------------- differences


def test_difference_of_symmetric_intervals_is_the_root_of_the_squares() -> None:
    found = difference(figure(20.0, 3.0), figure(26.0, 4.0))
    assert found == (6.0, pytest.approx(1.0), pytest.approx(11.0), "worse")        # half width sqrt(9 + 16) = 5


def test_difference_of_shares_is_newcombes() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table II, method 10: 56/70 and 48/80 give 0.0524 to 0.3339."""
    first, other = ({**wilson_interval(k, n)._asdict(), "better": "higher"} for k, n in ((48, 80), (56, 70)))
    found = difference(first, other)
    assert found[:3] == (pytest.approx(0.2), pytest.approx(0.0524, abs=6e-5), pytest.approx(0.3339, abs=6e-5))
    assert found.verdict == "better"


def test_intervals_cover_the_difference() -> None:
    """Of two normal figures with the same mean, 95 % of the intervals hold 0."""
    draws = np.random.default_rng(0).normal(size=(4000, 2)) * [1.0, 3.0]
    decided = sum(
        difference(figure(x, 1.959964 * 1.0), figure(y, 1.959964 * 3.0)).verdict != "undecided" for x, y in draws
    )
    assert abs(decided / 4000 - 0.05) < 4 * sqrt(0.05 * 0.95 / 4000)       # four standard errors of a share


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize(("other", "half", "verdict"), [(8, 1.0, "falls"), (12, 1.0, "rises"), (12, 2.0, "undecided"),
                                                        (10, 1.0, "undecided"), (90, None, "undecided")])
def test_verdicts(better: str, other: float, half: float | None, verdict: str) -> None:
    found = difference(figure(10, 1.0, better), figure(other, half, better))
    good = {"lower": "falls", "higher": "rises"}[better]
    assert found.verdict == (verdict if verdict == "undecided" else "better" if verdict == good else "worse")
    assert found.value == other - 10 and (found.low is None) == (half is None)


@pytest.mark.parametrize("key", ["value", "low", "high"])
@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_no_number_decides_nothing(key: str, damage: float, which: int) -> None:
    pair = [figure(10, 1.0), figure(20, 1.0)]
    pair[which][key] = damage
    found = difference(*pair)
    assert found.verdict == "undecided" and (found.low, found.high) == (None, None)
    assert math.isfinite(found.value) == (key != "value")


def test_a_difference_turns_its_sign_with_the_order() -> None:
    a, b = figure(0.2, 0.1, "higher"), {**figure(0.5, 0.1, "higher"), "low": 0.3}
    there, back = difference(a, b), difference(b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


# --------------------------------------------------------------------------------------------- what can be compared


def test_comparison(runs: tuple[Path, Path]) -> None:
    found = compare(read_runs(runs))
    assert [run.name for run in found.runs] == ["a", "b"] and found.notes == []
    assert found.settings == {"model.norm": ["adagn", "groupnorm"], "train.steps": [30, 50]}
    by_name = {row.name: row for row in found.rows}
    assert list(by_name) == ["frechet_distance", "accuracy", "recall", "bits_per_dim", "memorised"]
    verdicts = {name: row.entries[1].difference.verdict for name, row in by_name.items()}
    assert verdicts == {"frechet_distance": "worse", "accuracy": "better", "recall": "undecided",
                        "bits_per_dim": "undecided", "memorised": "undecided"}
    assert by_name["frechet_distance"].floor["value"] == 1.5 and by_name["recall"].floor is None
    assert all(row.entries[0].difference is None for row in found.rows)


CHANGES = [
    ("extractor__name", "inception", "extractor is judge there and inception here"),
    ("extractor__digest", "1" * 64, "extractor.digest is eeeeeeee there and 11111111 here"),
    ("reference__fingerprint", "0" * 32, "reference.fingerprint is ffffffff there and 00000000 here"),
    ("samples__count", 300, "count is 500 there and 300 here"),
    ("samples__guide", "9" * 64, "guide is none there and a model here"),
    ("samples__settings__steps", 20, "steps is 50 there and 20 here"),
    ("samples__settings__guidance_interval", [0.3, 3], r"guidance_interval is none there and \[0.3, 3\] here"),
    ("samples__settings__seed", 7, "seed is 0 there and 7 here"),
]


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_evaluations_that_differ_are_left_out(tmp_path: Path, key: str, value: Any, message: str) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b", steps=50)
    evaluated(a)
    evaluated(b, **{key: value})
    found = compare(read_runs([a, b]))
    assert found.rows == [] and found.evaluations == {} and found.settings == {"train.steps": [30, 50]}
    (note,) = found.notes
    wanted = f"all figures are left out: a and b have no evaluation with equal settings, {message}; "
    assert re.fullmatch(f"{wanted}run scripts/evaluate.py with the same settings", note)
    text = page(found)
    Page(text)
    assert "Loss" in text and "Sample grids of training" in text and "Settings that differ" in text
    assert "Figures" not in text and note in text and note in as_table(found)


def test_a_setting_that_is_missing_is_not_null(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    evaluated(a)
    evaluated(b, samples__settings={k: v for k, v in SETTINGS.items() if k != "guidance_interval"})
    (note,) = compare(read_runs([a, b])).notes
    assert "guidance_interval is none there and missing here;" in note
    assert "guidance_interval is missing there and none here;" in compare(read_runs([b, a])).notes[0]


def test_only_what_cannot_be_compared_is_left_out(tmp_path: Path) -> None:
    a, b, c = (a_run(tmp_path / name) for name in "abc")
    for run in (a, c):
        evaluated(run)
    evaluated(b, samples__settings__seed=7)
    found = compare(read_runs([a, b, c]))
    assert list(found.evaluations) == ["a", "c"] and all(len(row.entries) == 2 for row in found.rows)
    assert found.notes == [
        "the figures of b are left out: a and b have no evaluation with equal settings, seed is 0 there and 7 here; "
        "run scripts/evaluate.py with the same settings"
    ]
    assert "Sample grids of training" in page(found)        # of b
    # The settings that most runs share, not the newest.
    evaluated(a, "other", 2e9, samples__settings__seed=7)
    evaluated(b, "alike")
    found = compare(read_runs([a, b, c]))
    assert list(found.evaluations) == ["a", "b", "c"]
    assert found.notes == ["not shown: evaluation other of a, and its like of the other runs"]


def test_what_may_differ(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b", seed=1)
    evaluated(a)
    evaluated(b, model__weights="v" * 64, samples__settings__batch_size=7)
    found = compare(read_runs([a, b]))
    assert all(row.entries[1].difference is not None for row in found.rows) and found.settings == {"train.seed": [0, 1]}


NEEDED = {
    "held_out.fingerprint": ("held_out", {"summary": "", "fingerprint": "7" * 32, "count": 9}),
    "judge.digest": ("judge__digest", "8" * 64),
    "bound_images": ("likelihood_images__count", 64),
    "bound_steps": ("bound_steps", 5),
}


@pytest.mark.parametrize("key", NEEDED)
def test_a_figure_that_needs_more_is_withheld_alone(tmp_path: Path, key: str) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    evaluated(a)
    evaluated(b, **dict([NEEDED[key]]))
    found = compare(read_runs([a, b]))
    withheld = {row.name for row in found.rows if row.entries[1].difference is None}
    assert withheld == {name for name, needs in ALSO_NEEDED.items() if key in needs} & {row.name for row in found.rows}
    assert {note.split(":")[0] for note in found.notes} == withheld and all(key in note for note in found.notes)
    assert ("b is left out" in page(found)) == (key in ALSO_NEEDED["denoising"])


def test_denoising_errors_are_compared_at_equal_noise_levels(tmp_path: Path) -> None:
    a, b, c = (a_run(tmp_path / name) for name in "abc")
    points = [{"noise_level": x, "x_0_error": 0.1, "standard_error": 0.01, "eps_error": 0.1} for x in (0.02, 3.0)]
    figures = {"denoising_error": figure(0.1, 0.01), "accuracy": figure(0.8, 0.03, "higher")}
    for run, levels in ((a, {}), (b, {}), (c, {"denoising": points})):
        evaluated(run, figures=figures, **levels)
    found = compare(read_runs([a, b, c]))
    error, accuracy = found.rows
    assert [entry.difference is None for entry in error.entries] == [True, False, True]
    assert [entry.difference is None for entry in accuracy.entries] == [True, False, False]
    assert found.notes == [
        "denoising_error: a and c are not compared, noise levels is 0.01, 0.1, 1, 10 and 0.02, 3"
    ]


def test_the_newest_shared_evaluation_is_taken(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    evaluated(a, "old", 1e9)
    evaluated(a, "new", 2e9, samples__settings__steps=20)
    evaluated(a, "alone", 3e9, samples__settings__steps=10)
    evaluated(b, "old", 1e9)
    evaluated(b, "older", 0.5e9)
    evaluated(b, "new", 1.5e9, samples__settings__steps=20)
    found = compare(read_runs([a, b]))
    assert [e.folder.name for e in found.evaluations.values()] == ["new", "new"]
    assert found.notes == ["not shown: evaluation old of a, and its like of the other runs"]


def test_a_figure_that_one_run_lacks(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    evaluated(a, figures={"accuracy": figure(0.5, 0.1, "higher")})
    evaluated(b, figures={"recall": figure(0.5, 0.1, "higher", 0.9)})
    found = compare(read_runs([a, b]))
    assert [row.name for row in found.rows] == ["accuracy", "recall"]
    assert all(entry.difference is None for row in found.rows for entry in row.entries)
    assert "none" in as_table(found) and "none" in page(found)


def test_a_run_without_evaluation_is_compared_by_the_rest(runs: tuple[Path, Path], tmp_path: Path) -> None:
    c = a_run(tmp_path / "c", steps=10, diffusion=DiffusionConfig(prediction="eps"))
    found = compare(read_runs([c, *runs]))
    assert list(found.evaluations) == ["a", "b"]
    assert f"c: no evaluation; python scripts/evaluate.py {c}" in found.notes
    # Its loss is another quantity.
    assert "a: its loss is of another kind than that of c (diffusion.prediction)" in found.notes
    text = page(found)
    assert "Sample grids of training" in text and "against a" in text and "step 10" in text


def monitored(run: Path, *digests: str | None) -> None:
    """Adds evaluations while training, a record for each digest of settings."""
    with (run / "metrics.jsonl").open("a") as file:
        for i, digest in enumerate(digests):
            told = {} if digest is None else {"evaluation/settings": digest}
            record = {"step": 100 + i, "samples": 6400 + 64 * i, "evaluation/kernel_distance": 0.5 + i, **told}
            file.write(json.dumps(record) + "\n" + json.dumps({"step": 100 + i, "loss": 1.0}) + "\n")


def kernel_charts(text: str) -> list[str]:
    """The parts of a page from the title of a chart to its end."""
    return re.findall(r"<h3>Kernel distance</h3>.*?</figure>", text, re.DOTALL)


def drawn_lines(chart: str) -> list[int]:
    """How many points each line of a chart has."""
    return [1 + path.count("L") for path in re.findall(r'class="line" d="(M\d+\.[^"]*)"', chart)]


def test_a_curve_is_broken_where_its_settings_change(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    monitored(run, "aa11", "aa11", "aa11", "bb22", "bb22", "aa11")
    text = page(compare(read_runs([run])))
    Page(text)
    first, second = kernel_charts(text)
    assert drawn_lines(first) == [3, 1] and drawn_lines(second) == [2]
    assert "settings aa11" in first and "settings bb22" in second and first.count('class="name"') == 1
    assert "Settings</h3>" not in text


def test_runs_share_a_chart_where_they_share_settings(tmp_path: Path) -> None:
    a, b, c = (a_run(tmp_path / name) for name in "abc")
    monitored(a, "aa11", "aa11")
    monitored(b, "aa11", "aa11", "aa11")
    found = compare(read_runs([a, b]))
    (chart,) = kernel_charts(page(found))
    assert drawn_lines(chart) == [2, 3] and "settings" not in chart and found.notes[2:] == []
    monitored(c, "bb22")
    found = compare(read_runs([a, b, c]))
    assert [drawn_lines(chart) for chart in kernel_charts(page(found))] == [[2, 3], [1]]
    assert "the curves of a and c are of different evaluation settings" in found.notes
    assert not [note for note in found.notes if "curves of a and b" in note]


def test_older_curves_do_not_tell_their_settings(tmp_path: Path) -> None:
    a, b, c = (a_run(tmp_path / name) for name in "abc")
    monitored(a, None, None)
    found = compare(read_runs([a, c]))
    assert not [note for note in found.notes if "the curves" in note]      # c has none
    monitored(b, None)
    monitored(c, "aa11")
    found = compare(read_runs([a, b, c]))
    assert "the curves of a and b may be of different evaluation settings: they do not tell" in found.notes
    assert "the curves of a and c are of different evaluation settings" in found.notes
    charts = kernel_charts(page(found))
    assert [drawn_lines(chart) for chart in charts] == [[2, 1], [1]] and "settings not recorded" in charts[0]


def test_an_evaluation_of_earlier_weights_is_noted(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    evaluated(run)
    checkpoint(run, 10, "w" * 64)
    newest = checkpoint(run, 30, "x" * 64)
    assert compare(read_runs([run])).notes == [
        "a: evaluation ddim50-judge is not of its newest checkpoint; run it again"
    ]
    (newest / "MANIFEST.json").write_text(json.dumps({"unet/model.safetensors": "w" * 64}))
    assert compare(read_runs([run])).notes == []
    (newest / "MANIFEST.json").write_text("{")              # the one before is what would be evaluated
    assert compare(read_runs([run])).notes == []


@pytest.mark.parametrize("order", [(1e9, 2e9, 3e9), (3e9, 2e9, 1e9), (2e9, 2e9, 2e9)])
def test_the_newest_weights_are_taken_whatever_the_times(tmp_path: Path, order: Sequence[float]) -> None:
    """Copying a run directory changes the times of its files."""
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    for run in (a, b):
        checkpoint(run, 10, "o" * 64)
        checkpoint(run, 30, "n" * 64)
        for name, weights, written in zip(("early", "last", "zbest"), "onb", order, strict=True):
            evaluated(run, name, written, model__weights=weights * 64)
    found = compare(read_runs([a, b]))
    assert [e.folder.name for e in found.evaluations.values()] == ["last", "last"] and found.notes == []


@pytest.mark.parametrize("order", [(1e9, 2e9), (2e9, 1e9)])
def test_settings_of_the_newest_weights_are_preferred(tmp_path: Path, order: Sequence[float]) -> None:
    a = a_run(tmp_path / "a")
    checkpoint(a, 30, "n" * 64)
    evaluated(a, "early", order[0], samples__settings__seed=3)
    evaluated(a, "last", order[1], model__weights="n" * 64)
    assert compare(read_runs([a])).evaluations["a"].folder.name == "last"


# ------------------------------------------------------------------------------------------------------------ reading


def test_curves_are_by_images_seen(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "samples": 2560, "loss": null}\n{"step": 50, "samples": 3200, "loss": NaN}\n')
        file.write('{"step": 60, "loss": 0.5}\n{"step": 70, "los')        # the last line is being written
    (read,) = read_runs([run])
    assert read.curve("loss") == [(640, 0.1), (1280, 0.05), (1920, 1 / 30), (3840, 0.5)]
    assert [record["step"] for record in read.records] == [10, 20, 30, 40, 50, 60]


def test_lines_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    whole = (run / "metrics.jsonl").read_bytes()
    odd = [b"5", b"null", b"[]", b'{"loss": 1}', b'{"step": null}', b'{"step": "x"}', b'{"step": true}',
           b'{"step": NaN}', b"\xff\xfe", b'{"ste', b""]
    (run / "metrics.jsonl").write_bytes(whole + b"\n".join(odd) + b'\n{"step": 60, "samples": null, "loss": 0.5}\n')
    found = compare(read_runs([run]))
    assert [record["step"] for record in found.runs[0].records] == [10, 20, 30, 60]
    assert found.runs[0].curve("loss")[-1] == (60 * 64, 0.5)
    assert f"a: lines of metrics.jsonl that are no records and left out: {len(odd)}" in found.notes
    Page(page(found))
    assert "3,840" in as_table(found)


def test_facts_that_are_missing_are_unknown(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"data": facts["data"], "parameters": None}))
    found = compare(read_runs([run]))
    assert as_table(found).splitlines()[1].split() == ["a", "30", "1,920", *["unknown"] * 3, "0.03333"]
    assert page(found).count("unknown") == 3


def test_directories_of_one_name_keep_apart(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "x" / "run"), a_run(tmp_path / "y" / "run")
    assert [run.name for run in read_runs([a, b])] == [str(a), str(b)]


# ---------------------------------------------------------------------------------------------------- table and page


def test_figures_that_are_no_numbers_are_shown_without_a_mark(runs: tuple[Path, Path]) -> None:
    file = runs[1] / "evaluations" / "ddim50-judge" / "evaluation.json"
    content = json.loads(file.read_text())
    content["figures"]["frechet_distance"] |= {"value": math.nan, "low": math.nan, "high": math.nan}
    content["figures"]["accuracy"] |= {"high": math.inf}
    content["figures"]["bits_per_dim"] |= {"floor": {**content["figures"]["accuracy"]["floor"], "value": math.nan}}
    content["denoising"][0] |= {"x_0_error": math.inf}
    content["denoising"][1] |= {"standard_error": math.nan}
    file.write_text(json.dumps(content))
    found = compare(read_runs(runs))
    text = page(found)
    Page(text)
    # All coordinates are numbers.
    assert not re.findall(r' (?:d|cx|cy|x|y)="[^"]*(?:nan|inf)[^"]*"', text)
    rows = {row.name: row.entries[1].difference for row in found.rows}
    assert (rows["frechet_distance"].verdict, rows["accuracy"].verdict) == ("undecided", "undecided")
    (line,) = (line for line in as_table(found).splitlines() if line.split()[:2] == ["b", "nan"])
    assert line.split()[-2:] == ["nan", "undecided"]


def test_denoising_errors_that_are_no_numbers(runs: tuple[Path, Path]) -> None:
    for run in runs:
        file = run / "evaluations" / "ddim50-judge" / "evaluation.json"
        content = json.loads(file.read_text())
        for point in content["denoising"]:
            point["x_0_error"] = math.nan
        file.write_text(json.dumps(content))
    assert "Denoising error" not in page(compare(read_runs(runs)))


def test_an_evaluation_of_the_denoiser_alone(tmp_path: Path) -> None:
    """It describes no images; and written later, it does not hide one that has more to say."""
    a = a_run(tmp_path / "a")
    evaluated(a, "ddim50-judge", 1e9)
    evaluated(a, "ddim50-bound", 2e9, extractor__features=None, figures={"bits_per_dim": figure(3.0, 0.1)})
    (run,) = read_runs([a])
    assert [e.folder.name for e in run.evaluations] == ["ddim50-judge", "ddim50-bound"]
    assert "frechet_distance" in as_table(compare([run]))
    shutil.rmtree(a / "evaluations" / "ddim50-judge")
    alone = compare(read_runs([a]))
    assert [row.name for row in alone.rows] == ["bits_per_dim"]
    assert "None" not in page(alone)


def test_table(runs: tuple[Path, Path]) -> None:
    lines = [re.sub(" +", " ", line) for line in as_table(compare(read_runs(runs))).splitlines()]
    assert "a 30 1,920 827,745 18,767,872 0 0.03333" in lines
    assert "model.norm adagn groupnorm" in lines
    assert "frechet_distance (lower is better) a 20 17 to 23 500 31" in lines
    assert " b 26 22 to 30 500 37 +6 +1 to +11 worse" in lines
    assert " real images 1.5 250 1.5" in lines
    assert not [line for line in lines if line.startswith("data.")]      # only settings that differ


class Page(HTMLParser):
    """Checks that elements close in order, and collects what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "xlink:href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_whole_and_needs_nothing_else(runs: tuple[Path, Path]) -> None:
    text = page(compare(read_runs(runs)))
    parsed = Page(text)
    assert parsed.references and all(r.startswith("data:image/png;base64,") for r in parsed.references)
    assert not re.search(r"https?://|url\(|@import|<script|\bNaN\b|None\b|Undefined", text)
    said = " ".join(" ".join(parsed.text).split())
    for words in ("Comparison of 2 runs", "frechet_distance", "+1 to +11", "worse", "undecided", "model.norm",
                  "97.0% (95.0% to 98.0%) of 360 real images", "not of training them again", "dog & <co>",
                  "inception_score: left out", "Denoising error", "images seen", "seeds 0, 2, 4", "read as"):
        assert words in said, words
    assert parsed.tags.count("img") == 4        # two classes, two runs
    # Each class has one matrix cell for each class in each run.
    assert text.count('class="cell"') == 8
    assert page(compare(read_runs(runs))) == text


def test_page_of_one_run_is_a_report(runs: tuple[Path, Path]) -> None:
    text = page(compare(read_runs(runs[:1])))
    Page(text)
    assert "Run a" in text and "against" not in text and "Settings that differ" not in text and "better" in text


def test_page_of_a_run_that_has_nothing_yet(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    (run / "metrics.jsonl").unlink()
    (run / "samples" / "step_00000030.png").unlink()
    found = compare(read_runs([run]))
    assert not {"svg", "img", "figure"} & set(Page(page(found)).tags) - {"svg"} and "no evaluation" in as_table(found)


def test_evaluation_curves(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "samples": 1920, "evaluation/kernel_distance": 0.25}\n')
    text = page(compare(read_runs([run])))
    assert "<h3>Kernel distance</h3>" in text and "a: 0.25 at 1920" in text


def test_images_that_are_gone_are_noted(runs: tuple[Path, Path]) -> None:
    (runs[1] / "evaluations" / "samples").rename(runs[1] / "elsewhere")
    text = page(compare(read_runs(runs)))
    assert "b: its drawn images are gone" in text
    assert Page(text).tags.count("img") == 3    # two classes of a, and b's grid of training


def test_grids_are_reduced(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    noise = np.random.default_rng(0).integers(0, 256, (600, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run / "samples" / "step_00000040.png", compress_level=1)
    (uri,) = (r for r in Page(page(compare(read_runs([run])))).references if r.startswith("data:image/png"))
    with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        assert image.size == (1000, 250)
        # Reducing by 2.4 averages the noise.
        assert np.asarray(image).std() < 0.7 * noise.std()


@pytest.mark.parametrize("kept", [0, 20, 60, -40])
def test_a_torn_grid_is_left_out(tmp_path: Path, kept: int) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    file = a / "samples" / "step_00000030.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 40), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:kept])
    text = page(compare(read_runs([a, b])))
    assert Page(text).tags.count("img") == 1 and "sample grid of b" in text
    assert "a: step_00000030.png cannot be read as an image" in text


def test_only_grids_of_steps_are_grids(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    (run / "samples" / "step_last.png").write_bytes(b"")
    assert "<small>step 30</small>" in page(compare(read_runs([run])))


def test_names_are_escaped(tmp_path: Path) -> None:
    run = a_run(tmp_path / "<img src=x onerror=alert(1)>")
    evaluated(run)
    parsed = Page(page(compare(read_runs([run]))))
    assert all(r.startswith("data:") for r in parsed.references)


def test_many_classes_list_their_confusions(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    names = [f"class {i}" for i in range(30)]
    matrix = (np.eye(30, dtype=int) * 90).tolist()
    matrix[3][5], matrix[7][1] = 10, 30
    evaluated(run, class_names=names, confusion=matrix)
    text = page(compare(read_runs([run])))
    assert 'class="cell"' not in text
    assert text.index("class 7 read as class 1: 30 of 120") < text.index("class 3 read as class 5: 10 of 100")


# ----------------------------------------------------------------------------------------------------------- command


def test_command_line(tmp_path: Path) -> None:
    command = parse_command(CompareCommand, "compare.py", ["a", "b", "--out", "x.html"])
    assert (command.runs, command.out) == ([Path("a"), Path("b")], Path("x.html"))
    assert parse_command(CompareCommand, "compare.py", ["a"]).out == Path("comparison.html")


def compared(*args: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_script(runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = compared("a", "b", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "comparison.html" and "+1 to +11" in done.stdout
    Page((tmp_path / "comparison.html").read_text())


def test_mistakes_are_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = runs
    for args, message in (
        ([], "runs"),
        ([a, tmp_path / "none"], "none: no such directory; name directories that scripts/train.py --run-dir made"),
        ([a, a / "samples"], "samples: no run directory, config.yaml or run.json is missing"),
        ([a, b / ".." / "a"], "a: given twice; name each run once"),
        ([a, b, "--out", tmp_path / "no" / "page.html"], "page.html: No such file or directory"),
        ([a, "--ot", "x"], "ot is not an option; did you mean out?"),
        ([a, "--out", ""], "out: . is a directory; name a file, such as comparison.html"),
        ([a, "--out", "."], "out: . is a directory; name a file"),
        ([a, "--out", b], "b is a directory; name a file"),
    ):
        done = compared(*args, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "comparison.html").exists(), args
        assert message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(("name", "text", "message"), [
    ("evaluations/ddim50-judge/evaluation.json", '{"samples": ', r"evaluation\.json: cannot be read as JSON"),
    ("evaluations/ddim50-judge/evaluation.json", "{}", r"evaluation\.json: samples is missing; run scripts/evaluate"),
    ("run.json", "[]", r"run\.json: holds no names and values"),
    ("run.json", "{}", r"run\.json: data is missing; restore it"),
    ("run.json", '{"data": {"summary": "x"}}', r"run\.json: data\.fingerprint is missing; restore it"),
    ("evaluations/samples/ddim50-judge/cat/seed000000.png", "no image", r"seed000000\.png: cannot be read as an image"),
])
def test_damaged_files_are_named(runs: tuple[Path, Path], tmp_path: Path, name: str, text: str, message: str) -> None:
    (runs[0] / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        report(runs, tmp_path / "page.html")
    assert "\n" not in str(error.value) and not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("key", ["value", "low", "high", "count", "better", "floor"])
def test_a_figure_without_a_key_is_named(runs: tuple[Path, Path], key: str) -> None:
    file = runs[1] / "evaluations" / "ddim50-judge" / "evaluation.json"
    content = json.loads(file.read_text())
    del content["figures"]["recall"][key]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        read_runs(runs)
    assert str(error.value) == f"{file}: figures.recall.{key} is missing; run scripts/evaluate.py again"


@pytest.mark.parametrize(("key", "value", "message"), [
    ("samples", 5, "samples is '5'"),
    ("samples__settings", [], r"samples\.settings is '\[\]'"),
    ("samples__folder", 5, r"samples\.folder is '5'"),
    ("reference", {"summary": ""}, r"reference\.fingerprint is missing"),
    ("figures__recall", None, r"figures\.recall is 'None'"),
    ("figures__recall__value", "0.5", r"figures\.recall\.value is '0\.5'"),
    ("figures__accuracy__floor__count", None, r"figures\.accuracy\.floor\.count is 'None'"),
    ("model", {"name": "x"}, r"model\.weights is missing"),
    ("judge", {"digest": "x"}, r"judge\.value is missing"),
    ("held_out", {"summary": "x"}, r"held_out\.fingerprint is missing"),
    ("likelihood_images", {"held_out": False}, r"likelihood_images\.count is missing"),
    ("denoising", [{"noise_level": 1.0}], r"denoising\.0\.x_0_error is missing"),
])
def test_an_evaluation_is_checked_when_it_is_read(tmp_path: Path, key: str, value: Any, message: str) -> None:
    run = a_run(tmp_path / "a")
    evaluated(run, **{key: value})
    with pytest.raises(ValueError, match=f"evaluation\\.json: {message}; run scripts/evaluate.py again"):
        read_runs([run])
