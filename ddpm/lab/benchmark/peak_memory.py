"""The peak memory of training steps."""

import gc
import re
from pathlib import Path

import torch

from ddpm.lab.benchmark.setting import Setting
from ddpm.lab.benchmark.sides import TRAINING, Training
from ddpm.training.batches import build_samples, load_micro_batches
from ddpm.training.build import build_schedule
from ddpm.training.launch import start_accelerator
from ddpm.training.timeline import Timeline

MEMORY_STEPS = 4
STATUS = Path("/proc/self/status")          # of Linux


def measure_peak_memory(setting: Setting, side: str, compiled: bool) -> int:
    """Return the bytes that training takes at most, for a process that has done nothing before.

    On a GPU these are the bytes of tensors. On a CPU it is the resident memory above that before the network is built.

    Args:
        setting: what is trained.
        side: a key of TRAINING.
        compiled: whether the network is compiled.

    Raises:
        RuntimeError: on a CPU, if the system is not Linux.
    """
    config, data = setting.config, setting.load_images()
    accelerator = start_accelerator(config)
    on_gpu = accelerator.device.type == "cuda"
    torch.ones(256, 256) @ torch.ones(256, 256)         # the libraries of the first product
    before = 0 if on_gpu else _reset_peak()
    samples, timeline = build_samples(config, data), Timeline.of(config.train)
    batches = load_micro_batches(samples, timeline, 0, 0, 1, config, accelerator.device)
    unet = setting.build_network(data, accelerator.device)
    step = TRAINING[side](Training(config, data, build_schedule(config), unet, accelerator, batches, compiled))
    del unet                                            # both sides have copies
    gc.collect()
    for _ in range(MEMORY_STEPS):
        step()
    return torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM") - before


def _reset_peak() -> int:
    """Let the peak of the resident memory be that of now, and return it in bytes."""
    if not STATUS.exists():
        raise RuntimeError("peak memory on CPUs is read from /proc, which only Linux has")
    Path("/proc/self/clear_refs").write_text("5")       # see proc(5); ru_maxrss includes that of the parent process
    return _resident("VmRSS")


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
