"""Study files: what is read, and what is refused in one line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm.config.sections import Config
from ddpm.config.study import FIGURES, Arm, Study
from ddpm.config.study_files import read_study, study_text
from ddpm.evaluation.metrics import METRICS
from ddpm.evaluation.setup import DENOISER_METRICS

GOOD: dict[str, Any] = {
    "question": "Does adaptive group normalization beat plain GroupNorm?",
    "base": {"data": {"split": "train[:1500]"}, "train": {"steps": 60}},
    "arms": {"groupnorm": {"model.norm": "groupnorm"}, "adagn": {"model.norm": "adagn"}},
    "seeds": [0, 1, 2],
    "metric": "denoising_error",
    "evaluation": {"held_out_split": "train[1500:]", "count": 1000, "sampler": "dpmpp"},
}


def read(tmp_path: Path, content: dict[str, Any] | str, **changes: Any) -> Study:
    """The study of a file that holds `content` with other values of some keys; None leaves a key out."""
    file = tmp_path / "study.yaml"
    if isinstance(content, dict):
        kept = {key: value for key, value in (content | changes).items() if value is not None}
        content = yaml.safe_dump(kept, sort_keys=False)
    file.write_text(content)
    return read_study(file)


def arms(**named: Any) -> dict[str, Any]:
    """Beside the baseline."""
    return {"groupnorm": {"model.norm": "groupnorm"}, **named}


# ------------------------------------------------------------------------------------------------------- what is read


def test_arms_are_the_base_with_their_overrides(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD)
    assert study.question == GOOD["question"] and study.seeds == (0, 1, 2) and study.metric == "denoising_error"
    assert study.learning_rates == () and study.evaluation == GOOD["evaluation"]
    assert [arm.name for arm in study.arms] == ["groupnorm", "adagn"] and study.baseline.name == "groupnorm"
    expected = Config()
    expected = dataclasses.replace(
        expected,
        data=dataclasses.replace(expected.data, split="train[:1500]"),
        train=dataclasses.replace(expected.train, steps=60),
        model=dataclasses.replace(expected.model, norm="groupnorm"),
    )
    assert study.baseline.config == expected and study.baseline.overrides == {"model.norm": "groupnorm"}
    assert study.arms[1].config.to_dict()["model"] == Config().to_dict()["model"]


def test_a_run_has_the_seed_and_the_learning_rate_that_it_is_given(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD, arms={"a": {}, "b": {"seed_shift": 100}})
    a, b = study.arms
    assert (b.seed_shift, b.overrides) == (100, {})
    assert study.config(a, 2).train.seed == 2 and study.config(b, 2).train.seed == 102
    assert dataclasses.replace(study.config(b, 2).train, seed=0) == a.config.train
    tried = dataclasses.replace(a.config.train, seed=102, learning_rate=0.5)
    assert study.config(b, 2, learning_rate=0.5).train == tried


def test_options_may_stand_in_sections_and_numbers_be_written_with_an_exponent(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD, arms=arms(wide={"model": {"channels": 64}, "train.learning_rate": "1e-3"}))
    assert study.arms[1].overrides == {"model.channels": 64, "train.learning_rate": 0.001}
    assert study.arms[1].config.train.learning_rate == 0.001
    text = yaml.safe_dump(GOOD).replace("metric:", "learning_rates: [1e-3, 3.0e-3]\nmetric:")
    assert read(tmp_path, text).learning_rates == (0.001, 0.003)


def test_the_base_may_be_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {steps: 7}\n")
    assert read(tmp_path, GOOD, base="base.yaml").baseline.config.train.steps == 7
    assert read(tmp_path, GOOD, base=None).baseline.config.train == Config().train
    with pytest.raises(ValueError, match=r"study\.yaml: base: there is no file .*nowhere\.yaml; give a configuration"):
        read(tmp_path, GOOD, base="nowhere.yaml")


BASES = {
    "with comments": "# small\ntrain:\n  steps: 7   # few\n",
    "in braces": "{train: {steps: 7}}",
    "with a mark": "---\ntrain: {steps: 7}\n...\n",
    "with an anchor": "train: &a {steps: 7}\n",
}


NAMED = ("base: base.yaml     # of the others\n", "base: 'base.yaml'\n", "base:\n  base.yaml\n")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("last", [False, True])
def test_the_text_that_is_kept_needs_no_file_of_the_base(tmp_path: Path, base: str, named: str, last: bool) -> None:
    (tmp_path / "base.yaml").write_text(BASES[base])
    file, rest = tmp_path / "study.yaml", yaml.safe_dump({key: value for key, value in GOOD.items() if key != "base"})
    file.write_text(f"# Why.\n{rest}{named}" if last else f"# Why.\n{named}{rest}")
    kept = study_text(file)
    assert yaml.safe_load(kept) == GOOD | {"base": {"train": {"steps": 7}}}
    if base == "with comments":
        assert "# Why." in kept and "# few" in kept and ("of the others" in kept) == ("others" in named)
    file.write_text(kept)
    assert study_text(file) == kept


def test_a_study_that_is_kept_is_the_same_study(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {steps: 7}\n")
    study = read(tmp_path, json.dumps(GOOD | {"base": "base.yaml"}))
    (tmp_path / "elsewhere").mkdir()
    assert read(tmp_path / "elsewhere", study_text(tmp_path / "study.yaml")) == study


def test_anchors_and_arms_without_overrides(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in GOOD.items() if key != "arms"})
    text += "arms:\n  plain:\n  a: &a {model.norm: groupnorm}\n  b: {<<: *a, model.channels: 16}\n"
    study = read(tmp_path, text)
    assert [arm.overrides for arm in study.arms] == [
        {}, {"model.norm": "groupnorm"}, {"model.norm": "groupnorm", "model.channels": 16},
    ]


def test_what_an_arm_may_say_of_the_data(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD, arms={"true": {}, "shuffled": {"data.shuffle_labels": True, "data.flip": True}})
    assert study.arms[1].config.data.shuffle_labels and not study.baseline.config.data.shuffle_labels


def test_fewer_than_three_seeds_are_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, seeds=[5]).seeds == (5,)


def test_what_is_registered_is_resolved_and_plain(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD, evaluation={"guide": "runs/weak", "guidance_interval": [1, 2]})
    registered = json.loads(json.dumps(study.to_dict()))
    assert registered == study.to_dict()
    assert registered["arms"][0]["config"]["data"]["split"] == "train[:1500]"
    assert "seed" not in registered["arms"][0]["config"]["train"]
    assert registered["evaluation"] == {"guide": "runs/weak", "guidance_interval": [1.0, 2.0]}
    # Every key of what was read is told.
    assert registered.keys() == {f.name for f in dataclasses.fields(Study)}


def test_figures_are_those_of_the_metrics() -> None:
    of_images = {figure: name for name, metric in METRICS.items() for figure in metric.better}
    assert of_images | {"denoising_error": "denoising", "bits_per_dim": "bits_per_dim"} == FIGURES
    assert set(FIGURES.values()) == {*METRICS, *DENOISER_METRICS}


# ---------------------------------------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"sedes": [1]}, r"sedes is not an option; did you mean seeds\?"),
    "no question": ({"question": None}, r"question: is missing; a study has question, arms, seeds, metric"),
    "no arms": ({"arms": None}, r"arms: is missing"),
    "one arm": ({"arms": {"a": {}}}, r"arms: there are 1; a study compares two or more"),
    "arms in a list": ({"arms": [1, 2]}, r"arms: give names and what each overrides"),
    "an arm that is a word": ({"arms": arms(b="adagn")}, r"arms\.b: 'adagn' is no list of options and values"),
    "arms that do not differ": (
        {"arms": {"first": {}, "second": {"model.norm": "adagn"}}},
        r"arms: first and second do not differ in what they compute; change an option of one, or give it a seed_shift",
    ),
    **{
        f"arms that differ in {key} alone": (
            {"arms": {"first": {}, "second": {key: value}}}, r"arms: first and second do not differ in what they",
        )
        for key, value in {"train.log_every": 5, "train.accumulation": 2, "tracking.wandb": "off"}.items()
    },
    "drawing of an arm": (
        {"arms": arms(b={"sample.steps": 5})},
        r"arms\.b: sample\.steps has the arms evaluated unequally; set it in base, or steps in evaluation",
    ),
    "pretrained arm": ({"arms": arms(b={"model.pretrained": "x"})}, r"arms\.b: model\.pretrained .*unequal budgets"),
    "architecture of a pretrained model": (
        {"base": {"model": {"pretrained": "x"}}, "arms": {"a": {"model.dropout": 0.1}, "b": {"model.norm": "adain"}}},
        r"arms\.b: model\.norm has no effect .*architecture goes before the options; an arm may set model\.dropout",
    ),
    "A/A runs that are the same": (
        {"arms": {"a": {}, "b": {"seed_shift": 2}}},
        r"arms: a and b are the same but for seed_shift, and share the run of seed 2; shift by more than 2",
    ),
    "a shift that is no number": ({"arms": arms(b={"seed_shift": "x"})}, r"arms\.b: seed_shift: 'x' is no whole"),
    "a shift below the first seed": (
        {"arms": arms(b={"seed_shift": -1})}, r"seeds: 0 moved by seed_shift -1 of b is out of range",
    ),
    "misspelt shift": ({"arms": arms(b={"seed_shfit": 1})}, r"arms\.b: seed_shfit .*did you mean seed_shift\?"),
    "unknown option": ({"arms": arms(b={"model.nrom": 1})}, r"arms\.b: model\.nrom .*did you mean model\.norm\?"),
    "unknown section": ({"base": {"trian": {"steps": 1}}}, r"base: trian is not an option; did you mean train\?"),
    "unknown option of the base": ({"base": {"train": {"stesp": 1}}}, r"base: train\.stesp .*train\.steps\?"),
    "type": ({"arms": arms(b={"model.channels": "many"})}, r"arms\.b: model\.channels: .*int.*many"),
    "range": ({"arms": arms(b={"train.clip_norm": 0})}, r"arms\.b: train\.clip_norm: 0\.0 is out of range"),
    "section that is none": ({"base": {"train": 3}}, r"base: train: 3 is not a section"),
    "option twice": ({"arms": arms(b={"model": {"norm": "adagn"}, "model.norm": "adain"})}, r"model\.norm: is there"),
    "data of its own": (
        {"arms": arms(b={"data.split": "test"})}, r"arms\.b: data\.split gives the arms unequal data; set it in base",
    ),
    "source of its own": ({"arms": arms(b={"data.source": "x"})}, r"data\.source gives the arms unequal data; .*flip"),
    "steps of its own": ({"arms": arms(b={"train.steps": 9})}, r"arms\.b: train\.steps gives the arms unequal budgets"),
    "batch of its own": ({"arms": arms(b={"train.batch_size": 9})}, r"arms\.b: train\.batch_size .* unequal budgets"),
    "seed of an arm": ({"arms": arms(b={"train.seed": 9})}, r"arms\.b: train\.seed comes from seeds; remove it"),
    "seed of the base": ({"base": {"train": {"seed": 9}}}, r"base: train\.seed comes from seeds; remove it"),
    "seed twice": ({"seeds": [0, 1, 0]}, r"seeds: 0 is there twice"),
    "no seeds": ({"seeds": []}, r"seeds: there are none"),
    "seed that is no number": ({"seeds": [0.5]}, r"seeds: .*int.*0\.5"),
    "seed out of range": ({"seeds": [-1]}, r"seeds: -1 is out of range"),
    "number of seeds": ({"seeds": 3}, r"seeds: .*list.*3"),
    "no figure": ({"metric": "denoising_eror"}, r"metric: 'denoising_eror' .*did you mean denoising_error\?"),
    "figure that is not measured": (
        {"evaluation": {"metrics": "accuracy, memorisation"}},
        r"metric: denoising_error is not among what is measured; add denoising to evaluation\.metrics",
    ),
    "unknown metric": ({"evaluation": {"metrics": "acuracy"}}, r"evaluation\.metrics: 'acuracy' .*mean accuracy\?"),
    "unknown evaluation option": ({"evaluation": {"cuont": 5}}, r"evaluation: cuont .*did you mean count\?"),
    "model of the evaluation": ({"evaluation": {"model": "x"}}, r"evaluation: model is not an option"),
    "folder of the evaluation": ({"evaluation": {"out": "x"}}, r"evaluation: out is not an option"),
    "evaluation option's type": ({"evaluation": {"count": "many"}}, r"evaluation: count: .*int.*many"),
    "evaluation option's range": ({"evaluation": {"count": 1}}, r"evaluation: count: 1 is out of range"),
    "drawing option's range": ({"evaluation": {"eta": 2.0}}, r"evaluation: sample\.eta: 2\.0 is out of range"),
    "evaluation that is a word": ({"evaluation": "all"}, r"evaluation: give options of scripts/evaluate\.py"),
    "rate of an arm in a sweep": (
        {"learning_rates": [0.1, 0.2], "arms": arms(b={"train.learning_rate": 0.1})},
        r"arms\.b: train\.learning_rate is chosen among learning_rates; remove one of the two",
    ),
    "rate twice": ({"learning_rates": [0.1, 0.1]}, r"learning_rates: 0\.1 is there twice"),
    "rate out of range": ({"learning_rates": [0.1, 0.0]}, r"learning_rates: 0\.0 is out of range"),
    "infinite rate": ({"learning_rates": [0.1, float("inf")]}, r"learning_rates: inf is out of range"),
    "rates of one folder": ({"learning_rates": [0.1, 0.10000001]}, r"learning_rates: two are 0\.1 to six digits"),
    "seed of the sweep": (
        {"learning_rates": [0.1, 0.2], "seeds": [3, 1_000_003]}, r"seeds: 1000003 is that of the sweep of group",
    ),
    "shift into the sweep": (
        {"learning_rates": [0.1, 0.2], "arms": arms(b={"seed_shift": 1_000_000, "model.norm": "adain"})},
        r"seeds: 1000000 is that of the sweep of groupnorm too",
    ),
    "one rate": ({"learning_rates": [0.1]}, r"learning_rates: one leaves nothing to choose"),
    "name with a slash": ({"arms": arms(**{"a/b": {}})}, r"arms: 'a/b' cannot be the name of a folder"),
    "name that is hidden": ({"arms": arms(**{".b": {}})}, r"arms: '\.b' cannot be the name of a folder"),
    "name of the folder above": ({"arms": arms(**{"..": {}})}, r"arms: '\.\.' cannot be the name of a folder"),
    "name that ends in a dot": ({"arms": arms(**{"b.": {}})}, r"arms: 'b\.' cannot be the name of a folder"),
    "metrics in a list": (
        {"evaluation": {"metrics": ["denoising", "accuracy"]}},
        r'evaluation: metrics: .* is no text; type metrics: "denoising, accuracy"',
    ),
    "metrics that are a number": ({"evaluation": {"metrics": 3}}, r"evaluation: metrics: 3 is no text; give names"),
    "name of a file": ({"arms": arms(**{"report.html": {}})}, r"arms: 'report\.html' cannot be the name"),
    "name of two cases": ({"arms": arms(b={}, B={"model.norm": "adain"})}, r"arms: two are called 'B'"),
    "name that YAML takes for a truth": ({"arms": {"a": {}, True: {}}}, r"arms: True is read as bool .*in quotes"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_one_line(mistake: str, tmp_path: Path) -> None:
    changes, expected = REFUSED[mistake]
    with pytest.raises(ValueError, match=expected) as refused:
        read(tmp_path, GOOD, **changes)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(str(tmp_path / "study.yaml"))


@pytest.mark.parametrize(("text", "expected"), [
    ("- 1\n", r"the file holds no names and values"),
    ("", r"the file holds no names and values"),
    ("[" * 3000, r"the file holds lists or sections in one another too deeply"),
    ("arms: [1\n", r"line 2"),
    ("arms:\n  a: {}\n  a: {}\n", r"'a' is there twice, again in line 3"),
    ("base:\n  train: {steps: 1, steps: 2}\n", r"'steps' is there twice, again in line 2"),
], ids=["list", "nothing", "deep", "broken", "arm twice", "option twice"])
def test_files_that_are_no_studies(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected) as refused:
        read(tmp_path, text)
    assert "\n" not in str(refused.value)


def test_a_study_that_is_built_is_checked_alike() -> None:
    arm = Arm("a", {}, Config())
    with pytest.raises(ValueError, match="a and b do not differ"):
        Study("?", (arm, dataclasses.replace(arm, name="b")), (0, 1), "accuracy")
