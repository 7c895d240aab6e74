"""Class-conditional diffusion with adaptive group normalization."""

__version__ = "0.1.0"
