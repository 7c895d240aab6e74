"""Layouts, types and launches of a training step of configs/cifar10.yaml in bf16, on a GPU that is only pretended."""

import copy
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
import yaml
from recorded_operations import Facts, Recording
from torch import nn

from ddpm.lab.benchmark.pretended_gpu import pretend_gpu, why_not_pretend
from ddpm.models import fused
from ddpm.models.unet import UNet

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="the operators of GPUs need Triton"),
    pytest.mark.skipif(why_not_pretend() is not None, reason=str(why_not_pretend())),
]

GPU, BATCH, D = torch.device("cuda", 0), 16, 512


class Step(NamedTuple):
    """What forward and backward execute, and the layer to which each norm and convolution belongs."""

    unet: UNet
    forward: Recording
    backward: Recording
    output: Facts


@pytest.fixture(scope="module")
def step(pytestconfig: pytest.Config) -> Step:
    options = yaml.safe_load((pytestconfig.rootpath / "configs" / "cifar10.yaml").read_text())["model"]
    with torch.device("meta"):
        unet = UNet(**options).train()
    with pretend_gpu():
        unet.to_empty(device=GPU)
        x_t, noise = torch.empty(2, BATCH, 3, 32, 32, device=GPU).unbind()
        t, labels = torch.zeros(2, BATCH, dtype=torch.int64, device=GPU).unbind()
        with torch.autocast("cuda", torch.bfloat16), Recording() as forward:
            output = unet(x_t, t, labels).sample
            loss = (output - noise).square().mean()
        with Recording() as backward:
            loss.backward()
        return Step(unet, forward, backward, Facts(tuple(output.shape), output.dtype, "channels_last"))


def test_images_stay_channels_last(step: Step) -> None:
    """No operator that computes something meets both layouts, and none changes the layout."""
    for recording in (step.forward, step.backward):
        for operation in recording.operations:
            if operation.launches:
                layouts = {one.layout for one in operation.inputs + operation.outputs if one.is_image}
                assert layouts <= {"channels_last", "other"}, operation


def test_norms_take_and_give_16_bits(step: Step) -> None:
    norms = step.forward.named("modulated_norm")
    assert len(norms) == sum(isinstance(module, nn.GroupNorm) for module in step.unet.modules())
    *inner, last = norms
    assert {(norm.inputs[0].dtype, norm.outputs[0].dtype) for norm in inner} == {(torch.bfloat16, torch.bfloat16)}
    assert {one.dtype for norm in norms for one in norm.outputs[1:]} == {torch.float32}         # statistics
    assert (last.inputs[0].dtype, last.outputs[0].dtype) == (torch.bfloat16, torch.float32)
    grads = [norm.outputs[0].dtype for norm in step.backward.named("modulated_norm_backward")]
    assert grads == [torch.bfloat16] * len(norms)


def test_convolutions_compute_in_16_bits_but_the_last(step: Step) -> None:
    *inner, last = step.forward.named("convolution")
    assert {one.dtype for operation in inner for one in operation.inputs} == {torch.bfloat16}
    assert {one.dtype for one in last.inputs} == {torch.float32} == {step.output.dtype}
    for name in ("convolution", "convolution_backward"):
        for recording in (step.forward, step.backward):
            inputs = [one for operation in recording.named(name) for one in operation.inputs]
            assert {one.layout for one in inputs if one.shape[2:] == (3, 3)} <= {"channels_last"}


def test_embeddings_and_modulation_are_float32(step: Step) -> None:
    layers = step.forward.named("addmm")
    products = [operation.inputs for operation in layers if operation.inputs[1].shape == (BATCH, D)]
    modulated = sum(name.endswith("norm2.proj") for name, _ in step.unet.named_modules())
    assert len(products) == 1 + modulated           # the second layer of the time embedding, and the projections
    assert {one.dtype for inputs in products for one in inputs} == {torch.float32}


def test_weights_are_channels_last_also_in_copies(step: Step) -> None:
    block = step.unet.down[1].blocks[0]
    with pretend_gpu():
        twin = copy.deepcopy(block)
        twin.load_state_dict({name: torch.empty(value.shape) for name, value in block.state_dict().items()})
    for module in (step.unet, twin):
        for name, weight in module.named_parameters():
            if weight.ndim == 4:        # DistributedDataParallel compares the strides of 1x1 convolutions, too
                _, inputs, height, width = weight.shape
                assert weight.stride() == (inputs * height * width, 1, inputs * width, inputs), name


def test_launches(step: Step) -> None:
    """A step has less than half of the launches that it had before norms were fused: 1303 forward, 2564 backward.

    About 500 are conversions of weights to bf16 and of their gradients back.
    """
    counts = []
    for recording, name in ((step.forward, "modulated_norm"), (step.backward, "modulated_norm_backward")):
        count = sum(operation.launches for operation in recording.operations)
        for norm in recording.named(name):
            _, channels, *size = norm.outputs[0].shape
            groups = norm.inputs[-1].shape[1] if name.endswith("backward") else norm.outputs[1].shape[1]
            count += fused.divide(size[0] * size[1], channels, groups).launches - 1
        counts.append(count)
    forward, backward = counts
    assert forward <= 640 and backward <= 930, counts
