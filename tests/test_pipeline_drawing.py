"""Images drawn by a pipeline: labels in every form, guidance, output types, inversion, wrong arguments."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.diffusion.sampling import BetweenSeeds
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

NAMES = ["cat", "dog", "horse"]
SMALL = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 8, "channel_mult": (1, 2)}
SMALL |= {"num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 8}
SCHEDULE = NoiseSchedule(SCHEDULES["cosine"](100))


def small_unet(seed: int = 0, **changes: object) -> UNet:
    unet = UNet(**{**SMALL, **changes}).eval()
    draws = torch.Generator().manual_seed(seed)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5)
    return unet


def quiet(pipeline: ClassConditionalPipeline) -> ClassConditionalPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def small() -> ClassConditionalPipeline:
    return quiet(ClassConditionalPipeline.from_parts(small_unet(), SCHEDULE, "v", NAMES))


def images(pipeline: ClassConditionalPipeline, labels: object = ("cat", 2), **options: object) -> torch.Tensor:
    options = {"num_inference_steps": 5, "guidance_scale": 1.5, "batch_size": 2, "output_type": "uint8", **options}
    return pipeline(labels, **options).images


def test_labels_in_every_form(small: ClassConditionalPipeline) -> None:
    by_id = images(small, [0, 2, 3 - 1])
    assert torch.equal(images(small, ["cat", "horse", "2"]), by_id)
    assert torch.equal(images(small, "cat"), images(small, 0)) and len(images(small, {"cat": 1.0})) == 1
    # A blend of one class is that class, and so is one class at every depth; up to the order of a matrix product.
    for same in ([{"cat": 1}, {2: 1.0}, {"horse": 1, "dog": 0}], [["cat"] * 2, "horse", [2, "2"]]):
        assert int((images(small, same).int() - by_id.int()).abs().max()) <= 1
    for same in (np.array([0, 2, 2]), torch.tensor([0, 2, 2]), [np.int64(0), 2, "2"]):
        assert torch.equal(images(small, same, seeds=np.int64(0)), by_id)
    assert torch.equal(images(small, torch.tensor(2)), images(small, "horse"))
    assert torch.equal(images(small, torch.tensor([[0, 1], [2, 2]])), images(small, [["cat", "dog"], ["horse"] * 2]))
    between = BetweenSeeds(3, 9, 0.5)
    assert torch.equal(images(small, "cat", seeds=between), images(small, ["cat"], seeds=[between]))
    null = images(small, [None], guidance_scale=1.0)
    assert not torch.equal(null, images(small, ["cat"], guidance_scale=1.0))


def test_depths_meet_in_the_middle(small: ClassConditionalPipeline) -> None:
    """Exchanging the classes of the levels changes the image, and each level has a say."""
    of = {tuple(pair): images(small, [list(pair)]) for pair in (("cat", "cat"), ("dog", "cat"), ("cat", "dog"))}
    assert len({tuple(image.flatten().tolist()) for image in of.values()}) == 3


@pytest.mark.parametrize(("options", "expected"), [
    ({"labels": ["kat"]}, ("classes: 'kat'", "mean cat")),
    ({"labels": []}, ("classes", "cat, dog, horse")),
    ({"labels": [3]}, ("classes", "3", "0 to 2")),
    ({"labels": [["cat", "dog", "dog"]]}, ("classes", "3", "2")),
    ({"seeds": [1, 1.5]}, ("seeds", "[1, 1.5]", "whole numbers")),
    ({"guidance_interval": [3, 0.3]}, ("guidance_interval: [3, 0.3]", "[0.3, 3]")),
    ({"guidance_interval": [0.3]}, ("guidance_interval: [0.3]", "[0.3, 3]")),
    ({"guidance_rescale": 5}, ("guidance_rescale: 5", "0 to 1")),
    ({"eta": 2.0}, ("eta: 2.0", "0 to 1")),
    ({"batch_size": -1}, ("batch_size: -1", "1 or more")),
    ({"batch_size": 0}, ("batch_size: 0", "1 or more")),
    ({"num_inference_steps": 5.0}, ("steps: 5.0", "whole number")),
    ({"labels": [{"cat": None}]}, ("classes", "numbers")),
    ({"labels": [{"cat": "x"}]}, ("classes", "numbers")),
    ({"seeds": [1, -2]}, ("seeds: -2", "0 to 2^63 - 1")),
    ({"seeds": [1, 2, 3]}, ("seeds: 3", "2 labels")),
    ({"num_inference_steps": 101}, ("steps: 101", "1 to 100")),
    ({"sampler": "dpm"}, ("sampler: 'dpm'", "dpmpp")),
    ({"output_type": "pill"}, ("output_type: 'pill'", "pil, np, pt, uint8")),
    ({"noise": torch.zeros(2, 1, 4, 4)}, ("noise", "(2, 1, 4, 4)", "(2, 1, 8, 8)")),
])
def test_wrong_arguments(
    options: dict, expected: tuple[str, ...], small: ClassConditionalPipeline, refused
) -> None:
    with refused(*expected):
        images(small, **options)


def test_guidance_without_a_null_class(refused) -> None:
    made = ClassConditionalPipeline.from_parts(small_unet(null_class=False), SCHEDULE, "v", NAMES)
    with refused("guidance_scale", "null class", "diffusion.class_dropout_prob", "--guide"):
        images(made)
    with refused("classes", "null class"):
        images(made, [None], guidance_scale=1.0)


@pytest.mark.parametrize(("changes", "schedule", "expected"), [
    ({"resolution": 16, "attention_resolutions": (8,)}, SCHEDULE, ("resolution", "16", "8")),
    ({"in_channels": 3, "out_channels": 3}, SCHEDULE, ("in_channels", "3", "1")),
    ({"num_classes": 5}, SCHEDULE, ("num_classes", "5", "3")),
    ({"names": ["dog", "cat", "horse"]}, SCHEDULE, ("classes",)),
    ({}, NoiseSchedule(SCHEDULES["linear"](100)), ("noise schedule",)),
    ({}, NoiseSchedule(SCHEDULES["cosine"](50)), ("noise schedule",)),
])
def test_a_guide_that_does_not_fit(
    changes: dict, schedule: NoiseSchedule, expected: tuple[str, ...], small: ClassConditionalPipeline, refused
) -> None:
    changes = dict(changes)
    names = changes.pop("names", NAMES if "num_classes" not in changes else [str(i) for i in range(5)])
    guide = ClassConditionalPipeline.from_parts(small_unet(**changes), schedule, "v", names)
    with refused("guide: ", *expected):
        images(small, guide=guide)


def test_a_smaller_guide_and_one_of_another_prediction(small: ClassConditionalPipeline, refused) -> None:
    guide = ClassConditionalPipeline.from_parts(small_unet(1, channels=4, head_channels=4), SCHEDULE, "x_0", NAMES)
    assert not torch.equal(images(small, guide=guide, guidance_scale=2.0), images(small, guidance_scale=2.0))
    with refused("guide: ", "guidance_scale 1"):
        images(small, guide=guide, guidance_scale=1.0)


def test_labels_that_a_guide_cannot_take(small: ClassConditionalPipeline, refused) -> None:
    other = ClassConditionalPipeline.from_parts(small_unet(null_class=False), SCHEDULE, "v", NAMES)
    flat = small_unet(channel_mult=(1,), attention_resolutions=())
    shallow = ClassConditionalPipeline.from_parts(flat, SCHEDULE, "v", NAMES)
    assert len(images(small, guide=other)) == len(images(small, guide=shallow)) == 2
    for labels, guide, expected in (
        ([None, "cat"], other, "null class"),
        ([{"cat": 1.0}], other, "null class"),
        ([["cat", "dog"]], shallow, "resolutions"),
    ):
        with refused("guide: ", expected):
            images(small, labels, guide=guide)


def test_nothing_to_guide_by(refused) -> None:
    made = ClassConditionalPipeline.from_parts(small_unet(num_classes=0), SCHEDULE, "v", [])
    with refused("guidance_scale", "no classes"):
        images(made, [None])
    assert images(quiet(made), [None], guidance_scale=1.0).shape == (1, 1, 8, 8)


def test_names_by_number() -> None:
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=50)
    made = ClassConditionalPipeline(small_unet(), scheduler, {0: "a", 1: "b", 2: "c"})
    assert made.class_names == ["a", "b", "c"]


def test_output_types(small: ClassConditionalPipeline) -> None:
    gray = images(small)
    pil = images(small, output_type="pil")
    assert [type(image) for image in pil] == [Image.Image] * 2 and pil[0].mode == "L"
    assert np.array_equal(np.stack([np.asarray(image) for image in pil]), gray[:, 0].numpy())
    assert torch.equal(images(small, output_type="pt"), gray.float() / 255)
    assert images(small, output_type="np").shape == (2, 8, 8, 1)
    assert torch.equal(small([0, 2], num_inference_steps=5, guidance_scale=1.5, batch_size=2, output_type="uint8",
                             return_dict=False)[0], gray)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_output_types_of_any_channels(channels: int, tmp_path: Path, refused) -> None:
    unet = small_unet(in_channels=channels, out_channels=channels)
    ClassConditionalPipeline.from_parts(unet, SCHEDULE, "v", NAMES).save_pretrained(tmp_path)
    made = quiet(ClassConditionalPipeline.from_pretrained(tmp_path))
    drawn = images(made)
    assert drawn.shape == (2, channels, 8, 8)
    assert torch.equal(images(made, output_type="pt"), drawn.float() / 255)
    assert np.array_equal(images(made, output_type="np"), drawn.permute(0, 2, 3, 1).numpy().astype("float32") / 255)
    if channels > 4:
        with refused("output_type", "np, pt, uint8"):
            made(["cat", 2])
        return
    pil = images(made, output_type="pil")
    assert {image.mode for image in pil} == {{1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]}
    for image, values in zip(pil, drawn, strict=True):
        assert np.array_equal(np.asarray(image).reshape(8, 8, channels), values.permute(1, 2, 0))


def test_inversion_and_back(small: ClassConditionalPipeline, refused) -> None:
    drawn = images(small, guidance_scale=1.0, clip=False, num_inference_steps=50)
    noise = small.invert(drawn, ["cat", 2], 50, iterations=8)
    again = images(small, noise=noise, clip=False, guidance_scale=1.0, num_inference_steps=50)
    inside = (drawn > 0) & (drawn < 255)            # what was cut off at black and white is lost
    assert inside.any() and int((again.int() - drawn.int())[inside].abs().max()) <= 3
    with refused("images: torch.float32", "torch.uint8 (2, 1, 8, 8)"):
        small.invert(drawn.float(), ["cat", 2])
