"""The page of a study: golden files, the numbers in it, and incomplete studies."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ddpm.config.sections import Config, DiffusionConfig, ModelConfig, TrainConfig
from ddpm.config.study import STUDY_METRICS, Arm, Study
from ddpm.evaluation.text_table import number
from ddpm.lab.ablation import study_charts
from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.ablation.statistics import Contrast, Measured, bonferroni_level, contrast
from ddpm.lab.ablation.study_page import describe_norm, render_study
from ddpm.lab.ablation.verdicts import verdict_sentence
from ddpm.lab.comparison.runs import Evaluation, Run
from ddpm.lab.pages import template_environment
from ddpm.models.norm import NORMS

CONFIG = Config(train=TrainConfig(steps=100, batch_size=64, learning_rate=3e-3))
QUESTION = 'Is a < b & "c" so?'
TEXT = "question: Is a < b & so?\narms: {plain: {}}\n"
LEVELS = (0.01, 0.1, 1.0, 10.0)
DIGEST = "5" * 64


def an_arm(name: str, **overrides: Any) -> Arm:
    config = dataclasses.replace(CONFIG, model=ModelConfig(**overrides))
    return Arm(name, {f"model.{key}": value for key, value in overrides.items()}, config)


NORM_OF = {"plain": "groupnorm", "adaptive": "adagn", "matched": "groupnorm_matched"}
ARMS = tuple(an_arm(name, norm=norm) for name, norm in NORM_OF.items())
GAINS = {"plain": 0.0, "adaptive": -0.02, "matched": 0.001}


def error_of(arm: str, seed: int) -> float:
    """Return a made-up value of the deciding metric."""
    noise = np.random.default_rng([seed, len(arm)]).normal() * 0.002
    return round(0.1 + 0.01 * seed + GAINS.get(arm, 0.0) + noise, 6)


def a_run(name: str, path: Path, config: Config, value: float, images: bool = True) -> Run:
    """Return a finished and evaluated run whose numbers all follow from `value`; only its images are on disk."""
    data = {"summary": "1,500 images, 8x8", "fingerprint": "f" * 32}
    facts = {"parameters": 827745, "multiply_adds": 18767872, "data": data, "git_commit": "c0ffee"}
    steps = range(10, config.train.steps + 1, 10)
    records = [{"step": s, "loss": value + 1 / s, "evaluation/accuracy": 1 - value} for s in steps]
    folder, drawn = path / "evaluations" / "first", path / "evaluations" / "samples" / "first" / "cat"
    if images:
        folder.mkdir(parents=True)
        drawn.mkdir(parents=True)
        pixels = np.random.default_rng(round(1e6 * value)).integers(0, 256, (3, 8, 8), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(drawn / f"seed{i:06d}.png")
    facts_of_metrics = {"low": None, "high": None, "count": 64, "real_baseline": None}
    metrics = {
        "denoising_error": {"value": value, "better": "lower", **facts_of_metrics},
        "accuracy": {"value": 1 - value, "better": "higher", **facts_of_metrics},
    }
    weights = f"{round(1e9 * value):064x}"
    content = {
        "model": {"weights": weights},
        "samples": {"count": 64, "settings": {}, "folder": "../samples/first"},
        "reference": data,
        "held_out": {"summary": "297 new images", "fingerprint": "e" * 32},
        "extractor": {"name": "classifier", "digest": "d" * 64, "features": 112},
        "metrics": metrics,
        "class_names": ["cat"],
        "denoising": [{"sigma": x, "x_0_error": value * x, "standard_error": 0.0} for x in LEVELS],
    }
    settings = {f"{part}.{key}": v for part, values in config.to_dict().items() for key, v in values.items()}
    return Run(name, path, settings, facts, records, weights, [Evaluation(folder, content, 0.0)])


def an_outcome(
    path: Path,
    arms: tuple[Arm, ...] = ARMS,
    seeds: int = 5,
    diverged: Callable[[str, int], bool] = lambda arm, seed: False,
    seconds: Mapping[str, list[float]] | None = None,
    notes: tuple[str, ...] = (),
    images: bool = True,
    evaluation: Mapping[str, Any] | None = None,
) -> Outcome:
    """Return a study whose runs are finished or diverged."""
    study = Study(QUESTION, arms, tuple(range(seeds)), "denoising_error", (), dict(evaluation or {}))
    path.mkdir(parents=True)
    (path / "study.yaml").write_text(TEXT)
    runs: dict[str, list[RunOutcome]] = {}
    for arm in arms:
        for seed in study.seeds:
            folder = path / arm.name / f"seed_{seed}"
            if diverged(arm.name, seed):
                run = RunOutcome(arm.name, seed, folder, None, None, "loss <nan> at step 7", None)
            else:
                value = error_of(arm.name, seed)
                read = a_run(f"{arm.name}, seed {seed}", folder, study.config(arm, seed), value, images)
                run = RunOutcome(arm.name, seed, folder, read, read.evaluations[0], None, Measured(value))
            runs.setdefault(arm.name, []).append(run)
    done = [run for of_arm in runs.values() for run in of_arm if run.evaluation is not None]
    better = {"denoising_error": "lower", "accuracy": "higher"} if done else {}
    values = {
        name: {
            arm: {r.seed: r.evaluation.content["metrics"][name]["value"] for r in of_arm if r.evaluation is not None}
            for arm, of_arm in runs.items()
        }
        for name in better
    }

    def against(name: str, arm: str, level: float) -> Any:
        ours, theirs = (values[name][of] if done else {} for of in (arm, arms[0].name))
        both = [seed for seed in theirs if seed in ours]
        pairs = [[Measured(metrics[seed]) for seed in both] for metrics in (theirs, ours)]
        return contrast(*pairs, better.get(name, "lower"), level, replicates=200)

    others = [arm.name for arm in arms[1:]]
    deciding = {arm: against("denoising_error", arm, bonferroni_level(0.95, len(others))) for arm in others}
    lost = {arm: sum(run.diverged is not None for run in of_arm) for arm, of_arm in runs.items()}
    means = {
        name: {
            a: {"mean": mean(v.values()), "standard_deviation": stdev(v.values()) if len(v) > 1 else None}
            for a, v in of_arms.items()
            if v
        }
        for name, of_arms in values.items()
    }
    return Outcome(
        study=study,
        path=path,
        registered={"digest": DIGEST, "data": {"summary": "1,500 images, 8x8", "fingerprint": "f" * 32},
                    "versions": {"torch": "2.9.9"}, "git_commit": "c0ffee+changes"},
        runs=runs,
        deciding=deciding,
        exploratory={name: {arm: against(name, arm, 0.95) for arm in others} for name in list(better)[1:]},
        better=better,
        means=means,
        step_seconds=dict(seconds or {}),
        verdicts=[verdict_sentence(arm, arms[0].name, "denoising_error", deciding[arm], seeds, lost) for arm in others],
        notes=list(notes),
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Return a study of three arms and five seeds; the adaptive arm is better by far more than the noise."""
    seconds = {"plain": [0.1, 0.2, 0.3], "adaptive": [0.25, 0.21, 0.9], "matched": [0.2, 0.2, 0.2]}
    return an_outcome(tmp_path_factory.mktemp("study") / "it", seconds=seconds,
                      evaluation={"held_out_split": "train[1500:]", "count": 64})


