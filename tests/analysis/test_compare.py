"""Runs side by side: what is compared with what, by how much they differ, and what the table and the page say."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.analysis.comparison import ALSO_NEEDED, compare, difference
from ddpm.analysis.page import page
from ddpm.analysis.report import report
from ddpm.analysis.runs import read_runs
from ddpm.analysis.table import as_table
from ddpm.commands import parse_compare
from ddpm.config import Config, DiffusionConfig, EvaluationConfig, ModelConfig, TrainConfig
from ddpm.evaluation.intervals import share

ROOT = Path(__file__).parents[2]
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
    first, other = ({**share(k, n)._asdict(), "better": "higher"} for k, n in ((48, 80), (56, 70)))
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
def test_evaluations_that_differ_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    evaluated(a)
    evaluated(b, **{key: value})
    with pytest.raises(ValueError, match=f"equal settings: {message}; run scripts/evaluate.py with the same") as error:
        compare(read_runs([a, b]))
    assert "\n" not in str(error.value)


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
    assert withheld == {name for name, needs in ALSO_NEEDED.items() if key in needs} - {"denoising"}
    assert {note.split(":")[0] for note in found.notes} == withheld and all(key in note for note in found.notes)
    assert ("b is left out" in page(found)) == (key in ALSO_NEEDED["denoising"])


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
    assert found.notes == ["not shown, older: evaluation old of a, and its like of the other runs"]


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


def test_curves_of_another_kind_are_noted(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b", evaluation=EvaluationConfig(every=10, count=300))
    with (a / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "evaluation/accuracy": 0.5}\n')
    # b has no such curve yet.
    assert not [note for note in compare(read_runs([a, b])).notes if "another kind" in note]
    (b / "metrics.jsonl").write_text('{"step": 30, "evaluation/accuracy": 0.5}\n')
    notes = compare(read_runs([a, b])).notes
    assert "b: its evaluation is of another kind than that of a (evaluation.count)" in notes
    (b / "run.json").write_text((b / "run.json").read_text().replace("f" * 32, "0" * 32))
    notes = compare(read_runs([a, b])).notes
    assert "b: its evaluation is of another kind than that of a (data, evaluation.count)" in notes
    assert not [note for note in notes if "its loss" in note]       # b has logged none


def test_an_evaluation_of_earlier_weights_is_noted(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    evaluated(run)
    for step, digest in ((10, "w" * 64), (30, "x" * 64)):
        checkpoint = run / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir(parents=True)
        listed = {"unet/model.safetensors": digest, "training.safetensors": "y"}
        (checkpoint / "MANIFEST.json").write_text(json.dumps(listed))
    assert compare(read_runs([run])).notes == [
        "a: evaluation ddim50-judge is not of its newest checkpoint; run it again"
    ]
    (checkpoint / "MANIFEST.json").write_text(json.dumps({"unet/model.safetensors": "w" * 64}))
    assert compare(read_runs([run])).notes == []


# ------------------------------------------------------------------------------------------------------------ reading


def test_curves_are_by_images_seen(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "samples": 2560, "loss": null}\n{"step": 50, "samples": 3200, "loss": NaN}\n')
        file.write('{"step": 60, "loss": 0.5}\n{"step": 70, "los')        # the last line is being written
    (read,) = read_runs([run])
    assert read.curve("loss") == [(640, 0.1), (1280, 0.05), (1920, 1 / 30), (3840, 0.5)]
    assert [record["step"] for record in read.records] == [10, 20, 30, 40, 50, 60]


def test_directories_of_one_name_keep_apart(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "x" / "run"), a_run(tmp_path / "y" / "run")
    assert [run.name for run in read_runs([a, b])] == [str(a), str(b)]


# ---------------------------------------------------------------------------------------------------- table and page


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
    command = parse_compare(["a", "b", "--out", "x.html"])
    assert (command.runs, command.out) == ([Path("a"), Path("b")], Path("x.html"))
    assert parse_compare(["a"]).out == Path("comparison.html")


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
        ([a, tmp_path / "none"], "none: no such directory; name directories that scripts/train.py --run made"),
        ([a, a / "samples"], "samples: no run directory, config.yaml or run.json is missing"),
        ([a, b / ".." / "a"], "a: given twice; name each run once"),
        ([a, b, "--out", tmp_path / "no" / "page.html"], "page.html: No such file or directory"),
        ([a, "--ot", "x"], "ot is not an option; did you mean out?"),
    ):
        done = compared(*args, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "comparison.html").exists(), args
        assert message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(("name", "text", "message"), [
    ("evaluations/ddim50-judge/evaluation.json", '{"samples": ', r"evaluation\.json: cannot be read as JSON"),
    ("evaluations/ddim50-judge/evaluation.json", "{}", r"evaluation\.json: has no extractor; run scripts/evaluate"),
    ("run.json", "[]", r"run\.json: holds no names and values"),
    ("metrics.jsonl", '{"step": 1}\n{"ste\n{}\n', r"metrics\.jsonl: line 2 cannot be read"),
    ("evaluations/samples/ddim50-judge/cat/seed000000.png", "no image", r"seed000000\.png: cannot be read as an image"),
])
def test_damaged_files_are_named(runs: tuple[Path, Path], tmp_path: Path, name: str, text: str, message: str) -> None:
    (runs[0] / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        report(runs, tmp_path / "page.html")
    assert "\n" not in str(error.value) and not (tmp_path / "page.html").exists()
