"""Finding and loading a model: a run directory, one of its checkpoints, or a pipeline."""

import sys
from pathlib import Path

import torch

from ddpm.atomic import MANIFEST, TRAINING_TENSORS, find_damage, json_digest, newest_intact
from ddpm.config.run_folders import is_run, name_near_runs
from ddpm.io.provenance import weights_digest
from ddpm.models.compilation import check_compiler, compilation_seconds, compile_network
from ddpm.pipeline import ClassConditionalPipeline


def locate(path: Path) -> Path:
    """Return the pipeline directory at a path: for a run its newest intact checkpoint, or `pipeline/` if there is none.

    Files that only training reads, three quarters of a checkpoint, are not examined.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    newest, damaged = newest_intact(path / "checkpoints", TRAINING_TENSORS)
    exported = path / "pipeline"
    used = newest or (exported if exported.is_dir() else None)
    for directory, problem in damaged.items():
        print(f"WARNING: {directory} is damaged ({problem}){f'; using {used}' if used else ''}", file=sys.stderr)
    if newest is not None:
        return newest
    if exported.is_dir():
        if not damaged:
            print(f"WARNING: {path} has no checkpoint; using {exported}", file=sys.stderr)
        return locate(exported)
    if damaged:
        raise ValueError(f"{path}: every checkpoint is damaged; restore one, or train again")
    if (path / "model_index.json").is_file():
        damage = find_damage(path, TRAINING_TENSORS) if (path / MANIFEST).is_file() else None
        if damage is not None:
            raise ValueError(f"{path}: damaged, {damage}")
        return path
    if is_run(path):
        raise ValueError(f"{path}: the run has no checkpoint yet; wait for the first, or train it to the end")
    problem = "no such directory" if not path.is_dir() else "contains neither checkpoints nor a pipeline"
    remedy = f"give a run directory, one of its checkpoints, or a pipeline{name_near_runs(path)}"
    raise ValueError(f"{path}: {problem}; {remedy}")


def load_pipeline(path: Path) -> ClassConditionalPipeline:
    """Load the pipeline that `locate` finds at a path.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    pipeline = ClassConditionalPipeline.from_pretrained(locate(path))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def compile_pipelines(device: torch.device, *pipelines: ClassConditionalPipeline | None) -> None:
    """Compile the networks of pipelines for `--compile`; on a GPU with CUDA graphs.

    Args:
        device: of the networks.
        pipelines: the pipelines; None is skipped.

    Raises:
        ValueError: if there is no compiler; names what to install.
    """
    check_compiler(device, "compile")
    for pipeline in pipelines:
        if pipeline is not None:
            compile_network(pipeline.unet, cuda_graphs=device.type == "cuda")


def describe_compilation() -> str:
    """Return how long compiling took, for the last lines of a command with `--compile`."""
    return f"compiling took {compilation_seconds():.0f} s"


def load_guide(directory: Path | None, device: torch.device) -> tuple[ClassConditionalPipeline | None, str | None]:
    """Load a guiding model; also return a digest of its weights and process. Both are None without a directory."""
    if directory is None:
        return None, None
    guide = load_pipeline(directory).to(device)
    return guide, json_digest([weights_digest(directory), process_digest(guide)], length=16)


def process_digest(pipeline: ClassConditionalPipeline) -> str:
    """Return a hash of what determines the samples except the weights: schedule, prediction type, architecture."""
    config = pipeline.unet.config.items()
    # Neither the path of the model nor the labels of augmentation, which samples do not have.
    network = {key: value for key, value in config if not key.startswith("_") and key != "augment_channels"}
    facts = [pipeline.schedule.betas.tolist(), pipeline.prediction, network, pipeline.class_names]
    return json_digest(facts, length=16)
