"""Compare the kernels of norms with copies: how much memory per second each reads and writes on a GPU.

python tests/gpu/norm_bandwidth.py --out norm_bandwidth.json

A kernel cannot be faster than a copy of the bytes that it must read and write. The exit code is 1 if one of them moves
less than 80 % of what a copy moves.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm.models import fused

LEAST = 0.8             # of the bandwidth of a copy
SETS = 4                # inputs in turns, together far larger than the cache of the GPU
REPLAYS = 20
GROUPS = 32


class Images(NamedTuple):
    """The images that a norm receives.

    Attributes:
        batch, channels, size: (B, C, size, size).
    """

    batch: int
    channels: int
    size: int


# Of ADM-64 with 64 images, of configs/cifar10.yaml with 512.
SHAPES = [
    Images(64, 192, 64), Images(64, 384, 32), Images(64, 576, 16), Images(256, 768, 8),
    Images(512, 128, 32), Images(512, 256, 16), Images(512, 384, 16), Images(1024, 256, 8), Images(1024, 512, 8),
]


def time_in_graph(acts: Sequence[Callable[[], object]]) -> float:
    """Return the median seconds of one of several acts, which a CUDA graph runs one after the other."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for act in acts:
            act()           # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for act in acts:
            act()
    graph.replay()
    seconds = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / len(acts))
    return statistics.median(seconds)


def measure(images: Images) -> dict[str, Any]:
    """Return bytes per second of a copy, of forward and of backward of AdaGN with SiLU in bfloat16."""
    shape = (images.batch, images.channels, images.size, images.size)

    def draw() -> Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)

    hs, grads = [draw() for _ in range(SETS)], [draw() for _ in range(SETS)]
    weight, bias = torch.rand(2, images.channels, device="cuda")
    modulation = torch.randn(images.batch, 2 * images.channels, device="cuda")
    form = GROUPS, True, True, True, False, True
    forward, backward = torch.ops.ddpm.modulated_norm, torch.ops.ddpm.modulated_norm_backward
    statistics_of = [forward(h, weight, bias, modulation, *form, 1e-5, torch.bfloat16)[1:] for h in hs]
    seconds = {
        "copy": time_in_graph([lambda h=h, grad=grad: grad.copy_(h) for h, grad in zip(hs, grads, strict=True)]),
        "forward": time_in_graph([
            lambda h=h: forward(h, weight, bias, modulation, *form, 1e-5, torch.bfloat16) for h in hs
        ]),
        "backward": time_in_graph([
            lambda h=h, grad=grad, found=found: backward(grad, h, weight, bias, modulation, *found, *form)
            for h, grad, found in zip(hs, grads, statistics_of, strict=True)
        ]),
    }
    whole = fused.divide(images.size**2, images.channels, GROUPS).whole
    per_value = {"copy": 4, "forward": 4 if whole else 6, "backward": 6 if whole else 10}
    values = hs[0].numel()
    speed = {name: per_value[name] * values / second for name, second in seconds.items()}
    share = {name: speed[name] / speed["copy"] for name in ("forward", "backward")}
    return {"shape": shape, "whole": whole, "bytes_per_value": per_value, "bytes_per_s": speed, "share": share}


def main() -> int:
    """Measure all shapes, print them, and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    found = [measure(images) for images in SHAPES]
    print(f"{torch.cuda.get_device_name()}; AdaGN + SiLU, {GROUPS} groups, bfloat16; share of the speed of a copy")
    for one in found:
        share = ", ".join(f"{name} {value:.0%} ({one['bytes_per_value'][name]} bytes per value)"
                          for name, value in one["share"].items())
        print(f"{'x'.join(map(str, one['shape'])):>16}: copy {one['bytes_per_s']['copy'] / 1e12:.2f} TB/s, {share}")
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(value < LEAST for one in found for value in one["share"].values()))


if __name__ == "__main__":
    sys.exit(main())
