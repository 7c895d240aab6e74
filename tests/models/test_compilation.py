import os
import re
import sysconfig
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch._inductor.utils import run_and_get_code

from ddpm.models import compilation
from ddpm.models.compilation import check_compiler, compilation_seconds, compile_network
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


def unet(**options: object) -> UNet:
    shape = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 8, "num_res_blocks": 1}
    made = UNet(**{**shape, "channel_mult": (1,), "attention_resolutions": (), "head_channels": 8, **options})
    draws = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.1, generator=draws)
    return made


def inputs(size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(size, 1, 8, 8, generator=draws), torch.arange(size) * 100, torch.arange(size) % 4


# Tracing takes seconds; the other norms are traced by the slow tests.
NORMS_TO_TRACE = [norm if norm == "adagn" else pytest.param(norm, marks=pytest.mark.slow) for norm in NORMS]


@pytest.mark.parametrize("norm", NORMS_TO_TRACE)
def test_a_compiled_network_is_one_graph_with_the_same_outputs_and_names(norm: str) -> None:
    eager, compiled = unet(norm=norm), unet(norm=norm)
    compile_network(compiled, backend="aot_eager")
    assert [*compiled.state_dict()] == [*eager.state_dict()]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found, expected = compiled(*inputs()).sample, eager(*inputs()).sample
        # aot_eager decomposes some operations, which rounds differently.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    expected.square().mean().backward()
    for one, other in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)      # sums of many rounded products


@pytest.mark.slow
@pytest.mark.skipif(compilation.find_missing_tool(CPU) is not None, reason="torch.compile has no C++ compiler")
def test_compiled_code_stores_images_channels_last() -> None:
    network = unet(channels=16, channel_mult=(1, 1))        # with a skip connection that joins upsampled images
    compile_network(network)
    with torch.no_grad():
        _, code = run_and_get_code(lambda: network(*inputs(2)).sample)
    number = r"(\d+)"
    four = r"\(" + ", ".join([number] * 4) + r"\)"
    made = [[int(n) for n in one] for one in re.findall(rf"empty_strided_cpu\({four}, {four}", "".join(code))]
    # The images of this network have 16 or 32 channels. Other tensors are statistics, or images as (B, H, W, C).
    strides = [stride for _, channels, height, width, _, stride, _, _ in made if channels > 8 and height * width > 1]
    assert strides and set(strides) == {1}


def test_each_shape_is_compiled_once() -> None:
    network = unet()
    compile_network(network, backend="eager")
    before = compilation_seconds()
    with torch.no_grad():
        for size in (4, 2, 4, 2, 4):
            network(*inputs(size))
    assert counters["stats"]["unique_graphs"] == 2
    assert compilation_seconds() > before


def test_a_missing_compiler_is_named_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_compiler(CPU, "train.compile")
    named = pytest.raises(ValueError, match=r"^train\.compile: .*C\+\+ compiler.*g\+\+.*leave train\.compile out")
    with inductor_config.patch({"cpp.cxx": (None, "no-such-compiler")}), named:
        check_compiler(CPU, "train.compile")
    with monkeypatch.context() as patched:
        patched.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        with pytest.raises(ValueError, match=r"^compile: .*python3-dev"):
            check_compiler(CPU, "compile")
    with pytest.raises(ValueError, match=r"^compile: .*the device is mps"):
        check_compiler(torch.device("mps"), "compile")


def test_a_gpu_needs_triton_and_a_c_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compilation, "has_triton", lambda: False)
    with pytest.raises(ValueError, match=r"^compile: .*pip install triton"):
        check_compiler(CUDA, "compile")
    monkeypatch.setattr(compilation, "has_triton", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_compiler(CUDA, "compile")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ValueError, match=r"^compile: .*install gcc"):
        check_compiler(CUDA, "compile")
