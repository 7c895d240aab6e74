"""Fine-tuning a trained model on other data: the options that it requires, and the weights that are kept."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddpm.config.changes import ARCHITECTURE
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline


def training_options(pipeline: ClassConditionalPipeline) -> dict[str, Any]:
    """Return the options of scripts/train.py that a model's weights depend on, with the values it was trained with.

    Raises:
        ValueError: if its noise schedule is not an entry of SCHEDULES.
    """
    config = pipeline.unet.config
    schedule, zero_terminal_snr = schedule_name(pipeline.schedule)
    return {
        "data.resolution": config.resolution,
        "data.channels": config.in_channels,
        "diffusion.schedule": schedule,
        "diffusion.num_timesteps": pipeline.schedule.num_timesteps,
        "diffusion.zero_terminal_snr": zero_terminal_snr,
        "diffusion.prediction": pipeline.prediction,
        "diffusion.learned_variance": config.out_channels == 2 * config.in_channels,
    }


def architecture_options(folder: Path) -> dict[str, Any]:
    """Return the options of scripts/train.py that describe the network of a pipeline directory."""
    network = UNet.load_config(folder, subfolder="unet")
    defaults = {f"model.{name}": parameter.default for name, parameter in signature(UNet).parameters.items()}
    return {option: network.get(option.removeprefix("model."), defaults[option]) for option in ARCHITECTURE}


def schedule_name(schedule: NoiseSchedule) -> tuple[str, bool]:
    """Return the entry of SCHEDULES that a noise schedule equals, and whether it is rescaled to zero terminal SNR.

    Raises:
        ValueError: if it equals none.
    """
    for name, make in SCHEDULES.items():
        betas = make(schedule.num_timesteps)
        for rescaled in (False, True):
            named = NoiseSchedule(with_zero_terminal_snr(betas) if rescaled else betas)
            # diffusers computes schedules in float32; accumulated rounding reaches 1e-5 of the smallest value.
            if torch.allclose(named.alphas_cumprod, schedule.alphas_cumprod, rtol=1e-4, atol=1e-7):
                return name, rescaled
    raise ValueError(f"the noise schedule of {schedule.num_timesteps} steps is not one of {', '.join(SCHEDULES)}")


def adapt_pretrained(
    pipeline: ClassConditionalPipeline,
    class_names: Sequence[str],
    null_class: bool,
    dropout: float,
    seed: int,
    augment_channels: int = 0,
) -> UNet:
    """Build a UNet for other classes with the architecture and weights of a trained one.

    Class embeddings are copied for classes of equal names and for the null class; the others are new. The projection of
    augmentation labels starts at zero, so that the model is at first the trained one for augmented images too. Where
    neither timestep nor class reaches the norms, it has its usual initial values, because zero times the zeros of their
    projections has no gradient; there it has no effect before these are trained.

    Args:
        pipeline: contains the trained model, which is not changed.
        class_names: of the new model, in the order of ids.
        null_class: whether the new model has a null class.
        dropout: probability in the residual blocks.
        seed: for the new class embeddings and the projection of augmentation labels.
        augment_channels: channels of the labels of augmentation; 0 for none.
    """
    trained = pipeline.unet
    config = {name: value for name, value in trained.config.items() if not name.startswith("_")}
    config |= {"num_classes": len(class_names), "null_class": null_class, "dropout": dropout, "seed": seed}
    config["augment_channels"] = augment_channels
    config["emb_channels"] = trained.class_embed.embedding_dim      # its default depends on the number of classes
    unet = UNet(**config)
    weights = trained.state_dict()
    known = {name: row for row, name in enumerate(pipeline.class_names)}
    rows = {new: known[name] for new, name in enumerate(class_names) if name in known}
    if null_class and trained.null_label is not None:
        rows[unet.null_label] = trained.null_label
    table = unet.class_embed.weight.detach().clone()
    table[[*rows]] = weights["class_embed.weight"][[*rows.values()]]
    conditioning = CONDITIONINGS[unet.config.conditioning]
    if augment_channels > 0 and (conditioning.timestep or conditioning.classes):
        nn.init.zeros_(unet.augment_embed.weight)
    unet.load_state_dict({**unet.state_dict(), **weights, "class_embed.weight": table})
    return unet
