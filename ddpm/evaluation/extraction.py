"""What extractors have in common: which images they take, how they go through a network, and what identifies one."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

BATCH = 128         # images that go through a network at once


def checked(images: Tensor, *, channels: int | None = None, size: int | None = None) -> Tensor:
    """The images, if an extractor can take them.

    Args:
        images: uint8 (N, C, H, W).
        channels: the only C that is allowed; None for 1 and 3.
        size: the only H and W that are allowed; None for any.

    Raises:
        ValueError: if they are something else; one line that says what, and what to do.
    """
    if not isinstance(images, Tensor):
        raise ValueError(f"images: {type(images).__name__} is not a tensor; allowed is uint8 (N, C, H, W)")
    if images.dtype != torch.uint8:
        raise ValueError(f"images: {_content(images)}; allowed is uint8 from 0 to 255{_remedy(images)}")
    shape = tuple(images.shape)
    if images.ndim != 4:
        raise ValueError(f"images: of shape {shape}; allowed is (N, C, H, W)")
    allowed = (1, 3) if channels is None else (channels,)
    if shape[1] not in allowed:
        last = "; channels come second, permute(0, 3, 1, 2)" * (shape[3] in allowed)
        words = " or ".join(map(str, allowed))
        raise ValueError(f"images: {shape[1]} channels in shape {shape}; allowed: {words}{last}")
    if size is not None and shape[2:] != (size, size):
        raise ValueError(f"images: {shape[2]}x{shape[3]} pixels; this extractor reads {size}x{size} only")
    if 0 in shape[2:]:
        raise ValueError(f"images: of shape {shape}; at least one pixel is needed")
    return images


def _content(images: Tensor) -> str:
    """Dtype and range in words, or the first image that has none."""
    values = images.detach().flatten(1) if images.ndim > 1 else images.detach()[None]
    if values.numel() == 0 or images.is_complex():
        return f"{images.dtype} of shape {tuple(images.shape)}"
    bad = (~values.isfinite()).any(dim=1)
    if bad.any():
        at = int(bad.nonzero()[0])
        kind = "NaN" if values[at].isnan().any() else "infinity"
        return f"{images.dtype} with {kind} at image {at}"
    return f"{images.dtype} from {float(values.min()):.3g} to {float(values.max()):.3g}"


def _remedy(images: Tensor) -> str:
    if not images.is_floating_point() or images.numel() == 0 or not images.isfinite().all():
        return ""
    low, high = float(images.min()), float(images.max())
    if low >= 0:
        return "; multiply by 255, round, and make it uint8" if high <= 1 else "; round and make it uint8"
    return "; multiply by 127.5, add 127.5, round, clamp to 0..255, and make it uint8" if low >= -1.5 else ""


def in_batches(
    images: Tensor, device: torch.device, describe: Callable[[Tensor], tuple[Tensor, Tensor | None]], size: int = BATCH
) -> tuple[Tensor, Tensor | None]:
    """Features and logits of any number of images.

    Args:
        images: uint8 (N, C, H, W).
        device: where `describe` computes.
        describe: uint8 (B, C, H, W) -> features (B, D), and logits (B, K) or None.
        size: B, at most.

    Returns:
        float32 (N, D), and (N, K) or None, on the CPU.
    """
    found = []
    with torch.inference_mode():
        # Of no images, the empty batch says what D and K are.
        for start in range(0, max(1, len(images)), size):
            features, logits = describe(images[start : start + size].to(device))
            found.append((features.float().cpu(), None if logits is None else logits.float().cpu()))
    features, logits = zip(*found, strict=True)
    return torch.cat(features), None if logits[0] is None else torch.cat(logits)


def digest_of(recipe: str, weights: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256, in hexadecimal, of what is done to an image and of the weights that do it.

    Args:
        recipe: all that the weights do not say, such as the size that images are brought to.
        weights: a state dict.
    """
    digest = hashlib.sha256(recipe.encode())
    for name, values in sorted((weights or {}).items()):
        if isinstance(values, Tensor):
            digest.update(f"\0{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
            digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
