"""The page and the table of a comparison: golden files, the numbers in them, and damaged or missing inputs."""

import base64
import json
import math
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ddpm.lab.charts import Series
from ddpm.lab.comparison import comparison_page as module
from ddpm.lab.comparison.compare import format_comparison
from ddpm.lab.comparison.comparison import compare
from ddpm.lab.comparison.comparison_page import render_comparison
from ddpm.lab.comparison.runs import read_runs


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[Series]]]:
    """Map the label of the y axis to the series of each line chart that is drawn from now on."""
    found: dict[str, list[list[Series]]] = {}
    draw = module.draw_lines

    def record(series: list[Series], x: str, y: str, **options: Any) -> Figure:
        found.setdefault(y, []).append(list(series))
        return draw(series, x, y, **options)

    monkeypatch.setattr(module, "draw_lines", record)
    return found


def lengths(charts: list[list[Series]]) -> list[list[int]]:
    return [[len(series.points) for series in chart] for chart in charts]


# ---------------------------------------------------------------------------------------------------- golden files


def test_page_and_table_of_two_runs(
    runs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    read_page: Callable[[str], Any],
    check_golden: Callable[[str, str], None],
    check_golden_page: Callable[[str, str], None],
) -> None:
    monkeypatch.chdir(runs[0].parent)
    found = compare(read_runs([Path("a"), Path("b")]))
    text = render_comparison(found)
    assert read_page(text).tags.count("img") == 4           # two classes, two runs
    assert render_comparison(found) == text
    check_golden_page("comparison.html", text)
    check_golden("comparison.txt", format_comparison(found) + "\n")


def test_page_and_table_of_runs_that_differ_in_everything(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    monitor: Callable[..., None],
    estimate: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    read_page: Callable[[str], Any],
    check_golden: Callable[[str, str], None],
    check_golden_page: Callable[[str, str], None],
) -> None:
    """All notes: no evaluation, other settings, other images, other curves, images that are gone."""
    monkeypatch.chdir(tmp_path)
    a, b, c, d, e = (make_run(Path(name)) for name in "abcde")
    for run, digest in ((a, "aa11"), (b, "cc33"), (c, "bb22")):
        monitor(run, digest)
    add_evaluation(a)
    add_evaluation(a, "earlier", 0.5e9, samples__settings__steps=20)
    add_evaluation(b, bound_steps=5, classifier__digest="8" * 64,
                   metrics={"recall": estimate(0.5, None, "higher"), "accuracy": estimate(0.8, 0.03, "higher", 0.97)})
    shutil.rmtree(b / "evaluations" / "samples")
    add_evaluation(c, likelihood_images__count=64)
    add_evaluation(c, "earlier", 0.5e9, samples__settings__steps=20)
    add_evaluation(d, samples__settings__steps=20, samples__folder=None)
    (e / "metrics.jsonl").write_text('{"step": 30, "samples": 1920, "loss": 0.25}\n')
    facts = json.loads((e / "run.json").read_text())
    (e / "run.json").write_text(json.dumps({"data": facts["data"] | {"fingerprint": "0" * 32}, "parameters": None}))
    found = compare(read_runs([a, b, c, d, e]))
    text = render_comparison(found)
    read_page(text)
    check_golden_page("everything.html", text)
    check_golden("everything.txt", format_comparison(found) + "\n")


def test_page_of_one_run(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    read_page: Callable[[str], Any],
    check_golden_page: Callable[[str, str], None],
) -> None:
    """Confusions of many classes are a list of the most frequent, with the most frequent first."""
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("a"))
    names = [f"class {i}" for i in range(30)]
    matrix = (np.eye(30, dtype=int) * 90).tolist()
    matrix[3][5], matrix[7][1] = 10, 30
    add_evaluation(run, class_names=names, confusion=matrix)
    text = render_comparison(compare(read_runs([run])))
    words = read_page(text).words
    assert words.index("30 of 120") < words.index("10 of 100")
    check_golden_page("one_run.html", text)


# ------------------------------------------------------------------------------------------------- tables and charts


