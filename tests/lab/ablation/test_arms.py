import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm.config.sections import Config, DiffusionConfig, ModelConfig, SampleConfig
from ddpm.config.study import Arm, Study
from ddpm.config.study_files import read_study, study_to_yaml
from ddpm.data import ImageData
from ddpm.lab.ablation.arms import check_arms, check_batches, check_groups, measure_arms, resolve_study
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet
from ddpm.training.build import build_data
from ddpm.training.derived_options import derive_config

SMALL = ModelConfig(channels=8, channel_mult=[1], attention_resolutions=[], head_channels=8)


def study_of(**norms: str) -> Study:
    arms = [Arm(n, {"model.norm": v}, Config(model=dataclasses.replace(SMALL, norm=v))) for n, v in norms.items()]
    return Study("?", tuple(arms), (0, 1, 2), "accuracy")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return build_data(Config())


def test_sizes_are_those_of_the_models(digits: ImageData) -> None:
    sizes = measure_arms(study_of(first="adagn", second="groupnorm"), digits)
    assert list(sizes) == ["first", "second"]
    assert sizes["first"].parameters > sizes["second"].parameters > 1000
    assert sizes["first"].multiply_adds > sizes["second"].multiply_adds > 1000


def test_an_arm_that_cannot_be_built_is_named(digits: ImageData) -> None:
    study = study_of(first="adagn", second="groupnorm")
    broken = dataclasses.replace(SMALL, channel_mult=[1] * 8)       # halves 8 pixels seven times
    arms = (study.arms[0], Arm("deep", {"model.channel_mult": [1] * 8}, Config(model=broken)))
    with pytest.raises(ValueError, match=r"^arms\.deep: "):
        measure_arms(dataclasses.replace(study, arms=arms), digits)


def test_options_that_do_not_fit_are_refused_with_the_arm() -> None:
    study = study_of(first="adagn", second="groupnorm")
    unfit = dataclasses.replace(study.arms[1].config, sample=SampleConfig(steps=1001))
    arms = (study.arms[0], dataclasses.replace(study.arms[1], config=unfit))
    with pytest.raises(ValueError, match=r"^arms\.second: sample\.steps: 1001"):
        check_arms(dataclasses.replace(study, arms=arms))


def test_all_arms_share_the_budget_that_is_derived_from_the_base(digits: ImageData) -> None:
    """A rule may give a wider arm another learning rate and batch, but a study compares equal budgets."""
    overrides: dict[str, dict[str, Any]] = {
        "plain": {}, "wide": {"model.channels": 128}, "shallow": {"model.channel_mult": [1]},
        "slow": {"train.learning_rate": 1e-5},
    }
    arms = tuple(Arm(name, own, Config().with_options(own)) for name, own in overrides.items())
    study = resolve_study(Study("?", arms, (0, 1, 2), "accuracy"), digits)
    plain, wide, shallow, slow = (arm.config for arm in study.arms)
    assert plain == study.base == derive_config(Config(), digits)
    assert derive_config(Config().with_options(overrides["wide"]), digits).train != plain.train
    assert wide.train == shallow.train == plain.train and wide.model.channels == 128
    assert shallow.model.attention_resolutions == [] and plain.model.attention_resolutions == [4]
    assert slow.train == dataclasses.replace(plain.train, learning_rate=1e-5)
    assert resolve_study(study, digits) == study
    assert "null" not in yaml.safe_dump([arm.config.to_dict()["train"] for arm in study.arms])


def test_a_batch_that_does_not_divide_is_refused_before_the_first_run(digits: ImageData, refused) -> None:
    parts = {"train.gradient_accumulation_steps": 3}
    both = ({}, {"model.norm": "groupnorm"})
    arms = tuple(Arm(f"arm{i}", own, Config().with_options(parts | own)) for i, own in enumerate(both))
    study = resolve_study(Study("?", arms, (0, 1, 2), "accuracy", base=Config().with_options(parts)), digits)
    with refused("train.batch_size: 64", "63 or 66"):
        check_batches(study, 1)
    check_batches(resolve_study(study_of(first="adagn", second="groupnorm"), digits), 2)


def test_the_file_of_a_resolved_study_stands_for_the_same_study(digits: ImageData, tmp_path: Path) -> None:
    own = {"model.channel_mult": [1]}
    arms = (Arm("deep", {}, Config()), Arm("shallow", own, Config().with_options(own)))
    study = resolve_study(Study("?", arms, (0, 1, 2), "accuracy"), digits)
    (tmp_path / "resolved.yaml").write_text(study_to_yaml(study))
    again = resolve_study(read_study(tmp_path / "resolved.yaml"), digits)
    assert again.base == study.base and [a.config for a in again.arms] == [a.config for a in study.arms]


@pytest.mark.parametrize("change", [{"schedule": "linear"}, {"num_timesteps": 500}, {"zero_terminal_snr": True}])
def test_denoising_errors_at_other_sigmas_decide_nothing(change: dict[str, Any]) -> None:
    (key, value), = change.items()
    arms = (Arm("a", {}, Config()), Arm("b", {f"diffusion.{key}": value}, Config(diffusion=DiffusionConfig(**change))))
    with pytest.raises(ValueError, match=rf"^metric: .*arms\.b.*diffusion\.{key}.*bits_per_dim"):
        check_arms(Study("?", arms, (0,), "denoising_error"))
    for metric in ("bits_per_dim", "accuracy"):
        check_arms(Study("?", arms, (0,), metric))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [2, 8])
def test_small_groups_are_refused_where_they_decide(norm: str, channels: int) -> None:
    unet = UNet(
        resolution=8, in_channels=1, out_channels=1, num_classes=3, channels=channels, channel_mult=(1,),
        attention_resolutions=(), head_channels=2, norm=norm,
    )
    if channels < 4 and NORMS[norm].shift_before_norm:
        with pytest.raises(ValueError, match=r"^arms\.mine: .*model\.channels.*model\.norm_groups"):
            check_groups(unet, "mine")
    else:
        check_groups(unet, "mine")
