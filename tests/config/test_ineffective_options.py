"""Options that have no effect together with others are named, and nothing else is."""

from typing import Any

import pytest

from ddpm.config.ineffective_options import ineffective_guidance, ineffective_options
from ddpm.config.sections import Config, SamplerOptions

TRAINED = {"train.steps": 600, "train.batch_size": 64, "train.learning_rate": 1e-3}

# Given options, and the words of each warning about them: the option first, then the other option or the remedy.
CASES: list[tuple[dict[str, Any], list[list[str]]]] = [
    ({}, []),
    ({"sample.guidance_interval": [0.3, 3]}, [["sample.guidance_interval", "sample.guidance_scale 1"]]),
    ({"sample.guidance_rescale": 0.5}, [["sample.guidance_rescale", "sample.guidance_scale 1"]]),
    ({"sample.guidance_rescale": 0.5, "sample.guidance_scale": 2}, []),
    ({"sample.guidance_scale": 2, "model.conditioning": "timestep"}, [["sample.guidance_scale", "timestep"]]),
    ({"sample.guidance_scale": 2, "model.conditioning": "none"}, [["sample.guidance_scale", "none"]]),
    ({"sample.guidance_scale": 2, "model.conditioning": "class"}, []),
    ({"evaluation.every": 10, "evaluation.guidance_rescale": 1}, [["evaluation.guidance_rescale", "scale 1"]]),
    ({"evaluation.count": 100}, [["evaluation.count", "evaluation.every"]]),
    ({"evaluation.count": 100, "evaluation.every": 10}, []),
    ({"model.norm_groups": 8, "model.norm": "adaln"}, [["model.norm_groups", "adaln"]]),
    ({"model.norm_groups": 8}, []),
    ({"model.condition_at": "middle", "model.conditioning": "none"}, [["model.condition_at", "conditioning none"]]),
    ({"data.augmentations": ["flip"]}, [["data.augmentations", "data.augment"]]),
    ({"data.augmentations": ["flip"], "data.augment": 0.1}, []),
    ({"data.workers": 4}, [["data.workers", "data.memory_gb"]]),
]


@pytest.mark.parametrize(("options", "expected"), CASES)
def test_options_without_effect_are_named(options: dict[str, Any], expected: list[list[str]]) -> None:
    found = ineffective_options(Config().with_options(TRAINED | options), in_memory=True)
    assert len(found) == len(expected)
    for line, words in zip(found, expected, strict=True):
        assert line.startswith(f"{words[0]}: ") and words[1] in line and "\n" not in line


def test_workers_have_an_effect_on_images_that_are_decoded_on_demand() -> None:
    assert ineffective_options(Config().with_options(TRAINED | {"data.workers": 4}), in_memory=False) == []


def test_options_of_guidance_are_named_as_on_the_command_line() -> None:
    [line] = ineffective_guidance(SamplerOptions(guidance_rescale=0.5))
    assert line.startswith("guidance_rescale: ") and "guidance_scale 1" in line
    assert ineffective_guidance(SamplerOptions(guidance_rescale=0.5, guidance_scale=2)) == []
