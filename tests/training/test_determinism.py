"""train.deterministic: kernels that always sum in the same order."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm.cli.train import main
from ddpm.config.sections import Config, TrainConfig
from ddpm.diffusion import objective
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet
from ddpm.training import launch
from ddpm.training.launch import start_accelerator

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
# Of the documentation of torch.use_deterministic_algorithms (2.13), as operations of ATen: those that raise an error on
# a GPU. The forms `_backward` are those of operations that only their derivative concerns.
NOT_DETERMINISTIC = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward",
    "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward", "_embedding_bag_backward", "put_", "put",
    "histc", "bincount", "median", "nanmedian", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum",
    "scatter_reduce", "scatter_reduce_",
}


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore torch's settings, and begin without the variable of cuBLAS."""
    monkeypatch.setenv(VARIABLE, "before")      # so that it is restored, too
    monkeypatch.delenv(VARIABLE)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


def test_settings_are_applied_before_the_device_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    join = launch.join_processes

    def joining(*arguments: Any) -> Any:
        found.update(
            cublas=os.environ.get(VARIABLE), torch=torch.are_deterministic_algorithms_enabled(),
            benchmark=torch.backends.cudnn.benchmark,
        )
        return join(*arguments)

    monkeypatch.setattr(launch, "join_processes", joining)
    torch.backends.cudnn.benchmark = True
    start_accelerator(Config())
    assert found == {"cublas": None, "torch": False, "benchmark": True}
    start_accelerator(Config(train=TrainConfig(deterministic=True)))
    assert found == {"cublas": ":4096:8", "torch": True, "benchmark": False}
    monkeypatch.setenv(VARIABLE, ":16:8")
    start_accelerator(Config(train=TrainConfig(deterministic=True)))
    assert found["cublas"] == ":16:8"
    start_accelerator(Config())                 # the next arm of a study
    assert not found["torch"]


class Operations(TorchDispatchMode):
    """Collect the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    ("norm", "conditioning"), [*((norm, "both") for norm in NORMS), *(("adagn", kind) for kind in CONDITIONINGS)]
)
def test_networks_have_deterministic_kernels(norm: str, conditioning: str) -> None:
    """Every operation of forward and backward pass has a deterministic form on a GPU."""
    unet = UNet(
        resolution=16, in_channels=3, out_channels=6, num_classes=4, channels=16, channel_mult=(1, 2),
        num_res_blocks=1, attention_resolutions=(8,), head_channels=16, norm=norm, conditioning=conditioning,
    )
    with Operations() as found:
        unet(torch.randn(2, 3, 16, 16), torch.tensor([1, 2]), torch.tensor([0, 4])).sample.square().mean().backward()
    assert not found.names & NOT_DETERMINISTIC
    assert {"avg_pool2d_backward", "upsample_nearest2d_backward", "embedding_dense_backward"} <= found.names


def run(path: Path, *options: str) -> None:
    """Train a small model of the digits for two steps."""
    small = ["--model.channels", "8", "--model.head_channels", "8", "--tracking.wandb", "off"]
    small += ["--train.sample_every", "0", "--sample.steps", "1", "--sample.per_class", "1", "--train.steps", "2"]
    main([*small, "--run-dir", str(path), *options])


@pytest.mark.slow
def test_weights_of_a_cpu_are_the_same_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    run(tmp_path / "one")
    run(tmp_path / "other", "--train.deterministic", "true")
    for file in ("training/model.safetensors", "training/optimizer.safetensors"):
        one, other = (tmp_path / name / "checkpoints" / "step_00000002" / file for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
    assert "deterministic: true" in (tmp_path / "other" / "config.yaml").read_text()


def test_a_kernel_without_a_deterministic_form_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def put(*inputs: Any) -> torch.Tensor:
        return torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))     # which of the two stays is not determined

    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr(objective, "diffusion_loss", put)
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, "--train.deterministic", "true")
    line = capsys.readouterr().err.splitlines()[-1]
    assert "train.deterministic: put_" in line and "train.deterministic false" in line
