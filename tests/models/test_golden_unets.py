"""The U-Net against outputs of the published reference code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ddpm.io.adm import from_adm

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ("adm_scale_shift_32", "improved_additive_16")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_reference(family: str) -> None:
    config, tensors = read(family)
    unet = from_adm(weights(tensors), **config)
    with torch.no_grad():
        output = unet(tensors["input.x"], tensors["input.t"], tensors["input.y"]).sample
    # What the golden files promise: float32 sums of a few thousand terms in another order, for outputs of order 1.
    torch.testing.assert_close(output, tensors["output"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_is_answered_alone(family: str) -> None:
    config, tensors = read(family)
    unet = from_adm(weights(tensors), **config)
    with torch.no_grad():
        for i in range(len(tensors["input.x"])):
            one = unet(*(tensors[f"input.{name}"][i : i + 1] for name in "xty")).sample
            torch.testing.assert_close(one, tensors["output"][i : i + 1], rtol=0, atol=2e-5)    # as above


@pytest.mark.parametrize("family", FAMILIES)
def test_refuses_weights_of_another_architecture(family: str, refused) -> None:
    config, tensors = read(family)
    state = weights(tensors)
    with refused("out.2.bias"):
        from_adm({name: tensor for name, tensor in state.items() if name != "out.2.bias"}, **config)
    with refused("surplus"):
        from_adm({**state, "surplus": torch.zeros(1)}, **config)
    with refused("input_blocks.0.0.bias", "7", "32"):
        from_adm({**state, "input_blocks.0.0.bias": torch.zeros(7)}, **config)


def test_the_order_of_attention_rows_matters() -> None:
    # Guards the first test: with one head's worth of rows misread, it would not notice if it compared too loosely.
    config, tensors = read("improved_additive_16")
    unet = from_adm(weights(tensors), **{**config, "use_new_attention_order": True})
    with torch.no_grad():
        output = unet(tensors["input.x"], tensors["input.t"], tensors["input.y"]).sample
    assert (output - tensors["output"]).abs().max() > 1e-3


def read(family: str) -> tuple[dict, dict[str, torch.Tensor]]:
    path = GOLDEN / f"{family}.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}     # noqa: SIM118 (not a mapping)
        config = json.loads(file.metadata()["unet_config"])
    return config, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
