"""A denoiser that modulates some of its layers with the embedding of another timestep or class."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.diffusion.schedule import Denoiser, Prediction
from ddpm.evaluation.modulation import modulated_layers, projection_inputs
from ddpm.models.unet import UNet

# (t, labels) of a batch, (B,) and (B, ...) -> new input of each layer's projection, (B, D), by layer name
Inputs = Callable[[Tensor, Tensor], dict[str, Tensor]]

OVERS = ("class", "timestep", "all")


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

    def hook(name: str, given: Tensor) -> Callable[[torch.nn.Module, tuple[Tensor], Tensor], Tensor]:
        def replace(proj: torch.nn.Module, own: tuple[Tensor], output: Tensor) -> Tensor:
            assert given.shape == own[0].shape, (given.shape, own[0].shape)
            other = F.linear(given, proj.weight, proj.bias)
            if part == "both":
                return other
            parts = norms[name].modulation
            chosen = [new if kind == part else old for kind, new, old in _chunks(parts, other, output)]
            return torch.cat(chosen, dim=1)

        return replace

    @contextmanager
    def replaced(given: dict[str, Tensor]) -> Iterator[None]:
        handles = [norm.proj.register_forward_hook(hook(name, given[name])) for name, norm in norms.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        with replaced(inputs(t, labels)):
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
    assert over in OVERS, over
    if over == "all":       # independent of the batch
        whole = {name: embs.mean(dim=(0, 1)) for name, embs in _grid(unet, timesteps, labels).items()}      # (D,)
        return lambda t, own_labels: {name: mean.expand(len(t), -1) for name, mean in whole.items()}

    def inputs(t: Tensor, own_labels: Tensor) -> dict[str, Tensor]:
        rows = own_labels if over == "timestep" else t
        values, row = rows.unique(return_inverse=True)
        if over == "class":
            grid, dim = _grid(unet, values, labels), 1
        else:
            grid, dim = _grid(unet, timesteps, values), 0
        means = {id(embs): embs.mean(dim=dim).view(-1, embs.shape[2])[row] for embs in grid.values()}       # (B, D)
        return {name: means[id(embs)] for name, embs in grid.items()}

    return inputs


def _grid(unet: UNet, timesteps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the inputs of all projections at all pairs, (T, K, D); layers with the same input share one tensor."""
    T, K = len(timesteps), len(labels)
    found = projection_inputs(unet, timesteps.repeat_interleave(K), labels.repeat(T))
    grids = {id(embs): embs.view(T, K, -1) for embs in found.values()}
    return {name: grids[id(embs)] for name, embs in found.items()}


def _chunks(parts: tuple[str, ...], *outputs: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    return zip(parts, *(output.chunk(len(parts), dim=1) for output in outputs), strict=True)
