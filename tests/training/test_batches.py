"""Batches do not depend on where the images are: in memory, in the cache, decoded on demand, or on a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm.config.sections import Config, DataConfig, TrainConfig
from ddpm.data import ImageData, load_data
from ddpm.data.images import MappedPixels, OnDemand
from ddpm.data.pixels import pixel_cache
from ddpm.training.batches import (
    SHARE_OF_DEVICE,
    SampleSequence,
    build_samples,
    hold_on_device,
    load_micro_batches,
)
from ddpm.training.timeline import Timeline

COUNT = 24
GPU = torch.device("cuda:0")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ImageData]:
    """Return the same images in each place."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_cache, "SMALL_BYTES", 0)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(COUNT) % 3)
    source = str(tmp_path / "images.npz")
    memory, cached = load_data(source, cache_gb=0), load_data(source)
    demand = load_data(source, cache_gb=0, memory_gb=1e-9)
    assert [type(data.pixels) for data in (memory, cached, demand)] == [torch.Tensor, MappedPixels, OnDemand]
    copied = {f"{name} in a device's memory": data.on_device(torch.device("cpu")) for name, data in
              {"memory": memory, "cache": cached}.items()}
    return {"memory": memory, "cache": cached, "demand": demand, **copied}


@pytest.mark.parametrize("balance", [False, True])
def test_batches_are_equal_wherever_the_images_are(places: dict[str, ImageData], balance: bool) -> None:
    train = TrainConfig(batch_size=8, gradient_accumulation_steps=2, steps=7, seed=3)
    config = Config(data=DataConfig(balance=balance, workers=2), train=train)
    timeline = Timeline.of(config.train)
    batches = {
        name: [
            [part.tolist() for part in batch]
            for rank in range(2)
            for batch in load_micro_batches(build_samples(config, data), timeline, 1, rank, 2, config)
        ]
        for name, data in places.items()
    }
    assert len(batches["memory"]) == 2 * 2 * 6
    assert all(found == batches["memory"] for found in batches.values())


class Copies(TorchDispatchMode):
    """Records the types of tensors that are copied to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and found.device != args[0].device:
            self.types.append(found.dtype)
        return found


def sequence(data: ImageData) -> SampleSequence:
    return SampleSequence(data, SimpleNamespace(index=lambda position: position % COUNT))     # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["memory", "cache"])
def test_images_on_a_device_are_not_copied_again(place: str, places: dict[str, ImageData]) -> None:
    """Only their indices are, int64; the positions in the run stay where the random numbers are drawn."""
    device = torch.device("meta")
    held = sequence(places[place].on_device(device))
    with Copies() as copies:
        positions, images, labels = held.__getitems__([3, 40, 7])
    assert (positions.device.type, images.device, labels.device) == ("cpu", device, device)
    assert images.shape == (3, 3, 8, 8) and images.dtype == torch.uint8
    assert copies.types == [torch.int64]


def test_only_images_that_need_little_of_a_gpu_are_held_there(places: dict[str, ImageData], monkeypatch) -> None:
    size = COUNT * 3 * 8 * 8
    enough = int(size / SHARE_OF_DEVICE)
    samples = {name: sequence(data) for name, data in places.items()}
    for free, expected in ((enough - 1, "cpu"), (enough + 1, "cuda")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        with FakeTensorMode(allow_non_fake_inputs=True):
            for name in ("memory", "cache"):
                assert hold_on_device(samples[name], GPU).data.labels.device.type == expected
    assert hold_on_device(samples["demand"], GPU) is samples["demand"]
    for device in ("cpu", "mps"):
        assert hold_on_device(samples["memory"], torch.device(device)) is samples["memory"]
