"""What a training step starts on a GPU, counted without one: ceilings that may only be lowered."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from ddpm.config.sections import Config
from ddpm.config.yaml_files import read_config
from ddpm.data import ImageData
from ddpm.lab.benchmark.launches import OperationCounter, count_pretended_step
from ddpm.lab.benchmark.pretended_gpu import pretend_gpu, why_not_pretend

pytestmark = pytest.mark.skipif(why_not_pretend() is not None, reason=str(why_not_pretend()))

ROOT = Path(__file__).parents[3]
# Of one step of configs/cifar10.yaml, bf16, with the operations of torch 2.13 on a pretended GPU. An operation of this
# package counts once; those of this network are one kernel each.
MOST_LAUNCHES = 1743
MOST_WAITS = 1


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    """Forget the precision after a test."""
    yield
    AcceleratorState._reset_state()


def images(size: int) -> ImageData:
    labels = torch.arange(256) % 10
    return ImageData(torch.zeros(256, 3, size, size, dtype=torch.uint8), labels, tuple("abcdefghij"))


def test_kernels_copies_and_waits_are_counted() -> None:
    with pretend_gpu():
        x = torch.zeros(4, 3)
        with OperationCounter() as counter:
            x = x.to("cuda:0")                              # a copy that blocks
            y = x.to("cuda:0", non_blocking=True)           # nothing: it is there already
            z = x.cpu().to("cuda:0", non_blocking=True)     # a copy that blocks, and one that does not
            y = (y.view(2, 6).t() * 2).sum() + z[0, 0]      # three kernels; views are none
            y.item()
            torch.stack([y, y]).tolist()                    # a kernel, and one copy of both values
    assert counter.by_name == {"_to_copy": 4, "mul": 1, "sum": 1, "add": 1, "stack": 1}
    assert counter.waits == {"_to_copy": 3, "_local_scalar_dense": 1}


def test_gradients_are_counted_under_autocast() -> None:
    layer = torch.nn.Linear(3, 4, device="meta")
    with pretend_gpu():
        layer = layer.to_empty(device="cuda:0")
        x = torch.zeros(2, 3, device="cuda:0")
        with OperationCounter() as counter, torch.autocast("cuda", torch.bfloat16):
            torch.nn.functional.silu(layer(x)).sum().backward()
    # x, weight and bias become bf16, and the gradients of weight and bias fp32; the sum is made in fp32.
    assert counter.by_name["addmm"] == counter.by_name["mm"] == counter.by_name["silu"] == 1
    assert layer.weight.grad.device.type == "cuda" and layer.weight.grad.dtype == torch.float32
    assert counter.by_name["_to_copy"] >= 5 and not counter.waits


def test_a_step_of_both_sides_is_counted() -> None:
    options = {"model.channels": 8, "model.channel_mult": [1, 2], "model.attention_resolutions": [4]}
    options |= {"model.head_channels": 8, "model.norm_groups": 2, "train.batch_size": 4, "train.steps": 10}
    config = Config().with_options({**options, "train.learning_rate": 1e-3})
    ours, theirs = (count_pretended_step(side, config, images(8)) for side in ("ours", "diffusers"))
    assert ours.by_name["_fused_adamw_"] == 1
    assert ours.by_name["convolution_backward"] == theirs.by_name["convolution_backward"]


@pytest.mark.slow
def test_a_step_of_cifar10_starts_and_waits_for_no_more_than_before() -> None:
    counts = count_pretended_step("ours", read_config(ROOT / "configs" / "cifar10.yaml"), images(32))
    print(counts)
    assert counts.launches <= MOST_LAUNCHES and counts.waits <= MOST_WAITS, counts
