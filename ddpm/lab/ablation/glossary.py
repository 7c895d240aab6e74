"""What the names of norms and figures mean, for somebody who has never met the code."""

import inspect

from ddpm.models.norm import NORMS

_FEATURES = "features (numbers by which a classifier describes an image)"

# Figure -> what it is.
MEANINGS = {
    "denoising_error":
        "Real images, new to the model where there are any, are mixed with noise at several fixed levels, and the "
        "model says what the noise was. The squared error of that, averaged over levels, images and pixels: 0 is "
        "perfect, and 1 is what a network gets that says nothing. It is the squared error of the image divided by the "
        "square of the noise level.",
    "bits_per_dim":
        "How many bits the model needs at most to store one colour of one pixel of real images (variational bound).",
    "frechet_distance":
        f"How far the {_FEATURES} of drawn images are from those of real ones: the distance of two Gaussians fitted to "
        "them. It is larger the fewer images there are.",
    "frechet_distance_infinity":
        "The Fréchet distance that infinitely many drawn images would have, extrapolated. It may be below 0.",
    "kernel_distance":
        f"How far the {_FEATURES} of drawn images are from those of real ones: squared maximum mean discrepancy, "
        "unbiased, so that real images get 0 on average.",
    "precision": f"Share of drawn images whose {_FEATURES} lie where real images are.",
    "recall": f"Share of real images whose {_FEATURES} lie where drawn images are.",
    "density": "As precision, but it counts how many real images are near, so it can be above 1.",
    "coverage": "Share of real images that have a drawn one among their neighbours.",
    "inception_score":
        "Whether a classifier is sure of each drawn image and sees all classes equally often. It knows no real images.",
    "accuracy":
        "Share of drawn images that a classifier, trained on real ones, reads as the class that was asked for.",
    "memorised":
        "Share of drawn images that are nearer to a training image than 99 % of new real images are. A model that "
        "remembers no single image has 1 %.",
}


def of_norm(name: str) -> str:
    """What an entry of NORMS is: the first paragraph of its docstring."""
    return " ".join(inspect.getdoc(NORMS[name]).split("\n\n")[0].split())
