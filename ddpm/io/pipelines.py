"""Finding and loading a model: a run directory, one of its checkpoints, or a pipeline."""

import sys
from pathlib import Path

from ddpm.atomic import MANIFEST, digests, find_damage, newest_intact, sha256
from ddpm.pipeline import ClassConditionalPipeline


def locate(path: Path) -> Path:
    """Return the pipeline directory at a path; for a run, its newest intact checkpoint.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    newest, damaged = newest_intact(path / "checkpoints")
    for directory, problem in damaged.items():
        print(f"WARNING: {directory} is damaged ({problem}); using the previous checkpoint", file=sys.stderr)
    if newest is not None:
        return newest
    if (path / "pipeline").is_dir():
        print(f"WARNING: {path} has no intact checkpoint; using {path / 'pipeline'}", file=sys.stderr)
        return locate(path / "pipeline")
    if damaged:
        raise ValueError(f"{path}: every checkpoint is damaged; restore one, or train again")
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory; give a run directory, one of its checkpoints, or a pipeline")
    if (path / "model_index.json").is_file():
        damage = find_damage(path) if (path / MANIFEST).is_file() else None
        if damage is not None:
            raise ValueError(f"{path}: damaged, {damage}")
        return path
    raise ValueError(f"{path}: contains neither checkpoints nor a pipeline; has the run reached its first checkpoint?")


def load_pipeline(path: Path) -> ClassConditionalPipeline:
    """Load a run directory (its newest intact checkpoint), a checkpoint, or an exported pipeline.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    pipeline = ClassConditionalPipeline.from_pretrained(locate(path))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def weights_digest(directory: Path) -> str:
    """Return a SHA-256 that identifies the weights of a pipeline directory."""
    known = digests(directory)
    files = sorted((directory / "unet").glob("*.safetensors"))
    return "+".join(known.get(str(f.relative_to(directory))) or sha256(f) for f in files)
