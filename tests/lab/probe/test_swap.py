"""Class swap and sensitivity to the class: models that know the class in a few layers only, and closed forms."""

from base64 import b64decode
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.diffusion.guidance import unet_denoiser
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, Prediction
from ddpm.evaluation.estimates import Estimate
from ddpm.lab.probe.inputs import Images
from ddpm.lab.probe.sensitivity import measure_sensitivity, other_classes
from ddpm.lab.probe.swap import SwappedLayers, conditioned_on_pairs, list_swaps, swap_classes
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = NoiseSchedule(SCHEDULES["cosine"](40))


def build(**options: object) -> UNet:
    """Return a small U-Net of two stages in which no weight is zero."""
    shape = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 8}
    unet = UNet(**shape, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), head_channels=8, **options)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=draws))
    return unet.eval()


@torch.no_grad()
def answers(unet: UNet, swapped: SwappedLayers, pairs: Tensor) -> Tensor:
    x_t = torch.randn(len(pairs), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    denoiser = conditioned_on_pairs(unet_denoiser(unet, SCHEDULE, "eps"), unet, swapped)
    return denoiser(x_t, torch.tensor([5, 30]), pairs).eps


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


PAIRS = torch.tensor([[0, 1], [2, 0]])
ALL_A, ALL_B = PAIRS[:, [0, 0]], PAIRS[:, [1, 1]]


@pytest.mark.parametrize("conditioning", ["both", "class", "cross_attention"])
def test_from_nowhere_to_everywhere(conditioning: str) -> None:
    unet = build(conditioning=conditioning)
    nowhere, coarse, everywhere = (swapped for swapped in list_swaps(unet, True) if swapped.side is None)
    assert [nowhere.where, coarse.where, everywhere.where] == ["nowhere", "up to 4 px", "everywhere"]
    first, second = (answers(unet, nowhere, pairs) for pairs in (ALL_A, ALL_B))
    assert same(answers(unet, nowhere, PAIRS), first) and same(answers(unet, everywhere, PAIRS), second)
    mixed = answers(unet, coarse, PAIRS)
    assert not same(mixed, first) and not same(mixed, second)


@pytest.mark.parametrize("knows", ["encoder", "middle", "decoder"])
def test_the_only_side_that_knows_the_class_decides(knows: str) -> None:
    unet = build(condition_at=knows)
    nowhere, _, _, *sides = list_swaps(unet, True)
    first, second = (answers(unet, nowhere, pairs) for pairs in (ALL_A, ALL_B))
    assert not same(first, second)
    assert [swapped.side for swapped in sides] == ["encoder", "middle", "decoder"]
    for swapped in sides:
        assert same(answers(unet, swapped, PAIRS), second if swapped.side == knows else first)


def test_the_only_resolution_that_knows_the_class_decides() -> None:
    unet = build(condition_at=[4])
    nowhere, coarse, _ = list_swaps(unet, by_side=False)
    assert same(answers(unet, coarse, PAIRS), answers(unet, nowhere, ALL_B))
    unet = build(condition_at=[8])
    assert same(answers(unet, coarse, PAIRS), answers(unet, nowhere, ALL_A))


def test_classified_images_are_counted() -> None:
    """A classifier that always answers one class, which is A of one pair, B of another, and neither of the third."""
    pipeline = ClassConditionalPipeline.from_parts(build(), SCHEDULE, "eps", ("a", "b", "c"))
    seen = []

    def extract(images: Tensor) -> tuple[None, Tensor]:
        seen.append(images)
        return None, torch.eye(4)[[3] * len(images)]

    classifier = SimpleNamespace(extract=extract, accuracy=Estimate(0.9, 0.8, 1.0, 10))
    found = swap_classes(pipeline, classifier, {0: 0, 2: 3, 1: 1}, samples=2, by_side=False, seed=5, batch_size=4)
    assert found.samples == 6 and len(found.points) == 3
    for point in found.points:
        assert (point.first.value, point.second.value) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.shown == ["a to c", "c to b", "b to a"]
    assert Image.open(BytesIO(b64decode(found.picture))).height > 3 * 48
    # The same seeds and pairs at all points, and without a swap the images of the pipeline.
    options = {"num_inference_steps": 10, "sampler": "dpmpp", "timestep_spacing": "logsnr", "batch_size": 4}
    expected = pipeline(["a", "c", "b"] * 2, 5, output_type="uint8", **options).images
    assert torch.equal(seen[0], expected)
    assert all(not torch.equal(seen[0], other) for other in seen[1:])


# -------------------------------------------------------------------------------------------------------- sensitivity


def test_the_difference_of_two_constant_predictions() -> None:
    """This denoiser predicts the class id as noise, so two classes are |c - c'| apart."""

    def denoiser(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        return SCHEDULE.from_eps(torch.ones_like(x_t) * labels[:, None, None, None], x_t, t)

    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    labels, others = torch.tensor([0, 0, 1, 3]), torch.tensor([1, 3, 3, 2])
    real = Images(None, images, labels, torch.arange(4), held_out=None)
    found = measure_sensitivity(denoiser, SCHEDULE, real, others, [2, 30], seed=0, batch_size=3)
    for point, t in zip(found, (2, 30), strict=True):
        assert (point.timestep, point.difference.count) == (t, 4)
        assert point.sigma == pytest.approx(float(SCHEDULE.sigmas[t]))
        root = (15 / 4) ** 0.5                                     # mean of the squares of 1, 3, 2, 1
        assert point.difference.value == pytest.approx(root)
        half = 1.96 * torch.tensor([1.0, 9, 4, 1]).std() / 2 / (2 * root)
        assert point.difference.high - point.difference.value == pytest.approx(float(half), rel=1e-4)
        # Mean square of noise - c: 1 + c^2, up to the noise of 256 numbers.
        assert point.error == pytest.approx((1 + 10 / 4) ** 0.5, abs=0.3)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_another_class_always_differs(count: int) -> None:
    labels = torch.arange(50) % count
    others = other_classes(labels, count)
    assert not (others == labels).any() and others.min() == 0 and others.max() == count - 1
    assert len({*zip(labels.tolist(), others.tolist(), strict=True)}) >= min(50, count)
