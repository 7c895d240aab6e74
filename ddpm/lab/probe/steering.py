"""A denoiser that modulates some of its layers with the embedding of another timestep or class."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.diffusion.schedule import Denoiser, Prediction
from ddpm.evaluation.modulation import modulated_layers, projection_input_grid
from ddpm.models.norm import AdaptiveNorm
from ddpm.models.unet import UNet

# (t, labels) of a batch, (B,) and (B, ...) -> new input of each layer's projection, (B, D), by layer name
Inputs = Callable[[Tensor, Tensor], dict[str, Tensor]]

MEANS_OVER = ("class", "timestep", "all")


def steered(denoiser: Denoiser, unet: UNet, layers: Sequence[str], part: str, inputs: Inputs) -> Denoiser:
    """Wrap a denoiser so that the projections of some layers get another input.

    Args:
        denoiser: calls the U-Net once, with the batch that it gets (no guidance).
        unet: its U-Net.
        layers: names of the layers.
        part: the part that changes: "scale", "shift" or "both".
        inputs: returns the new inputs.
    """
    norms = {layer.name: layer.norm for layer in modulated_layers(unet) if layer.name in layers}

    def replace_output(norm: AdaptiveNorm, emb: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def hook(proj: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            assert emb.shape == args[0].shape, (emb.shape, args[0].shape)
            other, count = F.linear(emb, norm.proj.weight, norm.proj.bias), len(norm.modulation)
            chunks = zip(norm.modulation, output.chunk(count, dim=1), other.chunk(count, dim=1), strict=True)
            return torch.cat([new if part in (name, "both") else old for name, old, new in chunks], dim=1)

        return hook

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        embs = inputs(t, labels)
        with ExitStack() as hooks:
            for name, norm in norms.items():
                hooks.enter_context(norm.proj.register_forward_hook(replace_output(norm, embs[name])))
            return denoiser(x_t, t, labels)

    return denoise


def mean_inputs(unet: UNet, over: str, timesteps: Tensor, labels: Tensor) -> Inputs:
    """Return inputs for `steered` that replace scale and shift by their means.

    A projection is linear, so the mean of its inputs gives the mean of its outputs.

    Args:
        unet: the model.
        over: "class" (the mean over `labels` at each image's timestep), "timestep" (over `timesteps` for each image's
            label), or "all".
        timesteps: (T,).
        labels: ids (K,); labels of the batch must be ids too.
    """
    assert over in MEANS_OVER, over
    if over == "all":       # independent of the batch
        grid = projection_input_grid(unet, timesteps, labels)
        whole = {name: embs.mean(dim=(0, 1)) for name, embs in grid.items()}                                # (D,)
        return lambda t, own_labels: {name: mean.expand(len(t), -1) for name, mean in whole.items()}

    def inputs(t: Tensor, own_labels: Tensor) -> dict[str, Tensor]:
        values, row = (t if over == "class" else own_labels).unique(return_inverse=True)
        pairs, dim = ((values, labels), 1) if over == "class" else ((timesteps, values), 0)
        grid = projection_input_grid(unet, *pairs)
        means = {id(embs): embs.mean(dim=dim).view(-1, embs.shape[2])[row] for embs in grid.values()}       # (B, D)
        return {name: means[id(embs)] for name, embs in grid.items()}

    return inputs
