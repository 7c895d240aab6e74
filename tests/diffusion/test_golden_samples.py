"""DDIM against a trajectory of the published reference code."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from ddpm.diffusion.guidance import unet_denoiser, with_guidance
from ddpm.diffusion.samplers import ddim
from ddpm.diffusion.schedule import NoiseSchedule, linear
from ddpm.diffusion.timesteps import leading
from ddpm.io.adm import from_adm

GOLDEN = Path(__file__).parents[1] / "golden"
NETWORK = GOLDEN / "adm_scale_shift_32.safetensors"
TRAJECTORY = GOLDEN / "ddim10_linear_adm_scale_shift_32.safetensors"


def test_ten_steps_equal_the_reference() -> None:
    metadata, expected = read(TRAJECTORY)
    timesteps = json.loads(metadata["timesteps"])[::-1]
    metadata, tensors = read(NETWORK)
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    unet = from_adm(weights, **json.loads(metadata["unet_config"]))
    schedule = NoiseSchedule(linear(1000))
    assert leading(schedule, 10) == timesteps
    denoiser = with_guidance(unet_denoiser(unet, schedule, "eps"), schedule, unet.null_label, 1.0)
    x_0 = ddim(denoiser, schedule, expected["x_T"], expected["y"], timesteps)
    # What the golden files promise: float32 rounding of ten evaluations, each fed with the one before.
    torch.testing.assert_close(x_0, expected["x_0"], rtol=0, atol=2e-4)


def read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}     # noqa: SIM118 (not a mapping)
        metadata = file.metadata()
    return metadata, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
