"""Devices without float64, as Apple's are, train, sample and measure like a CPU."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))      # for the module pretended_mps

from pretended_mps import PretendedTensor, pretended_mps

import ddpm.float64
from ddpm.config.sections import Config, DataConfig, DiffusionConfig
from ddpm.diffusion.guidance import unet_denoiser
from ddpm.diffusion.objective import diffusion_loss, prior_bound
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.evaluation.feature_tables import iterate_blocks, tabulate
from ddpm.evaluation.likelihood import bound_terms, denoising_errors
from ddpm.models.unet import UNet
from ddpm.randomness import Purpose, normal
from ddpm.training.build import build_augmentation
from ddpm.training.step_inputs import prepare_inputs

LABELS = torch.arange(4) % 3


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[torch.device]:
    with pretended_mps() as device:
        monkeypatch.setattr(ddpm.float64, "WITHOUT_FLOAT64", {device.type})
        yield device


def network() -> UNet:
    torch.manual_seed(0)
    unet = UNet(
        resolution=8, in_channels=1, out_channels=2, num_classes=3, channels=16, channel_mult=(1, 2), num_res_blocks=1,
        attention_resolutions=(4,), head_channels=16,
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


def images() -> Tensor:
    return torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def schedule() -> NoiseSchedule:
    return NoiseSchedule(SCHEDULES["cosine"](100))


def test_the_pretended_device_refuses_float64(device: torch.device) -> None:
    here = images().to(device)
    assert isinstance(here, PretendedTensor) and here.device == device and here.cpu().device.type == "cpu"
    for act in (here.double, lambda: torch.zeros(2, dtype=torch.float64, device=device)):
        with pytest.raises(TypeError, match="float64"):
            act()
    with pytest.raises(RuntimeError, match="same device"):
        here + images()


def test_training_computes_what_a_cpu_computes(device: torch.device) -> None:
    """Losses with a learned variance, whose bound is a difference in float64, and their gradient."""
    config = Config(data=DataConfig(augment=0.5, horizontal_flip=True), diffusion=DiffusionConfig(num_timesteps=100))
    found = []
    for where in (torch.device("cpu"), device):
        unet = network().to(where)
        x_0, labels, t, noise, _ = prepare_inputs(
            torch.arange(4), images().to(where), LABELS.to(where), config, unet.null_label, build_augmentation(config)
        )
        losses = diffusion_loss(unet, schedule(), x_0, labels, t, noise)
        losses.sum().backward()
        assert {x.device for x in (x_0, labels, t, noise, losses)} == {where}
        found.append([losses.detach().cpu(), *(parameter.grad.cpu() for parameter in unet.parameters())])
    # Tables of coefficients are float32 on the device.
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "heun"])       # one of samplers.py, and one of solvers.py
def test_samples_are_those_of_a_cpu(device: torch.device, sampler: str) -> None:
    x_T = normal(0, Purpose.NOISE, torch.arange(4), (1, 8, 8))
    found = []
    for where in (torch.device("cpu"), device):
        denoiser = unet_denoiser(network().to(where), schedule(), "eps")
        given = (x_T.to(where), LABELS.to(where), [90, 60, 30, 0])
        options = {"noise": lambda i, x_T=given[0]: x_T.flip(0) + i} if SAMPLERS[sampler].stochastic else {}
        found.append(SAMPLERS[sampler].run(denoiser, schedule(), *given, **options).cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_the_denoiser_is_measured_as_on_a_cpu(device: torch.device) -> None:
    found = []
    for where in (torch.device("cpu"), device):
        denoiser = unet_denoiser(network().to(where), schedule(), "eps")
        given = [x.to(where) for x in (images(), LABELS, torch.arange(4))]
        errors = denoising_errors(denoiser, schedule(), *given, timesteps=[5, 50], seed=0)
        terms = bound_terms(denoiser, schedule(), *given, evaluations=4, seed=0)
        assert errors.dtype == terms.dtype == torch.float64
        found.append((errors, terms, prior_bound(schedule(), given[0].float()).cpu()))
    # The network computes in float32, with tables of coefficients in float32 on the device.
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


def test_tables_of_features_are_read_where_float64_is(device: torch.device, tmp_path: Path) -> None:
    processes = SimpleNamespace(device=device, process_index=0, num_processes=1, is_main_process=True)
    rows = tabulate(tmp_path, 4, 2, lambda batch: {"x": images()[batch].flatten(1)}, processes, "x")["x"]
    ((_, block),) = iterate_blocks(rows)
    assert torch.equal(block, images().flatten(1).double())
