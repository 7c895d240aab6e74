"""The variational bound against values of the reference code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ddpm.diffusion.guidance import unet_denoiser
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, Prediction
from ddpm.evaluation import likelihood
from ddpm.evaluation.likelihood import bound_terms
from ddpm.io.adm import from_adm
from ddpm.randomness import Purpose

GOLDEN = Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.usefixtures("one_thread")


def read(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}        # noqa: SIM118 (not a mapping)
        metadata = file.metadata()
    return metadata, {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}


def test_published_values(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = NoiseSchedule(SCHEDULES["linear"](1000))
    _, golden = read("vlb_linear_adm_scale_shift_32")
    metadata, network = read("adm_scale_shift_32")
    weights = {name.removeprefix("model."): t for name, t in network.items() if name.startswith("model.")}
    inside = unet_denoiser(from_adm(weights, **json.loads(metadata["unet_config"])), schedule, "eps")
    x_0, timesteps = golden["x_0"], golden["t"].tolist()

    def denoiser(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        """The network at the published timesteps alone, for it is slow."""
        wanted = torch.isin(t, golden["t"])
        x, variance = torch.zeros_like(x_t), torch.zeros_like(x_t)
        if wanted.any():
            found = inside(x_t[wanted], t[wanted], labels[wanted])
            x[wanted], variance[wanted] = found.x_0, found.variance_fraction
        return Prediction(x, x_t, variance)

    def noise(seed: int, purpose: Purpose, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        found = torch.zeros(len(index), *shape)
        for row, (place, t) in enumerate(zip((index >> 32).tolist(), (index & 0xFFFFFFFF).tolist(), strict=True)):
            if t in timesteps:
                found[row] = golden["noise"][timesteps.index(t), place]
        return found

    monkeypatch.setattr(likelihood, "normal", noise)
    monkeypatch.setattr(likelihood, "from_uint8", lambda images: x_0)
    terms = bound_terms(denoiser, schedule, x_0, golden["y"], torch.arange(len(x_0)), 1000, seed=0)
    # What the golden files promise; and the reference's own rounding, where a term of 8e-7 bits is a difference of
    # float32 numbers near 1.
    torch.testing.assert_close(terms[:, timesteps].T.float(), golden["vb_bpd"], rtol=1e-4, atol=2**-24)
    torch.testing.assert_close(terms[:, -1].float(), golden["prior_bpd"], rtol=1e-4, atol=0)
