"""What a result was produced with: the weights, the versions of packages, and the commit of the code."""

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from ddpm import __version__
from ddpm.atomic import digests, sha256


def weights_digest(directory: Path) -> str:
    """Return a SHA-256 that identifies the weights of a pipeline directory, from its manifest if it has one."""
    found = digests(directory) or {f"unet/{f.name}": sha256(f) for f in (directory / "unet").glob("*.safetensors")}
    return "+".join(found[name] for name in sorted(found) if re.fullmatch(r"unet/.*\.safetensors", name))


def versions() -> dict[str, str]:
    """Return the versions of all packages that a result may depend on."""
    packages = {name: version(name) for name in ("diffusers", "accelerate")}
    return {"adagn-ddpm": __version__, "python": platform.python_version(), "torch": torch.__version__, **packages}


def git_commit() -> str | None:
    """Return the commit of the code, with `+changes` if the working tree differs; None outside a repository."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
