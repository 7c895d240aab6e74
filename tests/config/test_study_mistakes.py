"""Mistakes in study files: one line with the file, the option and the remedy."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm.config.sections import Config
from ddpm.config.study import Arm, Study
from ddpm.config.study_files import read_study

GOOD: dict[str, Any] = {
    "question": "Does adaptive group normalization beat plain GroupNorm?",
    "base": {"data": {"split": "train[:1500]"}, "train": {"steps": 60}},
    "arms": {"groupnorm": {"model.norm": "groupnorm"}, "adagn": {"model.norm": "adagn"}},
    "seeds": [0, 1, 2],
    "metric": "denoising_error",
    "evaluation": {"held_out_split": "train[1500:]", "count": 1000, "sampler": "dpmpp"},
}


def arms(**named: Any) -> dict[str, Any]:
    """Arms of a study whose baseline is groupnorm."""
    return {"groupnorm": {"model.norm": "groupnorm"}, **named}


# Changes to GOOD (None removes a key), and texts that the message has to contain.
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"sedes": [1]}, ["sedes", "did you mean seeds?"]),
    "no question": ({"question": None}, ["question", "question, arms, seeds, metric"]),
    "no arms": ({"arms": None}, ["arms", "question, arms, seeds, metric"]),
    "one arm": ({"arms": {"a": {}}}, ["arms", "two or more"]),
    "arms in a list": ({"arms": [1, 2]}, ["arms", "adagn: {model.norm: adagn}"]),
    "an arm that is a word": ({"arms": arms(b="adagn")}, ["arms.b", "'adagn'", "{model.norm: adagn}"]),
    "arms that do not differ": (
        {"arms": {"first": {}, "second": {"model.norm": "adagn"}}}, ["arms", "first and second", "seed_shift"],
    ),
    **{
        f"arms that differ in {key} alone": (
            {"arms": {"first": {}, "second": {key: value}}}, ["arms", "first and second", "seed_shift"],
        )
        for key, value in (
            ("train.log_every", 5), ("train.gradient_accumulation_steps", 2), ("tracking.wandb", "off"),
        )
    },
    **{
        f"arms that differ in {key} without effect": (
            {"arms": {"first": base, "second": base | {key: value}}}, [f"{key} has no effect", other],
        )
        for key, value, base, other in (
            ("data.augmentations", ["flip"], {}, "data.augment;"),
            ("model.norm_groups", 8, {"model.norm": "adaln"}, "model.norm adaln"),
            ("model.condition_at", "middle", {"model.conditioning": "none"}, "model.conditioning none"),
        )
    },
    "sampling of an arm": (
        {"arms": arms(b={"sample.steps": 5})}, ["arms.b", "sample.steps", "set it in base", "steps in evaluation"],
    ),
    "pretrained arm": ({"arms": arms(b={"model.pretrained": "x"})}, ["arms.b", "model.pretrained", "set it in base"]),
    "architecture of a pretrained model": (
        {"base": {"model": {"pretrained": "x"}}, "arms": {"a": {"model.dropout": 0.1}, "b": {"model.norm": "adain"}}},
        ["arms.b", "model.norm", "may set model.dropout"],
    ),
    "runs that are the same": (
        {"arms": {"a": {}, "b": {"seed_shift": 2}}}, ["a and b", "seed 2", "seed_shift above 2"],
    ),
    "a shift that is not a number": (
        {"arms": arms(b={"seed_shift": "x"})}, ["arms.b", "seed_shift", "'x'", "whole number"],
    ),
    "a shift below the first seed": ({"arms": arms(b={"seed_shift": -1})}, ["seeds", "seed_shift -1 of b", "2^62 - 1"]),
    "misspelled shift": ({"arms": arms(b={"seed_shfit": 1})}, ["arms.b", "seed_shfit", "did you mean seed_shift?"]),
    "unknown option": ({"arms": arms(b={"model.nrom": 1})}, ["arms.b", "model.nrom", "did you mean model.norm?"]),
    "unknown choice": ({"arms": arms(b={"model.norm": "adagm"})}, ["arms.b", "model.norm", "did you mean adagn?"]),
    "unknown section": ({"base": {"trian": {"steps": 1}}}, ["base", "trian.steps", "did you mean train.steps?"]),
    "unknown option of the base": ({"base": {"train": {"stesp": 1}}}, ["base", "train.stesp", "mean train.steps?"]),
    "base that is not there": ({"base": "nowhere.yaml"}, ["base", "nowhere.yaml", "exist"]),
    "type": ({"arms": arms(b={"model.channels": "many"})}, ["arms.b", "model.channels", "'many'", "whole number"]),
    "range": ({"arms": arms(b={"train.max_grad_norm": 0})}, ["arms.b", "train.max_grad_norm", "above 0"]),
    "section that is a number": ({"base": {"train": 3}}, ["base", "train: '3'", "give options and values"]),
    "option twice": (
        {"arms": arms(b={"model": {"norm": "adagn"}, "model.norm": "adain"})}, ["arms.b", "model.norm", "remove one"],
    ),
    "data of its own": ({"arms": arms(b={"data.split": "test"})}, ["arms.b", "data.split", "set it in base"]),
    "source of its own": ({"arms": arms(b={"data.source": "x"})}, ["arms.b", "data.source", "data.horizontal_flip"]),
    "steps of its own": ({"arms": arms(b={"train.steps": 9})}, ["arms.b", "train.steps", "set it in base"]),
    "batch of its own": ({"arms": arms(b={"train.batch_size": 9})}, ["arms.b", "train.batch_size", "set it in base"]),
    "seed of an arm": ({"arms": arms(b={"train.seed": 9})}, ["arms.b", "train.seed", "remove it"]),
    "seed of the base": ({"base": {"train": {"seed": 9}}}, ["base", "train.seed", "remove it"]),
    "seed twice": ({"seeds": [0, 1, 0]}, ["seeds: 0", "remove one"]),
    "no seeds": ({"seeds": []}, ["seeds", "[0, 1, 2, 3, 4]"]),
    "seed that is a fraction": ({"seeds": [0.5]}, ["seeds", "0.5", "whole numbers"]),
    "seed out of range": ({"seeds": [-1]}, ["seeds: -1", "0 to 2^62 - 1"]),
    "number of seeds": ({"seeds": 3}, ["seeds: 3", "[0, 1, 2, 3, 4]"]),
    "unknown deciding metric": ({"metric": "denoising_eror"}, ["metric", "did you mean denoising_error?"]),
    "metric that is not measured": (
        {"evaluation": {"metrics": "accuracy, memorization"}},
        ["metric: denoising_error", "add denoising to evaluation.metrics"],
    ),
    "unknown metric": ({"evaluation": {"metrics": "acuracy"}}, ["evaluation.metrics", "did you mean accuracy?"]),
    "unknown evaluation option": ({"evaluation": {"cuont": 5}}, ["evaluation", "cuont", "did you mean count?"]),
    "model of the evaluation": ({"evaluation": {"model": "x"}}, ["evaluation: model is not an option"]),
    "folder of the evaluation": ({"evaluation": {"out": "x"}}, ["evaluation: out is not an option"]),
    "evaluation option's type": ({"evaluation": {"count": "many"}}, ["evaluation", "count", "'many'", "whole number"]),
    "evaluation option's range": ({"evaluation": {"count": 1}}, ["evaluation", "count", "2 or more"]),
    "evaluation option's choice": ({"evaluation": {"sampler": "dmpp"}}, ["evaluation", "sampler", "mean dpmpp?"]),
    "sampler option's range": ({"evaluation": {"eta": 2.0}}, ["evaluation", "eta", "0 to 1"]),
    "evaluation that is a word": ({"evaluation": "all"}, ["evaluation", "scripts/evaluate.py", "{count: 1000"]),
    "rate of an arm in a sweep": (
        {"learning_rates": [0.1, 0.2], "arms": arms(b={"train.learning_rate": 0.1})},
        ["arms.b", "train.learning_rate", "learning_rates", "remove one"],
    ),
    "rate twice": ({"learning_rates": [0.1, 0.1]}, ["learning_rates: 0.1", "remove one"]),
    "rate out of range": ({"learning_rates": [0.1, 0.0]}, ["learning_rates: 0.0", "above 0"]),
    "infinite rate": ({"learning_rates": [0.1, float("inf")]}, ["learning_rates: inf", "above 0"]),
    "rates of one folder": ({"learning_rates": [0.1, 0.10000001]}, ["learning_rates", "0.1", "remove one"]),
    "seed of the sweep": (
        {"learning_rates": [0.1, 0.2], "seeds": [3, 1_000_003]}, ["seeds: 1000003", "sweep of group", "other seeds"],
    ),
    "shift into the sweep": (
        {"learning_rates": [0.1, 0.2], "arms": arms(b={"seed_shift": 1_000_000, "model.norm": "adain"})},
        ["seeds: 1000000", "sweep of groupnorm", "smaller seed_shift"],
    ),
    "one rate": ({"learning_rates": [0.1]}, ["learning_rates", "two or more"]),
    "name with a slash": ({"arms": arms(**{"a/b": {}})}, ["arms: 'a/b'", "letters, digits"]),
    "name that is hidden": ({"arms": arms(**{".b": {}})}, ["arms: '.b'", "letters, digits"]),
    "name of the folder above": ({"arms": arms(**{"..": {}})}, ["arms: '..'", "letters, digits"]),
    "name that ends in a dot": ({"arms": arms(**{"b.": {}})}, ["arms: 'b.'", "letters, digits"]),
    "name of a file": ({"arms": arms(**{"report.html": {}})}, ["arms: 'report.html'", "letters, digits"]),
    "metrics in a list": (
        {"evaluation": {"metrics": ["denoising", "accuracy"]}},
        ["evaluation: metrics", 'type metrics: "denoising, accuracy"'],
    ),
    "metrics that are a number": ({"evaluation": {"metrics": 3}}, ["evaluation.metrics: '3'", "denoising"]),
    "names that differ in case": ({"arms": arms(b={}, B={"model.norm": "adain"})}, ["arms: b", "rename one"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_one_line(mistake: str, tmp_path: Path) -> None:
    changes, named = REFUSED[mistake]
    file = tmp_path / "study.yaml"
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError) as refused:
        read_study(file)
    message = str(refused.value)
    assert "\n" not in message and message.startswith(f"{file}: ")
    assert [text for text in named if text not in message] == []


@pytest.mark.parametrize(("text", "named"), [
    ("- 1\n", ["names and values"]),
    ("", ["names and values"]),
    ("[" * 3000, ["nested too deeply"]),
    ("arms: [1\n", ["line 1", "bracket"]),
    ("arms:\n  a: {}\n  a: {}\n", ["'a'", "line 3", "remove one"]),
    ("base:\n  train: {steps: 1, steps: 2}\n", ["'steps'", "line 2", "remove one"]),
], ids=["list", "nothing", "deep", "broken", "arm twice", "option twice"])
def test_files_that_hold_no_study(text: str, named: list[str], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as refused:
        read_study(file)
    message = str(refused.value)
    assert "\n" not in message and message.startswith(f"{file}: ")
    assert [text for text in named if text not in message] == []


def test_a_study_built_in_python_is_checked_too() -> None:
    arm = Arm("a", {}, Config())
    with pytest.raises(ValueError, match=r"arms: a and b .*seed_shift"):
        Study("?", (arm, dataclasses.replace(arm, name="b")), (0, 1), "accuracy")
