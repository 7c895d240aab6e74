"""Generated images that are a function of their index, and helpers to write and compare them."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.io.image_formats import FORMATS, Request
from ddpm.io.image_writer import write_samples

CLASSES = ("cat", "a dog", "Vögel", "x/../y")
FOLDERS = ("cat", "a dog", "Vögel", "x_.._y")
COUNT, BATCH = 22, 4
CHANNELS = (1, 2, 3, 4, 5, 8)
SHARD = 3 * BATCH + 1
RECORD = {"model": "runs/a", "sample": {"steps": 50, "sampler": "ddim"}}
CHOICES = [*((name,) for name in FORMATS), ("parquet", "npz"), tuple(FORMATS)]
TWO = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
TWO += ["--mixed_precision", "no", "--dynamo_backend", "no"]

choices = pytest.mark.parametrize("formats", CHOICES, ids="+".join)


def asked(count: int = COUNT) -> list[Request]:
    per_class = -(-count // len(CLASSES))
    return [Request(CLASSES[i // per_class], f"seed{i:06d}", i // per_class, i) for i in range(count)]


def pixels(index: int, shape: tuple[int, int, int] = (3, 8, 8)) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


class Toy:
    """Draws images that are a function of their index, and records the calls."""

    def __init__(self, shape: tuple[int, int, int] = (3, 8, 8)) -> None:
        self.shape = shape
        self.calls: list[list[int]] = []

    def __call__(self, indices: list[int]) -> Tensor:
        self.calls.append(indices)
        return torch.from_numpy(np.stack([pixels(index, self.shape) for index in indices]))


def write(out: Path, formats: tuple[str, ...], draw: Callable[[list[int]], Tensor], **other: object) -> Path:
    arguments = {"requests": asked(), "batch_size": BATCH, "class_names": CLASSES, "record": RECORD} | other
    return write_samples(out, draw=draw, formats=formats, **arguments)


def tree(out: Path) -> dict[str, bytes]:
    """All files but the lock, which names a process."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


def same(out: Path, expected: dict[str, bytes]) -> None:
    found = tree(out)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def in_child(act: Callable[[], object]) -> int:
    """Exit status of a forked process."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)        # the parent's other threads do not survive a fork
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def refusal(*arguments: object, **other: object) -> str:
    with pytest.raises(ValueError) as raised:
        write(*arguments, **other)
    assert "\n" not in str(raised.value)
    return str(raised.value)
