"""Batching of images for extractors, a digest that identifies an extractor, and its errors in one line."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

EXTRACTION_BATCH_SIZE = 128


def extract_in_batches(
    images: Tensor,
    device: torch.device,
    extract: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    size: int = EXTRACTION_BATCH_SIZE,
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
    assert images.dtype == torch.uint8 and images.ndim == 4
    with torch.inference_mode():
        # Without images, one empty batch gives D and K.
        found = [extract(batch.to(device)) for batch in images.split(size)]
    features = torch.cat([features.float().cpu() for features, _ in found])
    logits = [logits.float().cpu() for _, logits in found if logits is not None]
    return features, torch.cat(logits) if logits else None


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


def without_classes(channels: int) -> tuple[str, ...]:
    """Return the extractors that need no classes and take images with this number of channels."""
    return ("inception", "dinov2") if channels in (1, 3) else ("your own package.module:Name",)


def one_line(problem: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(problem).__name__}: {problem}".partition("\n")[0]
