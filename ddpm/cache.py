"""The folder of what is computed once and used again: decoded images, reference classifiers, features."""

import os
from pathlib import Path

SHARE_CACHE = "set the environment variable DDPM_CACHE to a folder that all machines share"


def cache_directory() -> Path:
    """Return the folder of the cache: DDPM_CACHE, or a folder in the user's cache."""
    if named := os.environ.get("DDPM_CACHE"):
        return Path(named)
    # Accounts of containers may have no home, which `Path.home` does not accept.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache") / "adagn-ddpm"
