"""The page of a study: what it says, that it says it of whatever there is, and that it needs nothing else."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.config.sections import Config, DiffusionConfig, ModelConfig, TrainConfig
from ddpm.config.study import FIGURES, Arm, Study
from ddpm.evaluation.text_table import number
from ddpm.lab.ablation.glossary import MEANINGS, of_norm
from ddpm.lab.ablation.outcome import Outcome, RunOutcome
from ddpm.lab.ablation.statistics import Measured, contrast, simultaneous
from ddpm.lab.ablation.study_page import page
from ddpm.lab.ablation.verdicts import sentence
from ddpm.lab.comparison.runs import Evaluation, Run
from ddpm.models.norm import NORMS

VOID = {"meta", "img", "br"}
CONFIG = Config(train=TrainConfig(steps=100))
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
    """The deciding figure, made up."""
    noise = np.random.default_rng([seed, len(arm)]).normal() * 0.002
    return 0.1 + 0.01 * seed + GAINS.get(arm, 0.0) + noise


def a_run(name: str, path: Path, config: Config, value: float, images: bool = True) -> Run:
    """A finished and evaluated run, all of whose numbers follow from one; only its images are on the disk."""
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
    figures = {
        "denoising_error": {"value": value, "low": None, "high": None, "count": 64, "better": "lower", "floor": None},
        "accuracy": {"value": 1 - value, "low": None, "high": None, "count": 64, "better": "higher", "floor": None},
    }
    weights = f"{round(1e9 * value):064x}"
    content = {
        "model": {"weights": weights},
        "samples": {"count": 64, "settings": {}, "folder": "../samples/first"},
        "reference": data,
        "held_out": {"summary": "297 new images", "fingerprint": "e" * 32},
        "extractor": {"name": "judge", "digest": "d" * 64, "features": 112},
        "figures": figures,
        "class_names": ["cat"],
        "denoising": [{"noise_level": x, "x_0_error": value * x, "standard_error": 0.0} for x in LEVELS],
    }
    settings = {f"{part}.{key}": v for part, values in config.to_dict().items() for key, v in values.items()}
    return Run(name, path, settings, facts, records, 0, weights, [Evaluation(folder, content, 0.0)])


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
    """A study whose runs are there, or diverged."""
    study = Study(QUESTION, arms, tuple(range(seeds)), "denoising_error", (), dict(evaluation or {}))
    path.mkdir(parents=True)
    (path / "study.yaml").write_text(TEXT)
    runs: dict[str, list[RunOutcome]] = {}
    for arm in arms:
        for seed in study.seeds:
            place = path / arm.name / f"seed_{seed}"
            if diverged(arm.name, seed):
                run = RunOutcome(arm.name, seed, place, None, None, "loss <nan> at step 7", None)
            else:
                value = error_of(arm.name, seed)
                read = a_run(f"{arm.name}, seed {seed}", place, study.config(arm, seed), value, images)
                run = RunOutcome(arm.name, seed, place, read, read.evaluations[0], None, Measured(value))
            runs.setdefault(arm.name, []).append(run)
    done = [run for of_arm in runs.values() for run in of_arm if run.evaluation is not None]
    better = {"denoising_error": "lower", "accuracy": "higher"} if done else {}
    values = {
        name: {
            arm: {r.seed: r.evaluation.content["figures"][name]["value"] for r in of_arm if r.evaluation is not None}
            for arm, of_arm in runs.items()
        }
        for name in better
    }

    def against(name: str, arm: str, level: float) -> Any:
        ours, theirs = (values[name][of] if done else {} for of in (arm, arms[0].name))
        both = [seed for seed in theirs if seed in ours]
        pairs = [[Measured(figures[seed]) for seed in both] for figures in (theirs, ours)]
        return contrast(*pairs, better.get(name, "lower"), level, replicates=200)

    others = [arm.name for arm in arms[1:]]
    primary = {arm: against("denoising_error", arm, simultaneous(0.95, len(others))) for arm in others}
    lost = {arm: sum(run.diverged is not None for run in of_arm) for arm, of_arm in runs.items()}
    means = {
        name: {a: (mean(v.values()), stdev(v.values()) if len(v) > 1 else None) for a, v in of_arms.items() if v}
        for name, of_arms in values.items()
    }
    return Outcome(
        study=study,
        path=path,
        registered={"digest": DIGEST, "data": {"summary": "1,500 images, 8x8", "fingerprint": "f" * 32},
                    "versions": {"torch": "2.9.9"}, "git_commit": "c0ffee+changes"},
        runs=runs,
        primary=primary,
        exploratory={name: {arm: against(name, arm, 0.95) for arm in others} for name in list(better)[1:]},
        better=better,
        means=means,
        step_seconds=dict(seconds or {}),
        verdicts=[sentence(arm, arms[0].name, "denoising_error", primary[arm], seeds, lost) for arm in others],
        notes=list(notes),
        provenance=[{"arm": run.arm, "seed": str(run.seed), "weights": run.evaluation.weights} for run in done],
    )


class Page(HTMLParser):
    """Reads a page, and refuses tags that do not match.

    Attributes:
        text: what a reader sees, each piece with its white space as one blank.
        sources: values of `src` and `href`.
        tables: of each table its rows, of each row its cells.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.sources: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open
        self.words = " ".join(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object"}
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        piece = " ".join(data.split())
        if piece and "style" not in self._open:
            self.text.append(piece)
            if {"td", "th"} & set(self._open):
                self.tables[-1][-1][-1] += f" {piece}" if self.tables[-1][-1][-1] else piece

    def row(self, table: str, first: str) -> dict[str, str]:
        """The row that begins with `first`, by the heads of the first table with a head `table`."""
        rows = next(rows for rows in self.tables if table in rows[0])
        return dict(zip(rows[0], next(row for row in rows[1:] if row[0] == first), strict=False))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Three arms, five seeds; the adaptive one is better by far more than the noise."""
    seconds = {"plain": [0.1, 0.2, 0.3], "adaptive": [0.25, 0.21, 0.9], "matched": [0.2, 0.2, 0.2]}
    return an_outcome(tmp_path_factory.mktemp("study") / "it", seconds=seconds,
                      evaluation={"held_out_split": "train[1500:]", "count": 64})


@pytest.fixture(scope="module")
def source(outcome: Outcome) -> str:
    """Its page."""
    return page(outcome)


def test_page_is_whole_and_needs_nothing_else(source: str) -> None:
    read = Page(source)
    assert all(place.startswith(("data:image/png;base64,", "#")) for place in read.sources)
    assert "http:" not in source and "https:" not in source and "url(" not in source and "@import" not in source
    assert "Content-Security-Policy" in source and "default-src 'none'" in source
    assert not re.search(r"\b(nan|inf|None|Markup)\b", re.sub(r'"data:[^"]*"', "", source))
    assert all(place[1:] in re.findall(r'id="(\w+)"', source) for place in read.sources if place.startswith("#"))


def test_the_page_opens_with_question_and_verdicts(source: str, outcome: Outcome) -> None:
    words = Page(source).text
    start = words.index(QUESTION, 1)
    assert words[start + 1 : start + 3] == [" ".join(verdict.split()) for verdict in outcome.verdicts]
    assert "adaptive is better than plain" in words[start + 1]


def test_what_reproduces_it_is_there(source: str, outcome: Outcome) -> None:
    words = Page(source).words
    for text in (DIGEST, "f" * 32, "e" * 32, "297 new images", "2.9.9", "c0ffee+changes", " ".join(TEXT.split())):
        assert text in words
    assert "python scripts/ablate.py --study it/resolved.yaml --run-dir it" in words
    assert "python scripts/train.py --config it/plain/seed_0/config.yaml --run-dir runs/again" in words
    assert str(outcome.path.parent) not in source
    assert "python scripts/evaluate.py runs/again --held-out-split 'train[1500:]' --count 64" in words
    assert all(facts["weights"] in words for facts in outcome.provenance)
    assert 'Is a &lt; b &amp; &#34;c&#34; so?' in source and "a < b" not in source


def test_values_of_runs_suffice_for_the_statistics(source: str, outcome: Outcome) -> None:
    rows = next(rows for rows in Page(source).tables if rows[0][:3] == ["arm", "seed", "state"])
    told = {(row[0], int(row[1])): (row[2], float(row[3])) for row in rows[1:]}
    assert len(told) == 15 and rows[0][3:] == ["denoising_error", "accuracy"]
    for (arm, seed), (state, value) in told.items():
        assert state == "finished" and value == pytest.approx(error_of(arm, seed), rel=1e-7)      # eight digits


def test_tables_of_arms(source: str, outcome: Outcome) -> None:
    read = Page(source)
    for arm in ARMS:
        values = [error_of(arm.name, seed) for seed in range(5)]
        row = read.row("verdict", arm.name)
        assert (row["mean"], row["sd"]) == (number(mean(values)), number(stdev(values)))
    differences = [error_of("adaptive", seed) - error_of("plain", seed) for seed in range(5)]
    row = read.row("verdict", "adaptive")
    assert row["minus plain"] == f"-{number(abs(mean(differences)))}" and row["verdict"] == "better"
    assert row["p"] == row["least p"] == "0.0625" and row["seeds"] == "5"
    assert row["effect size"] == number(mean(differences) / stdev(differences))
    assert "97.5 % interval" in row and row["97.5 % interval"].startswith("-0.0")
    about = read.row("parameters", "adaptive")
    assert (about["parameters"], about["multiply-adds"]) == ("827,745 as plain", "18,767,872")
    assert about["differs from the base in"] == f"model.norm: adagn its norm: {of_norm('adagn')}"
    assert (about["step"], about["step / plain"]) == ("250 ms", "1.250")        # medians 0.25 s and 0.2 s
    assert about["runs with denoising_error"] == "5 of 5"


def test_parameters_are_set_beside_those_of_the_baseline(tmp_path: Path) -> None:
    there = an_outcome(tmp_path / "it", seeds=3)
    for arm, parameters in {"plain": 10_000, "adaptive": 10_510, "matched": 9_990}.items():
        for run in there.runs[arm]:
            run.run.facts["parameters"] = parameters
    read = Page(page(there))
    told = [read.row("parameters", arm.name)["parameters"] for arm in ARMS]
    assert told == ["10,000", "10,510 5.10 % more than plain", "9,990 0.10 % fewer than plain"]


def charts(source: str) -> dict[str, str]:
    return dict(re.findall(r"<figure>\n<figcaption><h3>(.*?)</h3>(.*?)</figure>", source, re.DOTALL))


def test_charts(source: str) -> None:
    found = charts(source)
    assert list(found) == [
        "Differences by seed", "Loss over training steps", "Loss over seconds of training",
        "Accuracy over training steps", "Accuracy over seconds of training", "Denoising error",
        "Denoising error beside plain",
    ]
    assert found["Differences by seed"].count("<circle") == 10 and "adaptive, seed 3: -" in found["Differences by seed"]
    for name, chart in list(found.items())[1:]:
        assert chart.count('class="band"') == 3, name
    loss = mean(error_of("plain", seed) for seed in range(5)) + 1 / 100
    assert f"plain: {loss:.4g} at 100<" in found["Loss over training steps"]
    assert f"plain: {loss:.4g} at 20<" in found["Loss over seconds of training"]        # 100 steps of 0.2 s
    ratio = mean(error_of("adaptive", seed) / error_of("plain", seed) for seed in range(5))
    assert f"adaptive: {ratio:.4g} at 0.1<" in found["Denoising error beside plain"]
    assert "plain: 1 at 0.1<" in found["Denoising error beside plain"]


def test_figures_that_were_not_named_before_are_called_exploratory(source: str) -> None:
    hidden = source[source.index("<details>") : source.index("</details>")]
    assert "Exploratory." in hidden and "accuracy" in hidden and "each 95 % interval stands for itself" in hidden
    assert "accuracy" not in source[source.index("<h1>") : source.index("<h2>Curves")]


def test_images_of_the_lowest_seed_that_all_arms_have(tmp_path: Path) -> None:
    there = an_outcome(tmp_path / "it", seeds=3, diverged=lambda arm, seed: (arm, seed) == ("matched", 0))
    text = page(there)
    assert "Of the runs of seed 1." in text and text.count('alt="cat by ') == 3
    assert "seeds 0, 1, 2</small>" in text
    text = page(an_outcome(tmp_path / "none", seeds=3, diverged=lambda arm, seed: arm == "matched"))
    assert "of seed 0 there is nothing of matched" in text and text.count('alt="cat by ') == 2


def test_without_images(tmp_path: Path) -> None:
    text = page(an_outcome(tmp_path / "it", seeds=3, images=False))
    Page(text)
    assert "alt=" not in text and "its drawn images are gone" in text


def test_a_study_that_was_not_timed(tmp_path: Path) -> None:
    text = page(an_outcome(tmp_path / "it", seeds=3))
    assert Page(text).row("parameters", "adaptive")["step"] == "none"
    assert not [title for title in charts(text) if "seconds" in title] and "was not measured" in text


def test_two_seeds_give_no_interval(tmp_path: Path) -> None:
    text = page(an_outcome(tmp_path / "it", seeds=2))
    row = Page(text).row("verdict", "adaptive")
    assert row["verdict"] == "too few seeds" and row["p"] == row["97.5 % interval"] == row["detectable"] == ""
    assert "An interval needs 3 seeds or more, and there are 2" in text and row["minus plain"].startswith("-0.0")
    assert 'class="bar' not in charts(text)["Differences by seed"]


def test_an_arm_of_which_every_run_diverged(tmp_path: Path) -> None:
    there = an_outcome(tmp_path / "it", seeds=3, diverged=lambda arm, seed: arm == "adaptive", notes=("see <b>",))
    text = page(there)
    read = Page(text)
    assert "3 of 9 runs diverged" in read.words and "diverged: loss <nan> at step 7" in read.words
    assert "see <b>" in read.words
    assert read.row("parameters", "adaptive")["runs with denoising_error"] == "0 of 3, 3 diverged"
    assert read.row("verdict", "adaptive")["mean"] == "none" and read.row("verdict", "adaptive")["seeds"] == "0"
    assert "adaptive, seed" not in charts(text)["Differences by seed"]


@pytest.mark.parametrize("whose", [("plain",), ("plain", "adaptive", "matched")])
def test_without_a_baseline_and_without_anything(tmp_path: Path, whose: tuple[str, ...]) -> None:
    text = page(an_outcome(tmp_path / "it", seeds=3, diverged=lambda arm, seed: arm in whose))
    read = Page(text)
    assert read.row("verdict", "adaptive")["verdict"] == "no figures"
    assert ("lower is better" in text) == ("matched" not in whose)
    assert "Differences by seed" not in charts(text) and "Denoising error beside plain" not in charts(text)
    assert ("Denoising error" in charts(text)) == ("matched" not in whose)


def test_more_arms_than_styles(tmp_path: Path) -> None:
    arms = tuple(an_arm(f"width{c}", channels=32 + 8 * c) for c in range(10))
    text = page(an_outcome(tmp_path / "it", arms, seeds=3))
    assert all(Page(text).row("verdict", arm.name)["mean"] for arm in arms)
    assert {int(i) for i in re.findall(r'class="series-(\d+)"', text)} == set(range(8))


def test_losses_of_another_kind_are_told(tmp_path: Path) -> None:
    other = Arm("eps", {"diffusion.prediction": "eps"},
                dataclasses.replace(CONFIG, diffusion=DiffusionConfig(prediction="eps")))
    text = page(an_outcome(tmp_path / "it", (Arm("base", {}, CONFIG), other), seeds=3))
    assert "The loss of eps is another quantity than that of base." in text
    assert Page(text).row("parameters", "base")["differs from the base in"].startswith("nothing")


def test_a_shift_of_seeds_is_told(tmp_path: Path) -> None:
    arms = (Arm("a", {}, CONFIG), Arm("again", {}, CONFIG, seed_shift=1000))
    text = page(an_outcome(tmp_path / "it", arms, seeds=3))
    assert "arms whose seeds are moved" in text
    assert Page(text).row("parameters", "again")["differs from the base in"].startswith("every seed moved by 1,000")


def test_a_sweep_and_the_machine_are_told(tmp_path: Path) -> None:
    there = an_outcome(tmp_path / "it", seeds=3, seconds={arm.name: [0.1] for arm in ARMS})
    there = dataclasses.replace(there, study=dataclasses.replace(there.study, learning_rates=(0.001, 0.01)))
    found = {"learning_rate": 0.01, "figures": {"0.001": 0.25, "0.01": None}, "at_an_end": True}
    (there.path / "sweep.json").write_text(json.dumps({arm.name: found for arm in ARMS}))
    (there.path / "timing.json").write_text(json.dumps({"machine": "a <small> one", "processes": 2}))
    read = Page(page(there))
    row = read.row("chosen", "matched")
    assert row["chosen"] == "0.01" and row["denoising_error at 0.001"] == "0.25"
    assert row["denoising_error at 0.01"] == "diverged" and "lie beyond" in row[""]
    assert "on a <small> one, 2 processes" in read.words and "found best for each" in read.words
    assert "intervals do not include that another rate might have been chosen" in read.words


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_explained(name: str) -> None:
    assert MEANINGS[name][0].isupper() and MEANINGS[name].endswith(".")


def test_the_denoising_error_is_explained_as_what_it_is() -> None:
    told = MEANINGS["denoising_error"]
    assert "what the noise was" in told and "0 is perfect" in told and "1 is what a network gets" in told


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_explained(name: str) -> None:
    assert of_norm(name).endswith((".", ").")) and "\n" not in of_norm(name)
