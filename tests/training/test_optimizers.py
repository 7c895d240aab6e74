"""The optimizers, against torch's own and against the singular value decomposition."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ddpm.config.sections import Config, TrainConfig
from ddpm.models.unet import UNet
from ddpm.training.optim import ADAMW_LAYERS, OPTIMIZERS, Muon, build_optimizer, count_moments, orthogonalize
from ddpm.training.train import train


def unet() -> UNet:
    return UNet(
        resolution=8, in_channels=1, out_channels=1, num_classes=3, channels=8, channel_mult=(1, 2), num_res_blocks=1,
        attention_resolutions=(4,), head_channels=8, augment_channels=9,
    )


def give_gradients(model: nn.Module, seed: int = 0) -> None:
    draws = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draws)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_are_counted_before_there_are_any(name: str) -> None:
    model = unet()
    optimizer = build_optimizer(model, TrainConfig(learning_rate=1e-2, optimizer=name))
    counted = count_moments(optimizer)
    give_gradients(model)
    optimizer.step()
    kept = [tensor for state in optimizer.state.values() for key, tensor in state.items() if key != "step"]
    assert counted == sum(tensor.numel() for tensor in kept)


@pytest.mark.parametrize("shape", [(3, 16, 144), (1, 144, 16), (2, 5, 9), (2, 1, 5)])
def test_orthogonalized_matrices_keep_their_directions_and_lose_their_scale(shape: tuple[int, int, int]) -> None:
    draws = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=draws, dtype=torch.float64) * 1e3
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalize(matrices) @ vh.mT                                                  # (N, R, R)
    diagonal = torch.diagonal(found, dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(diagonal), rtol=0, atol=1e-8)        # float64
    # The five iterations map singular values from 0.003 to 1 times the norm of the matrix to the range below.
    assert s.min() > 0.003 * s.norm(dim=1).max()
    assert diagonal.min() > 0.67
    assert diagonal.max() < 1.21


def test_bfloat16_is_enough_for_orthogonal_matrices() -> None:
    draws = torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 16, 144, generator=draws).bfloat16()).double())
    # float64 gives 0.68 to 1.2, and bfloat16 has 8 bits in each of the five iterations.
    assert 0.6 < values.min() < values.max() < 1.3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_dict_continues_training_and_hooks_run_once_after_the_step(name: str) -> None:
    models = unet(), unet()
    first, second = (build_optimizer(model, TrainConfig(learning_rate=1e-2, optimizer=name)) for model in models)
    schedulers = [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5) for optimizer in (first, second)]
    assert all(len(scheduler.get_last_lr()) == len(first.param_groups) for scheduler in schedulers)
    seen = []
    first.register_step_post_hook(lambda *_: seen.append(copy.deepcopy(models[0].state_dict())))

    def differentiate() -> float:
        give_gradients(models[0])
        return 3.0

    assert first.step(differentiate) == 3.0 and len(seen) == 1
    assert all(torch.equal(value, seen[0][key]) for key, value in models[0].state_dict().items())
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in zip(models, (first, second), strict=True):
        give_gradients(model, 1)
        optimizer.step()
    assert all(torch.equal(value, models[1].state_dict()[key]) for key, value in models[0].state_dict().items())


def test_zero_gradients_give_no_step() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_muon_is_that_of_torch_for_matrices() -> None:
    draws = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=draws)) for shape in ((6, 20), (20, 6), (6, 20))]
    theirs, rest = copy.deepcopy(ours), nn.Parameter(torch.zeros(3))
    one = Muon(ours, [rest], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        # torch iterates in bfloat16, which has 8 bits: steps of about 0.02 * 0.2, five times.
        torch.testing.assert_close(a, b, rtol=0, atol=5 * 0.02 * 0.2 * 0.05)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (40, 2, 3, 3), (8, 4, 1, 1)])
def test_a_convolution_is_the_matrix_of_its_output_channels(shape: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=draws))
    matrix = nn.Parameter(weight.detach().flatten(1).clone())
    layers = [Muon([one], [nn.Parameter(torch.zeros(1))], lr=0.1) for one in (weight, matrix)]
    weight.grad = torch.randn(shape, generator=draws).contiguous(memory_format=torch.channels_last)
    matrix.grad = weight.grad.flatten(1)
    for one in layers:
        one.step()
    torch.testing.assert_close(weight.flatten(1), matrix)


def test_muon_trains_inner_matrices_and_adamw_the_rest() -> None:
    config = TrainConfig(learning_rate=1e-2, optimizer="muon", weight_decay=0.1)
    ours, theirs = unet(), unet()
    muon, adamw = build_optimizer(ours, config), build_optimizer(theirs, replace(config, optimizer="adamw"))
    for seed in range(3):
        for model in (ours, theirs):
            give_gradients(model, seed)
        muon.step()
        adamw.step()
    equal = {name for name, p in ours.named_parameters() if torch.equal(p, theirs.get_parameter(name))}
    expected = {name for name, p in ours.named_parameters() if p.ndim < 2 or name.split(".")[0] in ADAMW_LAYERS}
    assert equal == expected
    assert {name.split(".")[0] for name in expected} > {"class_embed", "conv_in", "conv_out", "augment_embed"}
    for name, parameter in ours.named_parameters():
        kinds = {"step", "exp_avg", "exp_avg_sq"} if name in expected else {"momentum_buffer"}
        assert {*muon.state[parameter]} == kinds and parameter.grad is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_skips_parameters_without_a_gradient_and_steps_by_about_the_rate(name: str) -> None:
    model = unet()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, TrainConfig(learning_rate=1e-2, optimizer=name))
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    give_gradients(model)
    optimizer.step()
    for key, value in model.state_dict().items():
        size = (value - before[key]).square().mean().sqrt()
        # AdamW's first step has entries of +-1, and Muon's 0.2 times singular values of 0.7 to 1.2.
        assert 0.13 * 1e-2 < size < 1.01e-2, key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_continued_run_equals_the_whole(name: str, tmp_path: Path, refused: Callable) -> None:
    options = {
        "model.channels": 8, "model.head_channels": 8, "train.optimizer": name, "train.lr_schedule": "constant",
        "train.batch_size": 8, "train.warmup_steps": 0, "train.sample_every": 0, "tracking.wandb": "off",
        "sample.steps": 1, "sample.per_class": 1,
    }
    config = Config().with_options(options)
    train(config.with_options({"train.steps": 4}), tmp_path / "whole")
    for steps in (2, 4):
        train(config.with_options({"train.steps": steps}), tmp_path / "continued")
    for file in ("training/model", "training/optimizer", "unet/diffusion_pytorch_model"):
        whole, continued = (
            load_file(tmp_path / run / "checkpoints" / "step_00000004" / f"{file}.safetensors")
            for run in ("whole", "continued")
        )
        assert whole.keys() == continued.keys() and all(torch.equal(whole[key], continued[key]) for key in whole)
    other = next(other for other in OPTIMIZERS if other != name)
    with refused("train.optimizer"):
        train(config.with_options({"train.steps": 6, "train.optimizer": other}), tmp_path / "continued")
