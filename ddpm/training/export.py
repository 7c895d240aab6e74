"""What a complete run gives: RUN/pipeline, the averaged model with its card."""

from pathlib import Path

from ddpm.atomic import digests, write_directory_atomically
from ddpm.io.card import write_card
from ddpm.pipeline import ClassConditionalPipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def export(run: Path, step: int, pipeline: ClassConditionalPipeline) -> Path:
    """Publishes the averaged model of a complete run, unless that is done.

    Args:
        run: the run directory.
        step: its last; there is a checkpoint of it.
        pipeline: holds the averaged model.

    Returns:
        Path of the pipeline directory.

    Raises:
        OSError: if it cannot be written.
    """
    target, checkpoint = run / "pipeline", run / "checkpoints" / f"step_{step:08d}"

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        write_card(folder, run)

    if digests(target).get(WEIGHTS) != digests(checkpoint).get(WEIGHTS):
        write_directory_atomically(target, fill)
    return target
