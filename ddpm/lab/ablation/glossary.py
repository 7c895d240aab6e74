"""Explains norms and metrics to readers who do not know the code."""

import inspect

from ddpm.models.norm import NORMS

_FEATURES = "features (numbers that a neural network computes from an image)"

# Explanation of each metric.
MEANINGS = {
    "denoising_error":
        "Real images, held out from training if possible, are mixed with noise at several fixed sigmas, and the model "
        "predicts the noise. This is the squared error of the prediction, averaged over sigmas, images and "
        "pixels: 0 is perfect, and 1 is the error of predicting 0. It equals the squared error of the image divided by "
        "the square of sigma.",
    "bits_per_dim":
        "Variational upper bound on the bits that the model needs for one channel of one pixel of real images.",
    "frechet_distance":
        f"Distance between the {_FEATURES} of generated and real images: the Fréchet distance of two Gaussians "
        "fitted to them. It increases with fewer images.",
    "frechet_distance_infinity":
        "The Fréchet distance extrapolated to infinitely many generated images. It may be negative.",
    "kernel_distance":
        f"Distance between the {_FEATURES} of generated and real images: the unbiased estimate of the squared "
        "maximum mean discrepancy, which is 0 on average for real images.",
    "precision": f"Fraction of generated images whose {_FEATURES} are close to those of a real image.",
    "recall": f"Fraction of real images whose {_FEATURES} are close to those of a generated image.",
    "density": "Like precision, but it counts the real images that are close, so it can exceed 1.",
    "coverage": "Fraction of real images with a generated image among their nearest neighbours.",
    "inception_score":
        "High if a classifier is confident about each generated image and predicts all classes equally often. It does "
        "not use real images.",
    "accuracy":
        "Fraction of generated images that a classifier, trained on real images, recognises as the requested class.",
    "memorised":
        "Fraction of generated images that are closer to a training image than 99 % of held-out real images are. It is "
        "1 % for a model that memorises nothing.",
}


def describe_norm(name: str) -> str:
    """Return the explanation of an entry of NORMS: the first paragraph of its docstring."""
    return " ".join(inspect.getdoc(NORMS[name]).split("\n\n")[0].split())
