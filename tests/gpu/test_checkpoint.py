"""On a GPU, a checkpoint is that of its step although the next one starts at once, and training hardly stands still."""

import copy
from pathlib import Path

import pytest
import torch
from checkpoint_stall import measure_checkpoint_stall
from safetensors.torch import load_file
from small_runs import DEVICE
from torch import Tensor, nn

from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.checkpoint import AVERAGED_WEIGHTS, MOMENTS, WEIGHTS, CheckpointWriter
from ddpm.training.snapshot import Snapshot


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_snapshot_is_that_of_its_step(memory_format: torch.memory_format, tmp_path: Path) -> None:
    """A gigabyte takes tens of milliseconds to copy, and the step that would overwrite it takes one."""
    layers = nn.Sequential(*(nn.Conv2d(1024, 1024, 3) for _ in range(7))).to(DEVICE, memory_format=memory_format)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1, fused=True)
    for parameter in layers.parameters():
        parameter.grad = torch.ones_like(parameter)
    snapshot = Snapshot(optimizer)
    average = copy.deepcopy(layers).requires_grad_(False)

    def step() -> None:
        optimizer.step()
        torch._foreach_lerp_(list(average.parameters()), list(layers.parameters()), 0.5)

    def tensors() -> dict[str, dict[str, Tensor]]:
        states = [optimizer.state[parameter] for parameter in layers.parameters()]
        moments = {f"{i}/{kind}": value for i, state in enumerate(states) for kind, value in state.items()}
        return {"weights": layers.state_dict(), "average": average.state_dict(), "moments": moments}

    step()
    for number in range(3):
        expected = {file: {k: v.clone() for k, v in found.items()} for file, found in tensors().items()}
        torch.cuda.synchronize()
        snapshot.take(tensors())
        assert not snapshot._copied.query()         # the copy has only begun
        for _ in range(5):
            step()
        folder = tmp_path / str(number)
        folder.mkdir()
        snapshot.write(folder)
        for file, known in expected.items():
            found = load_file(folder / file, device=DEVICE)
            assert found.keys() == known.keys() and all(torch.equal(found[k], v) for k, v in known.items()), file
        assert all(copied.is_pinned() for files in snapshot._files.values() for copied in files.values())


def test_the_stall_of_a_checkpoint_of_300_million_parameters(tmp_path: Path) -> None:
    """ADM's network for 64x64 images in bfloat16, with 32 images per step; prints the seconds."""
    torch.manual_seed(0)
    unet = UNet(
        64, 3, 3, num_classes=1000, channels=192, channel_mult=(1, 2, 3, 4), num_res_blocks=3,
        attention_resolutions=(32, 16, 8), head_channels=64,
    ).to(DEVICE)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)
    pipeline = ClassConditionalPipeline.from_parts(average, NoiseSchedule(SCHEDULES["cosine"](1000)), "eps", [])
    x, labels = torch.randn(32, 3, 64, 64, device=DEVICE), torch.randint(1000, (32,), device=DEVICE)
    t = torch.randint(1000, (32,), device=DEVICE)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = unet(x, t, labels).sample.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 0.1)

    checkpoints = CheckpointWriter(tmp_path, pipeline, unet, average, optimizer, keep=1)
    with checkpoints:
        found = measure_checkpoint_stall(checkpoints, step)
    print(found, f"stall {found.stall:.3f} s")
    assert found.size > 4.7e9
    assert found.stall < found.step and found.snapshot < found.step and found.stall < found.complete / 4
    for file in (AVERAGED_WEIGHTS, WEIGHTS, MOMENTS):
        assert (tmp_path / "step_00000001" / file).is_file()
