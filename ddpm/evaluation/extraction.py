"""What all extractors share: validation of their input, batching, and a digest that identifies an extractor."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

BATCH = 128         # images per forward pass


def check_images(images: Tensor, *, channels: int | None = None, size: int | None = None) -> Tensor:
    """Return the images if an extractor can process them.

    Args:
        images: uint8 (N, C, H, W).
        channels: the only allowed C; None for 1 and 3.
        size: the only allowed H and W; None for any.

    Raises:
        ValueError: if they are anything else; the message says how to convert them.
    """
    if not isinstance(images, Tensor):
        raise ValueError(f"images: {type(images).__name__} is not a tensor; allowed is uint8 (N, C, H, W)")
    if images.dtype != torch.uint8:
        raise ValueError(f"images: {images.dtype}; allowed is uint8 from 0 to 255: scale the values, round and convert")
    shape = tuple(images.shape)
    if images.ndim != 4 or 0 in shape[2:]:
        raise ValueError(f"images: shape {shape}; allowed is (N, C, H, W) with one pixel or more")
    allowed = (1, 3) if channels is None else (channels,)
    if shape[1] not in allowed:
        hint = "; channels come second, permute(0, 3, 1, 2)" * (shape[3] in allowed)
        choices = " or ".join(map(str, allowed))
        raise ValueError(f"images: {shape[1]} channels in shape {shape}; allowed: {choices}{hint}")
    if size is not None and shape[2:] != (size, size):
        raise ValueError(f"images: {shape[2]}x{shape[3]} pixels; this extractor requires {size}x{size}")
    return images


def extract_in_batches(
    images: Tensor, device: torch.device, extract: Callable[[Tensor], tuple[Tensor, Tensor | None]], size: int = BATCH
) -> tuple[Tensor, Tensor | None]:
    """Return features and logits of any number of images.

    Args:
        images: uint8 (N, C, H, W).
        device: where `extract` computes.
        extract: uint8 (B, C, H, W) -> features (B, D), and logits (B, K) or None.
        size: maximum B.

    Returns:
        float32 (N, D), and (N, K) or None, on the CPU.
    """
    found = []
    with torch.inference_mode():
        # Without images, one empty batch gives D and K.
        for start in range(0, max(1, len(images)), size):
            features, logits = extract(images[start : start + size].to(device))
            found.append((features.float().cpu(), None if logits is None else logits.float().cpu()))
    features, logits = zip(*found, strict=True)
    return torch.cat(features), None if logits[0] is None else torch.cat(logits)


def extractor_digest(recipe: str, weights: Mapping[str, Tensor] | None = None) -> str:
    """Return the SHA-256, in hexadecimal, of an extractor's weights and of how it processes images.

    Args:
        recipe: everything that the weights do not determine, such as the size to which images are resized.
        weights: a state dict.
    """
    digest = hashlib.sha256(recipe.encode())
    for name, values in sorted((weights or {}).items()):
        if isinstance(values, Tensor):
            digest.update(f"\0{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
            digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