def test_numbers_of_the_table(runs: tuple[Path, Path]) -> None:
    lines = [line.split() for line in format_comparison(compare(read_runs(runs))).splitlines()]
    assert ["a", "30", "1,920", "827,745", "18,767,872", "0", "0.03333"] in lines
    assert ["model.norm", "adagn", "groupnorm"] in lines
    assert ["b", "26", "22", "to", "30", "500", "37", "+6", "+1", "to", "+11", "worse"] in lines
    assert not [line for line in lines if line and line[0].startswith("data.")]      # only settings that differ


def test_facts_that_are_missing_are_unknown(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "a")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"data": facts["data"], "parameters": None}))
    row = format_comparison(compare(read_runs([run]))).splitlines()[1]
    assert row.split() == ["a", "30", "1,920", "unknown", "unknown", "unknown", "0.03333"]


def test_a_curve_is_broken_where_its_settings_change(
    tmp_path: Path,
    make_run: Callable[..., Path],
    monitor: Callable[..., None],
    drawn: dict[str, list[list[Series]]],
    read_page: Callable[[str], Any],
) -> None:
    run = make_run(tmp_path / "a")
    monitor(run, "aa11", "aa11", "aa11", "bb22", "bb22", "aa11")
    words = read_page(render_comparison(compare(read_runs([run])))).words
    assert lengths(drawn["kernel distance"]) == [[3, 1], [2]] and "aa11" in words and "bb22" in words
    assert "settings" not in drawn


def test_runs_share_a_chart_where_they_share_settings(
    tmp_path: Path, make_run: Callable[..., Path], monitor: Callable[..., None], drawn: dict[str, list[list[Series]]]
) -> None:
    a, b, c = (make_run(tmp_path / name) for name in "abc")
    monitor(a, "aa11", "aa11")
    monitor(b, "aa11", "aa11", "aa11")
    assert "aa11" not in render_comparison(compare(read_runs([a, b])))
    assert lengths(drawn.pop("kernel distance")) == [[2, 3]]
    monitor(c, "bb22")
    render_comparison(compare(read_runs([a, b, c])))
    assert lengths(drawn["kernel distance"]) == [[2, 3], [1]]


def test_curves_are_over_images_seen(
    tmp_path: Path, make_run: Callable[..., Path], drawn: dict[str, list[list[Series]]]
) -> None:
    run = make_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "samples": 1920, "evaluation/kernel_distance": 0.25, "evaluation/settings": "a"}\n')
    render_comparison(compare(read_runs([run])))
    assert drawn["kernel distance"][0][0].points == [(1920, 0.25)]


def test_values_that_are_not_finite_are_shown_without_a_mark(
    runs: tuple[Path, Path], read_page: Callable[[str], Any], drawn: dict[str, list[list[Series]]]
) -> None:
    file = runs[1] / "evaluations" / "ddim50-classifier" / "evaluation.json"
    content = json.loads(file.read_text())
    content["metrics"]["frechet_distance"] |= {"value": math.nan, "low": math.nan, "high": math.nan}
    content["metrics"]["accuracy"] |= {"high": math.inf}
    real_baseline = {**content["metrics"]["accuracy"]["real_baseline"], "value": math.nan}
    content["metrics"]["bits_per_dim"] |= {"real_baseline": real_baseline}
    content["denoising"][0] |= {"x_0_error": math.inf}
    content["denoising"][1] |= {"standard_error": math.nan}
    file.write_text(json.dumps(content))
    found = compare(read_runs(runs))
    read_page(render_comparison(found))
    assert [len(series.points) for charts in list(drawn.values())[-1:] for series in charts[0]] == [4, 2]
    rows = {row.name: row.entries[1].difference for row in found.rows}
    assert (rows["frechet_distance"].verdict, rows["accuracy"].verdict) == ("inconclusive", "inconclusive")
    (line,) = (line for line in format_comparison(found).splitlines() if line.split()[:2] == ["b", "nan"])
    assert line.split()[-2:] == ["nan", "inconclusive"]


def test_denoising_errors_that_are_not_finite_have_no_chart(
    runs: tuple[Path, Path], drawn: dict[str, list[list[Series]]]
) -> None:
    for run in runs:
        file = run / "evaluations" / "ddim50-classifier" / "evaluation.json"
        content = json.loads(file.read_text())
        for point in content["denoising"]:
            point["x_0_error"] = math.nan
        file.write_text(json.dumps(content))
    render_comparison(compare(read_runs(runs)))
    assert list(drawn) == ["loss"]


