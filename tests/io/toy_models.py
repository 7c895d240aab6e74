"""Small models of random weights in the formats that scripts/convert.py reads, and helpers to run the scripts."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io.adm import build_on_meta_device, layout
from ddpm.io.adm_flags import Flags
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

Run = Callable[..., tuple[int, str, str]]


ROOT = Path(__file__).parents[2]
DIGITS = [str(i) for i in range(10)]
FLAGS = {           # of a model that fits scikit-learn's digits
    "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "num_heads": 2, "attention_resolutions": [4],
    "channel_mult": "1,2", "class_cond": True, "learn_sigma": True, "resblock_updown": True, "noise_schedule": "linear",
}
THEIRS = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8, "num_class_embeds": 3,
}
OURS = {
    "resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 10, "channels": 16, "channel_mult": (1, 2),
    "num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 16, "norm_groups": 4,
}
TRAIN = [
    "--train.steps", "2", "--train.batch_size", "4", "--sample.steps", "2", "--sample.per_class", "1",
    "--tracking.wandb", "off", "--data.workers", "0",
]


def converted(run: Run, *args: object) -> str:
    code, printed, complaint = run("convert", *args)
    assert code == 0, complaint
    return printed


def refused(run: Run, *args: object, script: str = "convert") -> str:
    code, printed, complaint = run(script, *args)
    assert code == 2 and printed == "" and complaint.count("\n") == 1 and complaint.endswith("\n"), complaint
    assert complaint.startswith(f"{script}.py: error: ")
    return complaint.removeprefix(f"{script}.py: error: ").removeprefix("--").rstrip("\n")


def write_reference(path: Path, **other: Any) -> Flags:
    """A file as the reference writes it, of random weights, and its flags."""
    flags = Flags.read({**FLAGS, **other})
    classes = 10 if flags.class_cond else None
    unet = build_on_meta_device(
        **flags.architecture(), in_channels=1, out_channels=1 + flags.learn_sigma, num_classes=classes
    )
    weights = {name: torch.empty(shape) for name, (_, shape) in layout(unet, flags.class_cond).items()}
    torch.save(random_weights(weights, seed=0), path)
    return flags


def write_theirs(folder: Path, **other: Any) -> UNet2DModel:
    model = random_weights(UNet2DModel(**{**THEIRS, **other}), seed=1).eval()
    model.save_pretrained(folder)
    return model


def write_scheduler(folder: Path, scheduler: Any) -> None:
    scheduler.save_pretrained(folder)


def ours(folder: Path, process: tuple[str, str] = ("cosine", "v"), **other: Any) -> Path:
    """A pipeline of random weights."""
    unet = random_weights(UNet(**{**OURS, **other}), seed=2)
    names = [f"class {i}" for i in range(unet.config.num_classes)]
    schedule = NoiseSchedule(SCHEDULES[process[0]](1000))
    ClassConditionalPipeline.from_parts(unet.eval(), schedule, process[1], names).save_pretrained(folder)
    return folder


def inputs(unet: UNet) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(100)
    size = unet.config.resolution
    x = torch.randn(3, unet.config.in_channels, size, size, generator=draws)
    rows = len(unet.class_embed.weight)
    return x, torch.tensor([0, 421, 999]), torch.tensor([0, rows - 1, rows // 2])


def assert_equal_outputs(unet: UNet, theirs: UNet2DModel, conditional: bool = True) -> None:
    x, t, y = inputs(unet)
    with torch.no_grad():
        a, b = unet(x, t, y).sample, theirs(x, t, **({"class_labels": y} if conditional else {})).sample
    # Relative to the largest: float32 sums in another order.
    assert float((a - b).abs().max() / b.abs().max()) < 1e-5 and b.std() > 1e-2


@torch.no_grad()
def random_weights(tensors: Any, seed: int) -> Any:
    """A module or a dict of tensors, filled with what leaves nothing at zero and keeps activations of order 1."""
    draws = torch.Generator().manual_seed(seed)
    for name, p in tensors.named_parameters() if isinstance(tensors, nn.Module) else tensors.items():
        if p.ndim > 1:
            p.normal_(generator=draws).div_(math.sqrt(p[0].numel()))
        else:
            gain = name.endswith("weight") and re.search(r"norm|in_layers\.0|out_layers\.0|out\.0", name)
            p.normal_(generator=draws).mul_(0.2).add_(1.0 if gain else 0.0)
    return tensors
