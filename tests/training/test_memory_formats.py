"""Checkpoints have one layout, and training continues in that of the weights, which GPUs choose themselves."""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm.training.checkpoint import AVERAGED_WEIGHTS, load_checkpoint


def train(layer: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    layer(images).square().sum().backward()
    optimizer.step()


def test_moments_are_loaded_in_the_layout_of_their_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    train(layer, optimizer)
    averaged = copy.deepcopy(layer)

    weights = {name: tensor.contiguous() for name, tensor in layer.state_dict().items()}
    moments = {
        f"{kind}/{name}": value.contiguous()
        for name, parameter in layer.named_parameters()
        for kind, value in optimizer.state[parameter].items()
    }
    for name, tensors in {"training/model": weights, AVERAGED_WEIGHTS: weights, "training/optimizer": moments}.items():
        path = (tmp_path / name).with_suffix(".safetensors")
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, path)
    (tmp_path / "training" / "state.json").write_text(json.dumps({"step": 1}))

    loaded = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    loaded_optimizer = torch.optim.AdamW(loaded.parameters(), fused=True)
    assert load_checkpoint(tmp_path, loaded, averaged, loaded_optimizer)["step"] == 1
    assert loaded.weight.stride() == averaged.weight.stride() == layer.weight.stride() != weights["weight"].stride()
    for kind in ("exp_avg", "exp_avg_sq"):
        found = loaded_optimizer.state[loaded.weight][kind]
        assert found.stride() == loaded.weight.stride() and not found.requires_grad
        assert torch.equal(found, load_file(tmp_path / "training" / "optimizer.safetensors")[f"{kind}/weight"])

    layer.zero_grad()
    for one, its_optimizer in ((layer, optimizer), (loaded, loaded_optimizer)):
        train(one, its_optimizer)
    assert torch.equal(layer.weight, loaded.weight)