@pytest.mark.parametrize(("held_out", "trained_on", "kind"), [
    (True, True, "held-out images"), (False, True, "training images"),
    (False, False, "reference images"), (False, None, "reference images"),
])
def test_images_of_the_denoising_error_are_named(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    charts_of: Callable[[str], dict[str, str]],
    held_out: bool,
    trained_on: bool | None,
    kind: str,
) -> None:
    run = make_run(tmp_path / "a")
    add_evaluation(run, likelihood_images__held_out=held_out, reference__trained_on=trained_on)
    assert f"128 {kind};" in charts_of(render_comparison(compare(read_runs([run]))))["Denoising error"]


def test_an_evaluation_of_the_denoiser_alone(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    estimate: Callable[..., dict[str, Any]],
    read_page: Callable[[str], Any],
) -> None:
    """It has no features of images, and although it is newer it does not hide an evaluation with more metrics."""
    a = make_run(tmp_path / "a")
    add_evaluation(a, "ddim50-classifier", 1e9)
    add_evaluation(a, "ddim50-bound", 2e9, extractor__features=None, metrics={"bits_per_dim": estimate(3.0, 0.1)})
    (run,) = read_runs([a])
    assert [e.folder.name for e in run.evaluations] == ["ddim50-classifier", "ddim50-bound"]
    assert "frechet_distance" in format_comparison(compare([run]))
    shutil.rmtree(a / "evaluations" / "ddim50-classifier")
    alone = compare(read_runs([a]))
    assert [row.name for row in alone.rows] == ["bits_per_dim"]
    read_page(render_comparison(alone))


def test_page_of_a_run_that_has_just_begun(
    tmp_path: Path, make_run: Callable[..., Path], read_page: Callable[[str], Any]
) -> None:
    run = make_run(tmp_path / "a")
    (run / "metrics.jsonl").unlink()
    (run / "samples" / "step_00000030.png").unlink()
    found = compare(read_runs([run]))
    assert not {"img", "figure"} & set(read_page(render_comparison(found)).tags)
    assert f"scripts/evaluate.py {run}" in format_comparison(found)


# ------------------------------------------------------------------------------------------------------------ images


def test_images_that_are_gone_leave_the_others(runs: tuple[Path, Path], read_page: Callable[[str], Any]) -> None:
    (runs[1] / "evaluations" / "samples").rename(runs[1] / "elsewhere")
    tags = read_page(render_comparison(compare(read_runs(runs)))).tags
    assert tags.count("img") == 3       # two classes of a, and the training grid of b


def test_an_image_that_cannot_be_read_is_named(runs: tuple[Path, Path]) -> None:
    file = runs[0] / "evaluations/samples/ddim50-classifier/cat/seed000000.png"
    file.write_text("no image")
    with pytest.raises(ValueError) as error:
        render_comparison(compare(read_runs(runs)))
    assert file.name in str(error.value) and "scripts/evaluate.py" in str(error.value)


def test_grids_are_reduced(tmp_path: Path, make_run: Callable[..., Path], read_page: Callable[[str], Any]) -> None:
    run = make_run(tmp_path / "a")
    noise = np.random.default_rng(0).integers(0, 256, (600, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run / "samples" / "step_00000040.png", compress_level=1)
    sources = read_page(render_comparison(compare(read_runs([run])))).sources
    (uri,) = (uri for uri in sources if uri.startswith("data:"))
    with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        assert image.size == (1000, 250)
        # Reducing by 2.4 averages the noise.
        assert np.asarray(image).std() < 0.7 * noise.std()


def test_only_grids_of_steps_are_grids(
    tmp_path: Path, make_run: Callable[..., Path], read_page: Callable[[str], Any]
) -> None:
    run = make_run(tmp_path / "a")
    (run / "samples" / "step_last.png").write_bytes(b"")
    assert read_page(render_comparison(compare(read_runs([run])))).tags.count("img") == 1


def test_names_are_escaped(
    tmp_path: Path,
    make_run: Callable[..., Path],
    add_evaluation: Callable[..., Path],
    read_page: Callable[[str], Any],
) -> None:
    run = make_run(tmp_path / "<img src=x onerror=alert(1)>")
    add_evaluation(run)
    read_page(render_comparison(compare(read_runs([run]))))
