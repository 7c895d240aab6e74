"""Half precision, compiled networks and noise of the device, on the CPU and, where there is one, on a GPU."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ddpm.diffusion import sampling
from ddpm.diffusion.guidance import unet_denoiser, with_guidance
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.sampling import BetweenSeeds, noise_source
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.compilation import compile_network
from ddpm.models.unet import UNet, UNetOutput
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.randomness import Purpose, normal

HAS_GPU = torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA GPU"))]
SCHEDULE = NoiseSchedule(SCHEDULES["cosine"](100))
NAMES = ["cat", "dog", "horse"]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Replace the fixture of this folder: these tests also run without a GPU."""


@pytest.fixture
def fresh_compiler() -> None:
    """Forget what was compiled, and start counting at 0."""
    torch._dynamo.reset()
    counters.clear()


def build_pipeline(prediction: str = "v", seed: int = 0, channels: int = 3) -> ClassConditionalPipeline:
    """Return a pipeline of a small network with weights as after training.

    Args:
        prediction: what the network predicts.
        seed: of the weights.
        channels: of the images.
    """
    unet = UNet(resolution=8, in_channels=channels, out_channels=channels, num_classes=3, channels=8,
                channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), head_channels=8).eval()
    draws = torch.Generator().manual_seed(seed)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5)
    pipeline = ClassConditionalPipeline.from_parts(unet, SCHEDULE, prediction, NAMES)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: ClassConditionalPipeline, **options: object) -> Tensor:
    """Return seven images, in two batches of which the second is padded."""
    options = {"num_inference_steps": 5, "batch_size": 4, "output_type": "uint8", **options}
    return pipeline([0, 1, 2, None, 0, 1, 2], **options).images


def gray_levels(found: Tensor, expected: Tensor) -> Tensor:
    """Return the absolute differences of images."""
    return (found.int() - expected.int()).abs()


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_half_precision_draws_nearly_the_same_images(device: str, precision: str, sampler: str) -> None:
    if (device, precision) == ("cpu", "fp16"):
        pytest.skip("needs a GPU")
    pipeline = build_pipeline().to(device)
    for scale in (1.0, 2.0):
        full = draw(pipeline, sampler=sampler, guidance_scale=scale)
        half = draw(pipeline, sampler=sampler, guidance_scale=scale, mixed_precision=precision)
        # bf16 has a relative error of 2^-9 in each layer; guidance doubles the error of x_0, whose range is 255.
        difference = gray_levels(half, full)
        assert 0 < float(difference.double().mean()) < 3, (scale, float(difference.double().mean()))


@pytest.mark.parametrize("device", DEVICES)
def test_only_the_networks_compute_in_half_precision(device: str) -> None:
    pipeline, guide = build_pipeline().to(device), build_pipeline(seed=1).to(device)
    seen = []
    for made in (pipeline, guide):
        made.unet.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    denoiser = pipeline.denoiser(2.0, guide, mixed_precision="bf16")
    with torch.no_grad():
        prediction = denoiser(torch.randn(2, 3, 8, 8, device=device), torch.tensor([5, 90], device=device),
                              torch.tensor([0, 1], device=device))
    assert seen == [torch.bfloat16] * 2
    assert prediction.x_0.dtype == prediction.eps.dtype == pipeline.unet.dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
def test_weights_of_half_precision_still_work(device: str) -> None:
    full = draw(build_pipeline().to(device))
    pipeline = build_pipeline().to(device).to(torch.bfloat16)
    for precision in ("fp32", "bf16"):
        assert float(gray_levels(draw(pipeline, mixed_precision=precision), full).double().mean()) < 3
    assert pipeline.unet.dtype == torch.bfloat16


def test_full_precision_is_the_default_and_leaves_the_context_of_the_caller() -> None:
    pipeline = build_pipeline()
    assert torch.equal(draw(pipeline), draw(pipeline, mixed_precision="fp32"))
    with torch.autocast("cpu", torch.bfloat16):
        half = draw(pipeline)
    assert torch.equal(half, draw(pipeline, mixed_precision="bf16"))


def test_inversion_computes_in_half_precision() -> None:
    pipeline = build_pipeline()
    images = draw(pipeline)[:2]
    full, half = (pipeline.invert(images, [0, 1], 5, mixed_precision=precision) for precision in ("fp32", "bf16"))
    assert full.dtype == half.dtype == torch.float32 and not torch.equal(full, half)


@pytest.mark.skipif(HAS_GPU, reason="needs a machine without a GPU")
def test_float16_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mixed_precision: fp16 needs a GPU.*fp32 or bf16$"):
        draw(build_pipeline(), mixed_precision="fp16")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mixed_precision: .*bf15.*mean bf16"):
        draw(build_pipeline(), mixed_precision="bf15")


