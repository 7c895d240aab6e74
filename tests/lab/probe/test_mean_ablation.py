"""Ablated modulation equals that of a model with constant projections; rises are paired by image and noise."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.guidance import unet_denoiser
from ddpm.diffusion.schedule import SCHEDULES, Denoiser, NoiseSchedule
from ddpm.evaluation.likelihood import denoising_errors
from ddpm.evaluation.modulation import modulated_layers, modulations
from ddpm.lab.probe.inputs import Images
from ddpm.lab.probe.mean_ablation import MeanAblator
from ddpm.lab.probe.steering import mean_inputs, steered
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose, normal

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = NoiseSchedule(SCHEDULES["cosine"](40))
TIMESTEPS, CLASSES = torch.tensor([1, 15, 33]), torch.tensor([0, 1, 2])
STEPS = [3, 15, 30]


def build(norm: str = "adagn", scale: float = 0.3) -> UNet:
    """Return a small U-Net with modulation, and with weights where training starts from zeros."""
    shape = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 8}
    unet = UNet(**shape, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), head_channels=8, norm=norm)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "conv2" in name or "conv_out" in name:
                parameter.normal_(0, 0.1, generator=draws)
            if "norm2.proj" in name:
                parameter.normal_(0, scale, generator=draws)
    return unet.eval()


def denoiser_of(unet: UNet) -> Denoiser:
    return unet_denoiser(unet, SCHEDULE, "eps")


def batch(t: list[int], labels: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    x_t = torch.randn(len(t), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x_t, torch.tensor(t), torch.tensor(labels)


def constant(unet: UNet, layers: list[str], part: str, means: dict[str, dict[str, Tensor]]) -> UNet:
    """Return the model whose projections have no weights for a part, and its mean (C,) as bias."""
    ablated = copy.deepcopy(unet)
    with torch.no_grad():
        for layer in modulated_layers(ablated):
            proj = layer.norm.proj
            weights, biases = (p.chunk(len(layer.norm.modulation)) for p in (proj.weight, proj.bias))
            for kind, weight, bias in zip(layer.norm.modulation, weights, biases, strict=True):
                if layer.name in layers and part in (kind, "both"):
                    weight.zero_()
                    bias.copy_(means[layer.name][kind])
    return ablated


CASES = [("adagn", part, over) for part in ("scale", "shift", "both") for over in ("class", "timestep", "all")]
CASES += [(norm, part, "all") for norm, kind in NORMS.items() if norm != "adagn" for part in kind.modulation]


@pytest.mark.parametrize(("norm", "part", "over"), CASES)
def test_ablated_modulation_is_constant(norm: str, part: str, over: str) -> None:
    unet = build(norm)
    # With one timestep or one class in the whole batch, a mean that depends on it is a constant.
    x_t, t, labels = batch([15, 15, 15], [0, 1, 2]) if over == "class" else batch([3, 15, 30], [1, 1, 1])
    grid = {"class": (t[:1], CLASSES), "timestep": (TIMESTEPS, labels[:1]), "all": (TIMESTEPS, CLASSES)}[over]
    means = {
        name: {kind: values.mean(dim=(0, 1)) for kind, values in parts.items()}
        for name, parts in modulations(unet, *grid).items()
    }
    names = [*means]
    for layers in (names, names[3:4]):
        inputs = mean_inputs(unet, over, TIMESTEPS, CLASSES)
        found = steered(denoiser_of(unet), unet, layers, part, inputs)(x_t, t, labels)
        expected = denoiser_of(constant(unet, layers, part, means))(x_t, t, labels)
        torch.testing.assert_close(found.eps, expected.eps, rtol=1e-4, atol=1e-5)
        assert (found.eps - denoiser_of(unet)(x_t, t, labels).eps).abs().max() > 1e-3


@pytest.mark.parametrize("over", ["class", "timestep"])
def test_each_image_has_its_own_mean(over: str) -> None:
    unet = build()
    ablated = steered(
        denoiser_of(unet), unet, [*modulations(unet, TIMESTEPS, CLASSES)], "both",
        mean_inputs(unet, over, TIMESTEPS, CLASSES),
    )
    x_t, t, labels = batch([3, 30, 3, 15], [0, 2, 1, 2])
    together = ablated(x_t, t, labels).eps
    alone = torch.cat([ablated(x_t[i : i + 1], t[i : i + 1], labels[i : i + 1]).eps for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_steering_leaves_the_model_as_it_was() -> None:
    unet = build()
    x_t, t, labels = batch([3, 30], [0, 2])
    before = denoiser_of(unet)(x_t, t, labels).eps
    inputs = mean_inputs(unet, "all", TIMESTEPS, CLASSES)
    steered(denoiser_of(unet), unet, ["mid.blocks.0.norm2"], "both", inputs)(x_t, t, labels)
    assert torch.equal(denoiser_of(unet)(x_t, t, labels).eps, before)

    def broken(x_t: Tensor, t: Tensor, labels: Tensor) -> None:
        unet(x_t, t, labels)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        steered(broken, unet, ["mid.blocks.0.norm2"], "both", inputs)(x_t, t, labels)
    assert torch.equal(denoiser_of(unet)(x_t, t, labels).eps, before)


def ablator(unet: UNet, count: int = 6) -> MeanAblator:
    draws = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=draws).to(torch.uint8)
    labels, indices = torch.arange(count) % 3, torch.arange(count) * 5 + 1
    pipeline = ClassConditionalPipeline.from_parts(unet, SCHEDULE, "eps", ("a", "b", "c"))
    real = Images(None, images, labels, indices, held_out=None)
    return MeanAblator(pipeline, real, STEPS, TIMESTEPS, CLASSES, seed=7, batch_size=4)


def test_rises_are_paired_differences_of_errors_of_eps() -> None:
    """Compare one sigma with errors of eps by their definition."""
    unet, layer = build(), "mid.blocks.0.norm2"
    measured = ablator(unet)
    found = measured.ablate(layer, "both", "all")
    ablated = steered(measured.denoiser, unet, [layer], "both", mean_inputs(unet, "all", TIMESTEPS, CLASSES))
    t = 15
    noise = normal(7, Purpose.EVALUATION_NOISE, (measured.images.indices << 32) + t, (1, 8, 8))
    alpha_bar = float(SCHEDULE.alphas_cumprod[t])
    x_t = alpha_bar**0.5 * (measured.images.pixels / 127.5 - 1) + (1 - alpha_bar) ** 0.5 * noise
    steps = torch.full((6,), t)
    with torch.no_grad():
        errors = [
            ((one(x_t, steps, measured.images.labels).eps - noise) ** 2).mean(dim=(1, 2, 3)).double().numpy()
            for one in (measured.denoiser, ablated)
        ]
    point, rise = found.rises[1], errors[1] - errors[0]
    assert (point.timestep, point.rise.count) == (t, 6)
    assert point.sigma == pytest.approx((1 / alpha_bar - 1) ** 0.5)
    assert point.error == pytest.approx(errors[0].mean(), rel=1e-4)
    assert point.rise.value == pytest.approx(rise.mean(), rel=1e-3)
    half = 1.96 * rise.std(ddof=1) / 6**0.5
    assert (point.rise.high - point.rise.low) / 2 == pytest.approx(half, rel=1e-3)
    assert point.relative.value == pytest.approx(point.rise.value / point.error)
    assert found.relative.value == pytest.approx(np.mean([one.rise.value / one.error for one in found.rises]))
    assert found.largest.relative.value == max(one.relative.value for one in found.rises)


def test_intervals_of_relative_rises_are_those_of_the_bootstrap() -> None:
    """Draw images again, numerators and denominators together."""
    measured = ablator(build(), count=40)
    found = measured.ablate(None, "both", "all")
    inputs = mean_inputs(measured.unet, "all", TIMESTEPS, CLASSES)
    names = [layer.name for layer in measured.layers]
    ablated = measured.errors(steered(measured.denoiser, measured.unet, names, "both", inputs)).numpy()
    before = measured.unchanged.numpy()
    indices = np.random.default_rng(0).integers(0, 40, (4000, 40))                                       # (R, N)
    ratios = ablated[indices].mean(axis=1) / before[indices].mean(axis=1) - 1                              # (R, S)
    for estimate, drawn in [
        *((rise.relative, ratios[:, i]) for i, rise in enumerate(found.rises)), (found.relative, ratios.mean(axis=1))
    ]:
        # The bootstrap divides by N, not N - 1; with 4000 repetitions, its deviation has a standard error of 1.1 %.
        half = 1.96 * drawn.std() * (40 / 39) ** 0.5
        assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.05)


def test_without_modulation_nothing_rises() -> None:
    measured = ablator(build(scale=0.0), count=2)
    for over in ("class", "timestep", "all"):
        found = measured.ablate(None, "both", over)
        assert found.relative.value == 0 and all(point.rise[:3] == (0, 0, 0) for point in found.rises)


def test_shared_noise_makes_the_interval_small() -> None:
    measured = ablator(build(scale=0.03), count=12)
    found = measured.ablate(None, "both", "class").rises[1].rise
    other = denoising_errors(
        measured.denoiser, SCHEDULE, *measured.images[1:4], STEPS, seed=8
    ) / SCHEDULE.sigmas[STEPS].square()
    unpaired = (other - measured.unchanged)[:, 1].std() / 12**0.5
    assert (found.high - found.low) / 3.92 < 0.3 * float(unpaired)


def test_the_plan_covers_all_parts_means_and_layers() -> None:
    measured = ablator(build(), count=2)
    layers, plan = [layer.name for layer in measured.layers], [*measured.plan()]
    overs = "class", "timestep", "all"
    assert plan[:9] == [(None, part, over) for part in ("scale", "shift", "both") for over in overs]
    assert plan[9:] == [(layer, "both", "all") for layer in layers]
    assert {part for _, part, _ in ablator(build("groupnorm"), count=2).plan()} == {"both"}
