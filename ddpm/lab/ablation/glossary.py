"""Explains norms to readers who do not know the code."""

import inspect

from ddpm.models.norm import NORMS


def describe_norm(name: str) -> str:
    """Return the explanation of an entry of NORMS: the first paragraph of its docstring."""
    return " ".join((inspect.getdoc(NORMS[name]) or "").split("\n\n")[0].split())
