"""Labeled images from disk, from the Hugging Face Hub or from scikit-learn, as uint8 tensors."""

from ddpm.data.images import ImageData
from ddpm.data.loading import load_data
from ddpm.data.sources.kinds import DATASETS

__all__ = ["DATASETS", "ImageData", "load_data"]
