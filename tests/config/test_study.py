"""Study files: what is read from them, and the copies that a study keeps."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm.config.sections import Config
from ddpm.config.study import STUDY_METRICS, Study
from ddpm.config.study_files import describe_ineffective_overrides, read_study, study_documents, study_to_yaml
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
    """Read a study file with `content` and other values of some keys; None leaves a key out."""
    file = tmp_path / "study.yaml"
    if isinstance(content, dict):
        kept = {key: value for key, value in (content | changes).items() if value is not None}
        content = yaml.safe_dump(kept, sort_keys=False)
    file.write_text(content)
    return read_study(file)


def arms(**named: Any) -> dict[str, Any]:
    """Arms of a study whose baseline is groupnorm."""
    return {"groupnorm": {"model.norm": "groupnorm"}, **named}


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


def test_the_base_may_be_a_file_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {steps: 7}\n")
    assert read(tmp_path, GOOD, base="base.yaml").baseline.config.train.steps == 7
    assert read(tmp_path, GOOD, base=None).baseline.config.train == Config().train


@pytest.mark.parametrize("base", ["base.yaml", {"train": {"steps": 7}}, None], ids=["file", "sections", "none"])
def test_a_study_keeps_its_files_as_given_and_the_resolved_values(tmp_path: Path, base: Any) -> None:
    (tmp_path / "base.yaml").write_text("# small\ntrain: {steps: 7}\n")
    study = read(tmp_path, GOOD, base=base, arms=arms(again={"seed_shift": 100}), learning_rates=[1e-3, 3e-3])
    kept = study_documents(tmp_path / "study.yaml")
    assert kept["study.yaml"] == (tmp_path / "study.yaml").read_text()
    assert kept.get("base.yaml") == ("# small\ntrain: {steps: 7}\n" if base == "base.yaml" else None)
    (tmp_path / "elsewhere").mkdir()
    assert read(tmp_path / "elsewhere", study_to_yaml(study)) == study
    resolved = yaml.safe_load(study_to_yaml(study))["base"]
    assert resolved["model"] == Config().to_dict()["model"] and "seed" not in resolved["train"]


def test_options_of_the_command_line_replace_those_of_the_base(tmp_path: Path) -> None:
    read(tmp_path, GOOD, base={"train": {"steps": 7}})
    study = read_study(tmp_path / "study.yaml", {"data.source": "mine", "train.steps": "9"})
    assert {(arm.config.data.source, arm.config.train.steps) for arm in study.arms} == {("mine", 9)}
    with pytest.raises(ValueError, match=r"data\.sorce is not an option.*data\.source"):
        read_study(tmp_path / "study.yaml", {"data.sorce": "mine"})


def test_options_of_the_command_line_that_change_no_arm_are_named(tmp_path: Path) -> None:
    read(tmp_path, GOOD)

    def describe(overrides: dict[str, Any]) -> list[str]:
        return describe_ineffective_overrides(read_study(tmp_path / "study.yaml", overrides), overrides)

    [norm, count] = describe({"model.norm": "adagn", "evaluation.count": "5", "train.steps": "9"})
    assert norm.startswith("model.norm: ") and count.startswith("evaluation.count: ") and "count in eval" in count
    assert describe({"model.norm_groups": "8", "evaluation.count": "5", "evaluation.every": "10"}) == []


def test_anchors_and_arms_without_overrides(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in GOOD.items() if key != "arms"})
    text += "arms:\n  plain:\n  a: &a {model.norm: groupnorm}\n  b: {<<: *a, model.channels: 16}\n"
    study = read(tmp_path, text)
    assert [arm.overrides for arm in study.arms] == [
        {}, {"model.norm": "groupnorm"}, {"model.norm": "groupnorm", "model.channels": 16},
    ]


def test_arms_may_override_data_options_that_leave_the_images_the_same(tmp_path: Path) -> None:
    shuffled = {"data.shuffle_labels": True, "data.horizontal_flip": True}
    study = read(tmp_path, GOOD, arms={"true": {}, "shuffled": shuffled})
    assert study.arms[1].config.data.shuffle_labels and not study.baseline.config.data.shuffle_labels


def test_fewer_than_three_seeds_are_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, seeds=[5]).seeds == (5,)


def test_a_study_as_plain_values_is_resolved(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD, evaluation={"guide": "runs/weak", "guidance_interval": [1, 2]})
    registered = json.loads(json.dumps(study.to_dict()))
    assert registered == study.to_dict()
    assert registered["arms"][0]["config"]["data"]["split"] == "train[:1500]"
    assert "seed" not in registered["arms"][0]["config"]["train"]
    assert registered["evaluation"] == {"guide": "runs/weak", "guidance_interval": [1.0, 2.0]}
    assert registered.keys() == {f.name for f in dataclasses.fields(Study)} - {"base"}       # the arms have its options


def test_metrics_are_those_of_the_metrics() -> None:
    of_images = {metric: name for name, metric in METRICS.items() for metric in metric.better}
    assert of_images | {"denoising_error": "denoising", "bits_per_dim": "bits_per_dim"} == STUDY_METRICS
    assert set(STUDY_METRICS.values()) == {*METRICS, *DENOISER_METRICS}