# ----------------------------------------------------------------------------------------------------- compilation


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("prediction", "options", "graphs"), [
    # The layout of the next input depends on the layout of the output.
    ("x_0", {"sampler": "ddpm", "guidance_scale": 2.0, "guidance_interval": [0.3, 3.0]}, 2),
    ("eps", {"sampler": "heun", "mixed_precision": "bf16"}, 1),
])
@pytest.mark.usefixtures("fresh_compiler")
def test_each_shape_is_compiled_once(device: str, prediction: str, options: dict, graphs: int) -> None:
    pipeline = build_pipeline(prediction).to(device)
    expected = draw(pipeline, **options)
    compile_network(pipeline.unet, backend="eager")
    assert torch.equal(draw(pipeline, **options), expected)
    assert torch.equal(draw(pipeline, **options), expected)
    assert counters["stats"]["unique_graphs"] == graphs and not counters["graph_break"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("fresh_compiler")
def test_a_guide_is_another_network(device: str) -> None:
    pipeline, guide = build_pipeline().to(device), build_pipeline(seed=1).to(device)
    expected = draw(pipeline, guide=guide, guidance_scale=2.0)
    for made in (pipeline, guide):
        compile_network(made.unet, backend="eager")
    assert torch.equal(draw(pipeline, guide=guide, guidance_scale=2.0), expected)
    assert counters["stats"]["unique_graphs"] <= 2      # networks of one architecture share a graph


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_network_draws_the_same_images(device: str, precision: str) -> None:
    pipeline, guide = build_pipeline().to(device), build_pipeline(seed=1).to(device)
    cases: list[dict] = [
        {"guidance_scale": 2.0, "guidance_interval": [0.3, 3.0]},
        {"guidance_scale": 2.0, "guide": guide, "sampler": "dpmpp"},
    ]
    expected = [draw(pipeline, mixed_precision=precision, **case) for case in cases]
    names = [*pipeline.unet.state_dict()]
    for made in (pipeline, guide):
        compile_network(made.unet, cuda_graphs=device == "cuda")
    assert [*pipeline.unet.state_dict()] == names
    for case, images in zip(cases, expected, strict=True):
        found, again = (draw(pipeline, mixed_precision=precision, **case) for _ in range(2))
        # Fused operations round differently, in bf16 as much as bf16 differs from fp32.
        assert float(gray_levels(found, images).double().mean()) < (0.02 if precision == "fp32" else 3)
        assert torch.equal(found, again)


@pytest.mark.parametrize("prediction", ["v", "eps", "x_0"])
def test_predictions_outlive_the_next_call(prediction: str) -> None:
    """The output of a CUDA graph is overwritten by the next call; here by a network that does so itself."""

    class Overwriting(nn.Module):
        dtype = torch.float32

        def __init__(self) -> None:
            super().__init__()
            self.buffer = torch.empty(2, 6, 8, 8)

        def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> UNetOutput:
            self.buffer.copy_(torch.cat([x_t, x_t], dim=1) * (1 + labels.view(-1, 1, 1, 1)))
            return UNetOutput(sample=self.buffer)

    base = unet_denoiser(Overwriting(), SCHEDULE, prediction)
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 90])
    first = base(*inputs, torch.tensor([0, 1]))
    kept = copy.deepcopy(first)
    base(*inputs, torch.tensor([7, 8]))
    assert all(torch.equal(one, other) for one, other in zip(first, kept, strict=True))
    guided = with_guidance(base, SCHEDULE, None, 2.0, guide=unet_denoiser(Overwriting(), SCHEDULE, prediction))
    assert torch.equal(guided(*inputs, torch.tensor([0, 1])).x_0, base(*inputs, torch.tensor([0, 1])).x_0.clamp(-1, 1))


# ----------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_drawn_where_it_is_needed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_on = []

    def record(seed: Tensor, purpose: Purpose, index: Tensor, shape: Sequence[int]) -> Tensor:
        drawn_on.append((seed.device.type, index.device.type))
        return normal(seed, purpose, index, shape)

    monkeypatch.setattr(sampling, "normal", record)
    seeds = [3, 2**63 - 1, BetweenSeeds(3, 5, 0.25)]
    found = noise_source(seeds, (3, 8, 8), device)(Purpose.SAMPLER_NOISE, 4)
    assert found.device.type == device and {*drawn_on} == {(device, device)}
    index = torch.full((4,), 4)
    a, b, _, c = normal(torch.tensor([3, 2**63 - 1, 3, 5]), Purpose.SAMPLER_NOISE, index, (3, 8, 8)).double()
    angle = torch.tensor(torch.pi / 8, dtype=torch.float64)
    expected = torch.stack([a, b, angle.cos() * a + angle.sin() * c]).float()
    # Equal on CPUs; elsewhere log and cos of float64 may round differently before the result is rounded to float32.
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0.0 if device == "cpu" else 1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_noisy_samples_do_not_depend_on_the_device_or_the_batch(device: str, eta: float) -> None:
    there, here = build_pipeline(), build_pipeline().to(device)
    for scale in (1.0, 2.0):
        expected, found, other = (
            draw(pipeline, eta=eta, guidance_scale=scale, batch_size=size)
            for pipeline, size in ((there, 4), (here, 4), (here, 3))
        )
        for images in (found, other):
            assert float((gray_levels(images, expected) <= 1).double().mean()) >= 0.99


def test_a_saved_pipeline_computes_in_half_precision_without_the_package(tmp_path: object) -> None:
    """The code that is saved with the weights has the precisions, too."""
    from diffusers import DiffusionPipeline

    pipeline = build_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, mixed_precision="bf16"), draw(pipeline, mixed_precision="bf16"))
