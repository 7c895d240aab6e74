"""Scale and shift of each layer: what a forward pass computes, and a two-way analysis of variance by least squares."""

import pytest
import torch
from torch import Tensor

from ddpm.evaluation.modulation import effects, modulated_layers, modulations, projection_inputs
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

TIMESTEPS, LABELS = torch.tensor([0, 7, 900]), torch.tensor([2, 0])
CONDITION_AT = ["all", "encoder", "middle", "decoder", [8], [4]]


def build(**options: object) -> UNet:
    """Return a small U-Net of two stages whose projections are not zero, as after training."""
    shape = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 8}
    levels = {"channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (), "head_channels": 8}
    unet = UNet(**shape, **levels, **options).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in modulated_layers(unet):
            for parameter in layer.norm.proj.parameters():
                parameter.normal_(generator=draws)
    return unet


@torch.no_grad()
def record_outputs(unet: UNet, timesteps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Record the output of each projection in a forward pass over all pairs: name -> (T, K, ...), in order."""
    found: dict[str, Tensor] = {}

    def hook(name: str):
        return lambda module, inputs, output: found.update({name: output})

    modules = {name: module for name, module in unet.named_modules() if name.endswith("norm2.proj")}
    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    T, K = len(timesteps), len(labels)
    unet(torch.randn(T * K, 1, 8, 8), timesteps.repeat_interleave(K), labels.repeat(T, *[1] * (labels.ndim - 1)))
    for handle in handles:
        handle.remove()
    return {name.removesuffix(".proj"): output.view(T, K, -1) for name, output in found.items()}


def check(unet: UNet, labels: Tensor = LABELS) -> None:
    expected, found = record_outputs(unet, TIMESTEPS, labels), modulations(unet, TIMESTEPS, labels)
    assert [*found] == [*expected]          # all of them, in the order of the forward pass
    for layer in modulated_layers(unet):
        assert tuple(found[layer.name]) == layer.norm.modulation
        torch.testing.assert_close(torch.cat([*found[layer.name].values()], dim=2), expected[layer.name])


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_modulations_are_what_a_forward_pass_computes(norm: str, conditioning: str) -> None:
    check(build(norm=norm, conditioning=conditioning))


@pytest.mark.parametrize("resample", ["resblock", "conv"])
@pytest.mark.parametrize("condition_at", CONDITION_AT, ids=str)
def test_conditioned_anywhere(condition_at: str | list[int], resample: str) -> None:
    check(build(condition_at=condition_at, resample=resample))


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([[0, 1], [2, 3]]), torch.rand(2, 4), torch.rand(2, 2, 4)],
    ids=["ids by resolution", "weights", "weights by resolution"],
)
def test_with_every_kind_of_label(labels: Tensor) -> None:
    check(build(), labels)


def test_sides_and_resolutions_of_layers() -> None:
    found = {layer.name: (layer.side, layer.resolution) for layer in modulated_layers(build())}
    assert found == {
        "down.0.blocks.0.norm2": ("encoder", 8),
        "down.0.resample.0.norm2": ("encoder", 4),
        "down.1.blocks.0.norm2": ("encoder", 4),
        "mid.blocks.0.norm2": ("middle", 4),
        "mid.blocks.1.norm2": ("middle", 4),
        "up.0.blocks.0.norm2": ("decoder", 4),
        "up.0.blocks.1.norm2": ("decoder", 4),
        "up.0.resample.0.norm2": ("decoder", 8),
        "up.1.blocks.0.norm2": ("decoder", 8),
        "up.1.blocks.1.norm2": ("decoder", 8),
    }


def test_an_unconditional_model_has_its_null_class() -> None:
    unet = build()
    unconditional = UNet(**{**unet.config, "num_classes": 0, "null_class": True}).eval()
    found = modulations(unconditional, TIMESTEPS, torch.tensor([0]))
    assert all(values.shape[:2] == (3, 1) for parts in found.values() for values in parts.values())


def test_inputs_without_information_are_equal_everywhere() -> None:
    inputs = projection_inputs(build(conditioning="none"), TIMESTEPS, torch.tensor([0, 1, 2]))
    assert not any(emb.any() for emb in inputs.values())


# ------------------------------------------------------------------------------------------------ analysis of variance


def test_effects_are_those_of_least_squares() -> None:
    """Compare with nested models of dummy variables, whose residuals give the sums of squares."""
    T, K, C = 5, 4, 3
    values = torch.randn(T, K, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = values.view(T * K, C)
    t, c = torch.arange(T).repeat_interleave(K), torch.arange(K).repeat(T)
    one = torch.ones(T * K, 1, dtype=torch.float64)
    dummies_t, dummies_c = torch.eye(T, dtype=torch.float64)[t, 1:], torch.eye(K, dtype=torch.float64)[c, 1:]

    def residual(*columns: Tensor) -> Tensor:
        X = torch.cat(columns, dim=1)
        return (flat - X @ torch.linalg.lstsq(X, flat).solution).square().sum(dim=0)

    null, of_t = residual(one), residual(one, dummies_t)
    both = residual(one, dummies_t, dummies_c)
    found = effects(values)
    torch.testing.assert_close(K * found.timestep.square().sum(dim=(0, 1)), null - of_t)
    torch.testing.assert_close(T * found.class_.square().sum(dim=(0, 1)), of_t - both)
    torch.testing.assert_close(found.interaction.square().sum(dim=(0, 1)), both)
    torch.testing.assert_close(sum(found), values)
