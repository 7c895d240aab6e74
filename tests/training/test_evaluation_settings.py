"""Settings of the evaluation while training, which are checked before a run begins."""

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from ddpm.config.sections import (
    Config,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
)
from ddpm.evaluation.extractors import EXTRACTORS
from ddpm.training.build import build_data, build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.dry_run import estimate_cost
from ddpm.training.timeline import Timeline
from ddpm.training.train import train
from ddpm.training.validation import check_config

CONFIG = Config(
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(
        steps=40, batch_size=8, log_every=8, checkpoint_every=20, keep_checkpoints=9, sample_every=0, warmup_steps=2
    ),
    sample=SampleConfig(steps=2, per_class=1),
    evaluation=EvaluationConfig(every=20, count=230, steps=3),
    tracking=TrackingConfig(wandb="off"),
)

REFUSED = {
    "metric": ({"metric": "frechet"}, ("evaluation.metric: 'frechet'", "mean frechet_distance")),
    "no metric": ({"metric": "memorization"}, ("evaluation.metric: 'memorization'", "frechet_distance")),
    "sampler": ({"sampler": "unipcc"}, ("evaluation.sampler: 'unipcc'", "mean unipc")),
    "timestep_spacing": ({"timestep_spacing": "leeding"}, ("evaluation.timestep_spacing: 'leeding'", "mean leading")),
    "steps": ({"steps": 1001}, ("evaluation.steps: 1001", "1 to 1000")),
    "extractor": ({"extractor": "inceptoin"}, ("evaluation.extractor: 'inceptoin'", "mean inception")),
    "no folder": ({"extractor": "runs/no/classifier"}, ("evaluation.extractor: 'runs/no/classifier'", *EXTRACTORS)),
    "no model": ({"extractor": "dinov2:"}, ("evaluation.extractor: 'dinov2:'", "dinov2:MODEL")),
    "no class": ({"extractor": "mine:"}, ("evaluation.extractor: 'mine:'", "package.module:Name")),
    "no module": ({"extractor": ":Mine"}, ("evaluation.extractor: ':Mine'", "package.module:Name")),
    "no name": ({"extractor": "a b:c"}, ("evaluation.extractor: 'a b:c'", "package.module:Name")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_names_that_are_not_known(case: str, refused) -> None:
    change, expected = REFUSED[case]
    with refused(*expected):
        check_config(replace(CONFIG, evaluation=replace(CONFIG.evaluation, **change)))


def test_without_evaluation_its_extractor_is_not_checked() -> None:
    check_config(replace(CONFIG, evaluation=replace(CONFIG.evaluation, extractor="inceptoin", every=0)))


def test_extractors_that_may_be_there(tmp_path: Path) -> None:
    """Whether they are is seen when they are built."""
    for name in (*EXTRACTORS, "dinov2:some/model-1", "dinov2:/a folder", "a.b:C", "mine:make_it", str(tmp_path)):
        check_config(replace(CONFIG, evaluation=replace(CONFIG.evaluation, extractor=name)))


def test_a_dry_run_refuses_an_extractor_that_is_not_known(tmp_path: Path, refused) -> None:
    unknown = replace(CONFIG, evaluation=replace(CONFIG.evaluation, extractor="classifer"))
    with refused("evaluation.extractor: 'classifer'", "mean classifier"):
        train(unknown, tmp_path / "run", dry_run=True)


def test_guidance_needs_a_null_class(refused) -> None:
    guided = replace(CONFIG, evaluation=replace(CONFIG.evaluation, guidance_scale=2.0))
    check_config(guided)
    with refused("evaluation.guidance_scale", "1"):
        check_config(replace(guided, diffusion=DiffusionConfig(class_dropout_prob=0.0)))


def test_too_few_images_are_refused_before_anything_is_written(tmp_path: Path, refused) -> None:
    few = replace(CONFIG, evaluation=replace(CONFIG.evaluation, count=20))
    with refused("evaluation.metric", "20"):
        train(few, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_tells_the_cost() -> None:
    data = build_data(CONFIG)
    config = derive_config(CONFIG, data)
    parts = (data, build_unet(config, data), build_schedule(config), Accelerator(cpu=True), Timeline.of(config.train))
    lines = estimate_cost(replace(config, evaluation=replace(config.evaluation, every=16)), *parts).splitlines()
    assert lines[-1].startswith("evaluation   3, each of 230 images in 3 steps, about ")
    assert "evaluation  " not in estimate_cost(replace(config, evaluation=EvaluationConfig()), *parts)