@pytest.fixture(scope="module")
def source(outcome: Outcome) -> str:
    """Return the page of `outcome`."""
    return render_study(outcome)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Map the labels of the axes of each line chart to its series, and "pairs" to the rows of differences."""
    found: dict[str, list[Any]] = {}
    draw_lines, draw_rows = study_charts.draw_lines, study_charts.draw_rows

    def lines(series: list[Any], x: str, y: str, *rest: Any, **options: Any) -> Figure:
        found[f"{y} over {x}"] = list(series)
        return draw_lines(series, x, y, *rest, **options)

    def pairs(rows: list[Any], *rest: Any, **options: Any) -> Figure:
        found["pairs"] = list(rows)
        return draw_rows(rows, *rest, **options)

    monkeypatch.setattr(study_charts, "draw_lines", lines)
    monkeypatch.setattr(study_charts, "draw_rows", pairs)
    return found


# ------------------------------------------------------------------------------------------------------ golden files


def by_hand(value: float, level: float, verdict: str) -> Contrast:
    """Return a contrast in round numbers, the same on every machine."""
    ends = (value - 0.01, value + 0.01)
    return Contrast(value, *ends, level, 0.0625, 0.0625, 5 * value, 0.015, 2 * value, 5, verdict)


def with_round_numbers(there: Outcome) -> Outcome:
    deciding = {"adaptive": by_hand(-0.02, 0.975, "better"), "matched": by_hand(0.001, 0.975, "inconclusive")}
    other = {"adaptive": by_hand(0.02, 0.95, "better"), "matched": by_hand(-0.02, 0.95, "worse")}
    values = {"plain": (0.12, 0.015), "adaptive": (0.1, 0.0125), "matched": (0.121, None)}
    means = {arm: {"mean": value, "standard_deviation": sd} for arm, (value, sd) in values.items()}
    verdicts = [verdict_sentence(arm, "plain", "denoising_error", deciding[arm], 5, {}) for arm in deciding]
    return dataclasses.replace(
        there, deciding=deciding, exploratory={"accuracy": other}, means={"denoising_error": means}, verdicts=verdicts
    )


def test_page_of_a_finished_study(
    outcome: Outcome, read_page: Callable[[str], Any], check_golden_page: Callable[[str, str], None]
) -> None:
    there = with_round_numbers(outcome)
    text = render_study(there)
    read = read_page(text)
    start = read.text.index(QUESTION, 1)
    assert read.text[start + 1 : start + 3] == [" ".join(verdict.split()) for verdict in there.verdicts]
    check_golden_page("study.html", text)


def test_page_of_a_study_with_a_sweep_divergence_and_notes(
    tmp_path: Path, read_page: Callable[[str], Any], check_golden_page: Callable[[str, str], None]
) -> None:
    arms = (*ARMS[:2], dataclasses.replace(ARMS[2], seed_shift=1000))
    lost = [("adaptive", seed) for seed in (0, 2, 3, 4)]
    there = an_outcome(tmp_path / "it", arms, diverged=lambda arm, seed: (arm, seed) in lost, notes=("A <b>",))
    there = with_round_numbers(dataclasses.replace(there, step_seconds={}))
    there = dataclasses.replace(there, study=dataclasses.replace(there.study, learning_rates=(0.001, 0.01)))
    found = {"learning_rate": 0.01, "metrics": {"0.001": 0.25, "0.01": None}, "at_an_end": True}
    (there.path / "sweep.json").write_text(json.dumps({arm.name: found for arm in ARMS}))
    (there.path / "timing.json").write_text(json.dumps({"machine": "a <small> one", "processes": 2}))
    text = render_study(there)
    read_page(text)
    check_golden_page("sweep.html", text)


def test_page_of_a_study_without_metrics(
    tmp_path: Path, read_page: Callable[[str], Any], check_golden_page: Callable[[str, str], None]
) -> None:
    text = render_study(an_outcome(tmp_path / "it", seeds=2, diverged=lambda arm, seed: True))
    read_page(text)
    check_golden_page("nothing.html", text)


# ----------------------------------------------------------------------------------------------------------- numbers


def test_page_shows_how_to_reproduce_the_study(source: str, outcome: Outcome, read_page: Callable[[str], Any]) -> None:
    words = read_page(source).words
    for text in (DIGEST, "f" * 32, "e" * 32, "297 new images", "2.9.9", "c0ffee+changes", " ".join(TEXT.split())):
        assert text in words
    assert "python scripts/ablate.py --study it/resolved.yaml --run-dir it" in words
    assert "python scripts/train.py --config it/plain/seed_0/config.yaml --run-dir runs/again" in words
    assert str(outcome.path.parent) not in source
    assert "python scripts/evaluate.py runs/again --held-out-split 'train[1500:]' --count 64" in words
    assert all(run.evaluation.weights in words for of_arm in outcome.runs.values() for run in of_arm)
    assert 'Is a &lt; b &amp; &#34;c&#34; so?' in source and "a < b" not in source


def test_values_of_runs_suffice_for_the_statistics(source: str, read_page: Callable[[str], Any]) -> None:
    rows = next(rows for rows in read_page(source).tables if rows[0][:3] == ["arm", "seed", "state"])
    shown = {(row[0], int(row[1])): (row[2], float(row[3])) for row in rows[1:]}
    assert len(shown) == 15 and rows[0][3:] == ["denoising_error", "accuracy"]
    for (arm, seed), (state, value) in shown.items():
        assert state == "finished" and value == pytest.approx(error_of(arm, seed), rel=1e-7)      # eight digits


def test_tables_of_arms(source: str, outcome: Outcome, read_page: Callable[[str], Any]) -> None:
    read = read_page(source)
    for arm in ARMS:
        values = [error_of(arm.name, seed) for seed in range(5)]
        row = read.row("verdict", arm.name)
        assert (row["mean"], row["sd"]) == (number(mean(values)), number(stdev(values)))
    differences = [error_of("adaptive", seed) - error_of("plain", seed) for seed in range(5)]
    row = read.row("verdict", "adaptive")
    assert row["minus plain"] == f"-{number(abs(mean(differences)))}" and row["verdict"] == "better"
    assert row["p"] == row["smallest p"] == "0.0625" and row["seeds"] == "5"
    assert row["effect size"] == number(mean(differences) / stdev(differences))
    assert "97.5 % interval" in row and row["97.5 % interval"].startswith("-0.0")
    about = read.row("parameters", "adaptive")
    assert (about["parameters"], about["multiply-adds"]) == ("827,745 as plain", "18,767,872")
    assert about["differs from the base in"] == f"model.norm: adagn norm: {describe_norm('adagn')}"
    assert (about["step"], about["step / plain"]) == ("250 ms", "1.250")        # medians 0.25 s and 0.2 s
    assert about["runs with denoising_error"] == "5 of 5"


def test_parameters_are_compared_with_the_baseline(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    there = an_outcome(tmp_path / "it", seeds=3)
    for arm, parameters in {"plain": 10_000, "adaptive": 10_510, "matched": 9_990}.items():
        for run in there.runs[arm]:
            run.run.facts["parameters"] = parameters
    read = read_page(render_study(there))
    shown = [read.row("parameters", arm.name)["parameters"] for arm in ARMS]
    assert shown == ["10,000", "10,510 5.10 % more than plain", "9,990 0.10 % fewer than plain"]


def test_curves(outcome: Outcome, drawn: dict[str, list[Any]]) -> None:
    render_study(outcome)
    (adaptive, _) = drawn["pairs"]
    of_seed_3 = next(mark for mark in adaptive.marks if mark.note == "seed 3")
    assert of_seed_3.value == pytest.approx(error_of("adaptive", 3) - error_of("plain", 3))
    assert all(line.band for name, lines in drawn.items() if name != "pairs" for line in lines)
    plain, *_ = drawn["loss over training steps"]
    loss = mean(error_of("plain", seed) for seed in range(5)) + 1 / 100
    assert plain.points[-1] == (100, pytest.approx(loss))
    plain, *_ = drawn["loss over seconds of training"]
    assert plain.points[-1] == (pytest.approx(20), pytest.approx(loss))         # 100 steps of 0.2 s
    assert len(drawn["accuracy over training steps"]) == len(drawn["accuracy over seconds of training"]) == 3


def test_denoising_errors_are_divided_by_the_baseline(outcome: Outcome, drawn: dict[str, list[Any]]) -> None:
    render_study(outcome)
    ratios = next(lines for name, lines in drawn.items() if lines[0].name == "plain" and lines[0].points[1][1] == 1)
    ratio = mean(error_of("adaptive", seed) / error_of("plain", seed) for seed in range(5))
    assert ratios[0].points == [(level, 1) for level in LEVELS]
    assert ratios[1].points[1] == (0.1, pytest.approx(ratio))


def test_other_metrics_follow_the_verdicts(source: str) -> None:
    assert "accuracy" in source[source.index("<details>") : source.index("</details>")]
    assert "accuracy" not in source[source.index("<h1>") : source.index("<h2>Curves")]


def test_images_are_of_the_lowest_seed_that_all_arms_have(tmp_path: Path) -> None:
    text = render_study(an_outcome(tmp_path / "it", seeds=3, diverged=lambda arm, seed: (arm, seed) == ("matched", 0)))
    assert text.count('alt="cat by ') == 3 and "seeds 0, 1, 2</small>" in text
    assert "seed 1" in text[text.index("</section>", text.index("Curves")) : text.index('alt="cat by ')]
    text = render_study(an_outcome(tmp_path / "none", seeds=3, diverged=lambda arm, seed: arm == "matched"))
    assert text.count('alt="cat by ') == 2


def test_without_images(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    assert "img" not in read_page(render_study(an_outcome(tmp_path / "it", seeds=3, images=False))).tags


def test_a_study_that_was_not_timed(
    tmp_path: Path, read_page: Callable[[str], Any], drawn: dict[str, list[Any]]
) -> None:
    text = render_study(an_outcome(tmp_path / "it", seeds=3))
    assert read_page(text).row("parameters", "adaptive")["step"] == "none"
    assert not [name for name in drawn if "seconds" in name]


def test_two_seeds_give_no_interval(
    tmp_path: Path, read_page: Callable[[str], Any], drawn: dict[str, list[Any]]
) -> None:
    row = read_page(render_study(an_outcome(tmp_path / "it", seeds=2))).row("verdict", "adaptive")
    assert row["verdict"] == "too few seeds" and row["p"] == row["97.5 % interval"] == row["detectable"] == ""
    assert row["minus plain"].startswith("-0.0")
    assert [pair.marks[-1].low for pair in drawn["pairs"]] == [None, None]


def test_an_arm_whose_runs_all_diverged(
    tmp_path: Path, read_page: Callable[[str], Any], drawn: dict[str, list[Any]]
) -> None:
    there = an_outcome(tmp_path / "it", seeds=3, diverged=lambda arm, seed: arm == "adaptive", notes=("see <b>",))
    read = read_page(render_study(there))
    assert "loss <nan> at step 7" in read.words and "see <b>" in read.words
    assert read.row("parameters", "adaptive")["runs with denoising_error"] == "0 of 3, 3 diverged"
    assert read.row("verdict", "adaptive")["mean"] == "none" and read.row("verdict", "adaptive")["seeds"] == "0"
    assert [pair.name for pair in drawn["pairs"]] == ["matched"]


@pytest.mark.parametrize("whose", [("plain",), ("plain", "adaptive", "matched")])
def test_without_runs_of_the_baseline_or_of_any_arm(
    tmp_path: Path, whose: tuple[str, ...], read_page: Callable[[str], Any], drawn: dict[str, list[Any]]
) -> None:
    read = read_page(render_study(an_outcome(tmp_path / "it", seeds=3, diverged=lambda arm, seed: arm in whose)))
    assert read.row("verdict", "adaptive")["verdict"] == "no metrics" and "pairs" not in drawn
    assert bool(drawn) == ("matched" not in whose)


def test_more_arms_than_styles(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    arms = tuple(an_arm(f"width{c}", channels=32 + 8 * c) for c in range(10))
    read = read_page(render_study(an_outcome(tmp_path / "it", arms, seeds=3)))
    assert all(read.row("verdict", arm.name)["mean"] for arm in arms)


def test_losses_of_another_kind_are_noted(
    tmp_path: Path, read_page: Callable[[str], Any], charts_of: Callable[[str], dict[str, str]]
) -> None:
    other = Arm("other", {"diffusion.prediction": "eps"},
                dataclasses.replace(CONFIG, diffusion=DiffusionConfig(prediction="eps")))
    text = render_study(an_outcome(tmp_path / "it", (Arm("base", {}, CONFIG), other), seeds=3))
    assert "loss of other" in charts_of(text)["Loss over training steps"]
    assert read_page(text).row("parameters", "base")["differs from the base in"].startswith("nothing")


def test_a_shift_of_seeds_is_a_difference(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    arms = (Arm("a", {}, CONFIG), Arm("again", {}, CONFIG, seed_shift=1000))
    row = read_page(render_study(an_outcome(tmp_path / "it", arms, seeds=3))).row("parameters", "again")
    assert "1,000" in row["differs from the base in"]


@pytest.mark.parametrize("name", STUDY_METRICS)
def test_every_metric_is_explained(name: str) -> None:
    meanings = template_environment().get_template("ablation/metrics.html.jinja").module.meanings
    assert meanings[name][0].isupper() and meanings[name].endswith(".")


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_explained(name: str) -> None:
    assert describe_norm(name).endswith((".", ").")) and "\n" not in describe_norm(name)
