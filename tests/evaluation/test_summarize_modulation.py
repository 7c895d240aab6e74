"""The numbers of the modulation that training logs."""

import math

import pytest
import torch

from ddpm.evaluation.modulation import modulated_layers, modulations, summarize_modulation
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

T = 50
SOURCES = ("timestep", "class", "interaction")


def build(norm: str = "adagn", classes: int = 10) -> UNet:
    """Return a small U-Net in its initial state."""
    shape = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": classes, "channels": 8}
    return UNet(**shape, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), head_channels=8, norm=norm)


def filled(unet: UNet) -> UNet:
    """Give every layer a projection of a different size."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for i, layer in enumerate(modulated_layers(unet)):
            layer.norm.proj.weight.normal_(0, 0.1 * (i + 1), generator=draws)
            layer.norm.proj.bias.normal_(generator=draws)
    return unet


@pytest.mark.parametrize("norm", NORMS)
def test_only_the_parts_that_the_norm_has(norm: str) -> None:
    parts = NORMS[norm].modulation
    expected = {f"{part}_{name}" for part in parts for name in ("rms", "rms_least", "rms_most", *SOURCES)}
    expected |= {"flips", "dead"} if "scale" in parts else set()
    found = summarize_modulation(build(norm), T)
    assert {*found} == {f"modulation/{name}" for name in expected}
    assert not any(found.values())          # projections start at zero


def test_numbers_layer_by_layer() -> None:
    """Compare with numpy's variances, at all timesteps and classes of a small model."""
    unet = filled(build())
    found = summarize_modulation(unet, num_timesteps=4)
    values = modulations(unet, torch.arange(4), torch.arange(10))
    for part in ("scale", "shift"):
        layers = [v[part].double().numpy() for v in values.values()]
        rms = [float((v**2).mean() ** 0.5) for v in layers]
        total = [v.var(axis=(0, 1)).sum() for v in layers]
        fractions = {
            "timestep": [v.mean(axis=1).var(axis=0).sum() / all_ for v, all_ in zip(layers, total, strict=True)],
            "class": [v.mean(axis=0).var(axis=0).sum() / all_ for v, all_ in zip(layers, total, strict=True)],
        }
        channels = sum(v.shape[2] for v in layers)
        pooled = (sum(r**2 * v.shape[2] for r, v in zip(rms, layers, strict=True)) / channels) ** 0.5
        # float32 sums of some thousand numbers
        assert found[f"modulation/{part}_rms"] == pytest.approx(pooled, rel=1e-4)
        assert found[f"modulation/{part}_rms_least"] == pytest.approx(min(rms), rel=1e-4)
        assert found[f"modulation/{part}_rms_most"] == pytest.approx(max(rms), rel=1e-4)
        for name, of_layer in fractions.items():
            assert found[f"modulation/{part}_{name}"] == pytest.approx(sum(of_layer) / len(of_layer), rel=1e-4)
        assert sum(found[f"modulation/{part}_{name}"] for name in SOURCES) == pytest.approx(1, abs=1e-5)
    gain = torch.cat([1 + v["scale"] for v in values.values()], dim=2)
    assert found["modulation/flips"] == pytest.approx(float((gain < 0).double().mean()), abs=1e-6)
    assert 0.1 < found["modulation/flips"] < 0.9


@pytest.mark.parametrize(("scale", "flips", "dead"), [(0, 0, 0), (-0.99, 0, 1), (-1.01, 1, 1), (-3, 1, 0)])
def test_failures_show(scale: float, flips: float, dead: float) -> None:
    unet = build()
    with torch.no_grad():
        for layer in modulated_layers(unet):
            layer.norm.proj.bias[: layer.norm.norm.num_channels] = scale
    found = summarize_modulation(unet, T)
    assert (found["modulation/flips"], found["modulation/dead"]) == (flips, dead)
    assert found["modulation/scale_rms_least"] == pytest.approx(abs(scale))
    assert found["modulation/shift_rms_most"] == 0


def test_one_layer_that_explodes_shows() -> None:
    unet = build()
    with torch.no_grad():
        modulated_layers(unet)[3].norm.proj.bias.fill_(100)
    found = summarize_modulation(unet, T)
    assert (found["modulation/scale_rms_least"], found["modulation/scale_rms_most"]) == (0, 100)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_none(value: float) -> None:
    """One such channel in one layer is enough. The weakest layer is still known, unless the value is nan."""
    unet = filled(build())
    with torch.no_grad():
        modulated_layers(unet)[0].norm.proj.bias[:1] = value
    found = summarize_modulation(unet, T)
    unknown = {f"scale_{name}" for name in ("rms", "rms_most", *SOURCES)} | {"flips", "dead"}
    unknown |= {"scale_rms_least"} if math.isnan(value) else set()
    assert {name for name, number in found.items() if number is None} == {f"modulation/{name}" for name in unknown}


@pytest.mark.parametrize(("classes", "timesteps"), [(0, 1000), (1, 2), (2, 3), (1000, 1)])
def test_any_number_of_classes_and_timesteps(classes: int, timesteps: int) -> None:
    found = summarize_modulation(filled(build(classes=classes)), timesteps)
    assert all(isinstance(value, float) for value in found.values())
    if classes < 2:
        assert found["modulation/scale_class"] == pytest.approx(0, abs=1e-6)


def test_training_does_not_notice() -> None:
    unet = filled(build()).train()
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    state = torch.get_rng_state()
    first = summarize_modulation(unet, T)
    assert summarize_modulation(unet, T) == first
    assert torch.equal(torch.get_rng_state(), state) and unet.training
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in unet.parameters())
