"""Options that are derived from the data: what they are for digits, and properties at every size."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ddpm.cli.train import main
from ddpm.config.sections import OPTIONS, Config, ModelConfig, TrainConfig, flatten
from ddpm.config.values import derived_from
from ddpm.config.yaml_files import read_config
from ddpm.data import ImageData, load_data
from ddpm.training.build import build_unet
from ddpm.training.derived_options import (
    BATCHES,
    DATA_SIZES,
    MAX_STEPS,
    MIN_IMAGES,
    MIN_LEARNING_RATE,
    RULES,
    STEPS_FOR_FEW_IMAGES,
    coarsest_stage_warning,
    derive_config,
    describe_derivation,
    stage_sizes,
)
from ddpm.training.launch import check_batch

IMAGES = (2, 10, 300, 1797, 50_000, 1_200_000)
DERIVED = {name for name, kind in OPTIONS.items() if derived_from(kind)}


def images(resolution: int, count: int = 300, channels: int = 3) -> ImageData:
    """Return images that take no memory, with two classes."""
    pixels = torch.empty((count, channels, resolution, resolution), dtype=torch.uint8, device="meta")
    return ImageData(pixels, torch.empty(count, dtype=torch.int64, device="meta"), ("a", "b"))


def resolutions() -> Iterator[int]:
    """Yield the resolutions from 4 to 256 that are not refused."""
    for resolution in range(4, 257):
        if stage_sizes(resolution)[-1] <= 64:
            yield resolution


def value(config: Config, option: str):
    return flatten(config.to_dict())[option]


def test_there_is_a_rule_for_each_option_that_is_derived_and_null_is_its_default() -> None:
    assert RULES.keys() == DERIVED
    assert {name for name in DERIVED if value(Config(), name) is None} == DERIVED


def test_digits_have_the_options_of_the_first_command() -> None:
    """The values with which the results in the documents were measured, and those of configs/digits.yaml."""
    config = derive_config(Config(), load_data("digits"))
    model, train = config.model, config.train
    assert (model.channels, model.channel_mult, model.attention_resolutions) == (32, [1, 2], [4])
    assert (train.steps, train.batch_size, train.learning_rate) == (600, 64, 3e-3)
    from_file = read_config(Path(__file__).parents[2] / "configs" / "digits.yaml")
    assert derive_config(from_file, load_data("digits")) == config


@pytest.mark.parametrize("count", IMAGES)
def test_the_options_fit_together_at_every_size(count: int) -> None:
    for resolution in resolutions():
        channels = (1, 3, 4, 8)[resolution // 4 % 4]        # each with odd and with even resolutions
        data = images(resolution, count, channels)
        config = derive_config(Config(), data)
        model, train = config.model, config.train
        assert not [name for name in DERIVED if value(config, name) is None]
        assert derive_config(config, data) == config                # nothing is left to derive
        assert model.channels >= channels and 32 <= model.channels <= 128
        assert resolution % 2 ** (len(model.channel_mult) - 1) == 0
        assert all(size <= 16 for size in model.attention_resolutions)
        assert 2 <= train.batch_size <= min(count, 512) and train.batch_size.bit_count() == 1
        assert 600 <= train.steps <= 200_000 and train.warmup_steps < train.steps
        assert train.steps * train.batch_size >= 38_400 or train.steps == 4_800
        assert 1e-4 <= train.learning_rate <= 3e-3


@pytest.mark.parametrize("count", [300, 50_000, 1_200_000])
def test_a_network_can_be_built_at_every_size(count: int) -> None:
    """The number of images only decides the width, and the architecture only the shapes, so a few of each suffice."""
    for resolution in [4, 5, 6, 7, 8, 9, 12, 16, 24, 28, 32, 36, 50, 57, 61, 64, 96, 100, 128, 252, 256]:
        data = images(resolution, count, channels=4)
        with torch.device("meta"):
            unet = build_unet(derive_config(Config(), data), data)
        assert unet.config.resolution == resolution


def test_more_images_and_pixels_change_the_options_in_one_direction() -> None:
    powers = [4, 8, 16, 32, 64, 128, 256]
    for resolution in powers:
        found = [derive_config(Config(), images(resolution, count)) for count in IMAGES]
        for few, many in itertools.pairwise(found):
            assert few.model.channels <= many.model.channels
            assert few.train.batch_size <= many.train.batch_size
            assert few.train.steps * few.train.batch_size <= many.train.steps * many.train.batch_size
            assert few.train.learning_rate >= many.train.learning_rate
    for count in IMAGES:
        found = [derive_config(Config(), images(resolution, count)) for resolution in powers]
        for small, large in itertools.pairwise(found):
            assert len(small.model.channel_mult) <= len(large.model.channel_mult)
            assert small.train.learning_rate >= large.train.learning_rate
            assert small.train.batch_size >= large.train.batch_size and small.train.steps <= large.train.steps


GIVEN = {
    "model.channels": 96, "model.channel_mult": [1.0, 3.0], "model.attention_resolutions": [32],
    "train.steps": 7, "train.batch_size": 5, "train.learning_rate": 0.5,
}


@pytest.mark.parametrize("option", GIVEN)
def test_a_given_value_is_never_changed(option: str) -> None:
    data = images(64)
    given = Config().with_options({option: GIVEN[option]})
    config = derive_config(given, data)
    assert value(config, option) == GIVEN[option]
    assert option not in describe_derivation(given, config)
    assert all(name in describe_derivation(given, config) for name in DERIVED - {option})
    both = derive_config(Config().with_options(GIVEN), data)
    assert both == Config().with_options(GIVEN) and describe_derivation(both, both) == ""


@pytest.mark.parametrize("model", [
    {"head_channels": 48}, {"head_channels": 8}, {"channel_mult": [1, 1.5]}, {"channel_mult": [0.5, 1, 2, 2]},
    {"channels": 64}, {"channel_mult": [1]}, {"num_res_blocks": 3}, {"conditioning": "timestep"},
])
def test_derived_options_fit_the_given_ones(model: dict) -> None:
    data = images(64)
    config = derive_config(Config(model=ModelConfig(**model)), data)
    with torch.device("meta"):
        build_unet(config, data)


def test_a_thin_first_stage_does_not_widen_the_network() -> None:
    """Only stages with attention need a width that the heads divide."""
    config = derive_config(Config(model=ModelConfig(channel_mult=[0.5, 1, 2, 2])), images(64))
    assert config.model.channels == 32


def test_a_run_sees_as_many_images_whatever_its_batch() -> None:
    """At least those of the first command, in 600 to 4,800 steps."""
    for batch, steps in {1: 4_800, 8: 4_800, 16: 2_400, 24: 1_600, 64: 600, 512: 600}.items():
        for resolution in (8, 32, 128):
            config = derive_config(Config(train=TrainConfig(batch_size=batch)), images(resolution, 300))
            assert config.train.steps == steps, (batch, resolution)
    assert derive_config(Config(train=TrainConfig(batch_size=8)), images(32, 60_000)).train.steps == 20_000


def test_accumulation_does_not_change_what_is_trained() -> None:
    """It may change in a run, so no option follows from it; what to do about a batch that it does not divide works."""
    for parts, count, processes in itertools.product(range(1, 9), IMAGES, (1, 3)):
        given = Config(train=TrainConfig(gradient_accumulation_steps=parts))
        config = derive_config(given, images(32, count))
        assert config.train == dataclasses.replace(
            derive_config(Config(), images(32, count)).train, gradient_accumulation_steps=parts
        )
        try:
            check_batch(config.train, processes)
        except ValueError as problem:
            sizes, _, fitting = str(problem).partition("; use ")[2].partition(", or train.gradient_accumulation_steps ")
            for name, values in {"batch_size": sizes, "gradient_accumulation_steps": fitting}.items():
                for number in re.findall(r"\d+", values):
                    check_batch(dataclasses.replace(config.train, **{name: int(number)}), processes)


def test_the_document_states_the_rules() -> None:
    """The numbers of the rules, and the table of what they give for 1,000 images."""
    text = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text()
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    numbers = {option: re.findall(r"\d[\d,]*(?:e-?\d+)?", rows[f"`{option}`"]) for option in RULES}
    told = {option: {float(number.replace(",", "")) for number in found} for option, found in numbers.items()}
    widths = {size.channels for size in DATA_SIZES} | {size.max_images for size in DATA_SIZES[:-1]}
    assert widths <= told["model.channels"]
    batches = {number for pair in BATCHES for number in pair} - {math.inf}
    assert batches | {size.max_images for size in DATA_SIZES[:-1]} <= told["train.batch_size"]
    assert {MIN_IMAGES, *STEPS_FOR_FEW_IMAGES, MAX_STEPS} <= told["train.steps"]
    assert {MIN_LEARNING_RATE, 3e-3} <= told["train.learning_rate"]
    for resolution in (8, 16, 28, 32, 64, 128, 256):
        config = derive_config(Config(), images(resolution, 1_000))
        model, train = config.model, config.train
        sizes, attention, widths = (", ".join(f"{x:g}" for x in numbers) for numbers in (
            stage_sizes(resolution), model.attention_resolutions, [model.channels * m for m in model.channel_mult]
        ))
        rate = f"{train.learning_rate:.0e}".replace("e-0", "e-")
        found = [cell.strip() for cell in rows[str(resolution)].strip("|").split("|")]
        assert found == [str(resolution), sizes, attention, widths, f"{train.steps:,}", str(train.batch_size), rate]


def test_a_resolution_that_cannot_be_halved_is_refused_with_ones_that_can(refused) -> None:
    for resolution in (67, 131, 150, 251, 255):
        with refused("data.resolution", str(resolution)):
            derive_config(Config(), images(resolution))
    with refused("240 or 256"):
        derive_config(Config(), images(250))
    assert derive_config(Config(model=ModelConfig(channel_mult=[1])), images(251)).model.channel_mult == [1]


def test_the_remedies_of_odd_resolutions_work() -> None:
    """Resolutions that are refused or warned about name two others, about which there is nothing to say."""
    for resolution in range(4, 257):
        data = images(resolution)
        try:
            found = " ".join(coarsest_stage_warning(Config(), data))
            derive_config(Config(), data)
        except ValueError as problem:
            found = str(problem)
        named = [int(word) for word in found.replace(";", " ").split() if word.isdigit()]
        pair = [n for n in named if 0 < abs(n - resolution) < 16 and n > 3][-2:] if found else []
        assert bool(found) == (stage_sizes(resolution)[-1] > 16) == bool(pair)
        for other in pair:
            assert coarsest_stage_warning(Config(), images(other)) == []


def test_a_configuration_says_what_null_means(capsys) -> None:
    main(["--print-config", "--model.channels", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert "  channels: 64" in lines and "  channels: null" in lines            # of the model, and of the data
    for name in ("channel_mult", "attention_resolutions", "steps", "batch_size", "learning_rate"):
        assert next(line for line in lines if line.startswith(f"  {name}:")).startswith(f"  {name}: null    # derived")


def test_the_help_says_what_null_means() -> None:
    for section in (ModelConfig, TrainConfig):
        for field in dataclasses.fields(section):
            if derived_from(field.type):
                document = (section.__doc__ or "").split(f" {field.name}: ")[1].split(": ")[0]
                assert "null" in document.lower()
