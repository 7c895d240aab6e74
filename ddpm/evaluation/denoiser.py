"""What is measured on the denoiser itself: its error, and its variational bound."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from ddpm.config.commands import EvaluateCommand
from ddpm.evaluation.feature_cache import Rows, some_places, tabulate
from ddpm.evaluation.likelihood import (
    bits_per_dim,
    bound_curve,
    bound_terms,
    denoising_curve,
    denoising_error,
    denoising_errors,
    error_timesteps,
)
from ddpm.evaluation.setup import OF_THE_DENOISER, Bench

IMAGES_PER_CALL = 16    # whose errors are computed at a time


def measure_denoiser(command: EvaluateCommand, bench: Bench, out: Path, processes: PartialState) -> dict[str, Any]:
    """The denoising error and the bound, of held-out images where there are any and else of the reference's."""
    pipeline = bench.subject.pipeline
    wanted = [name for name in OF_THE_DENOISER if name in bench.metrics]
    if pipeline is None or not wanted:
        return {}
    data = bench.data if bench.held_out is None else bench.held_out
    places = some_places(len(data), min(len(data), command.bound_images))
    images = {"count": len(places), "held_out": bench.held_out is not None}
    schedule, found = pipeline.schedule, {"images": images, "figures": {}}
    timesteps = error_timesteps(schedule)
    steps = min(command.bound_steps, schedule.num_timesteps)

    def errors(images: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        return denoising_errors(pipeline.denoiser(clip=False), schedule, images, labels, places, timesteps, seed=0)

    def terms(images: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        return bound_terms(pipeline.denoiser(), schedule, images, labels, places, steps, seed=0)

    def rows(name: str, measure: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Rows:
        def compute(some: list[int]) -> dict[str, Tensor]:
            images, classes = data.__getitems__(places[some])
            labels = pipeline.labels([data.class_names[c] if pipeline.class_names else None for c in classes.tolist()])
            move = [x.to(processes.device) for x in (images, labels, places[some])]
            return {name: measure(*move).cpu()}

        return tabulate(out / name, len(places), IMAGES_PER_CALL, compute, processes, OF_THE_DENOISER[name])[name]

    if "denoising" in wanted:
        table = rows("denoising", errors)
        curve = denoising_curve(table, schedule, timesteps)
        found["denoising"] = [point._asdict() for point in curve]
        found["figures"]["denoising_error"] = denoising_error(table, curve)
    if "bits_per_dim" in wanted:
        bound = rows("bits_per_dim", terms)
        found["figures"]["bits_per_dim"] = bits_per_dim(bound)
        found["bound"] = [part._asdict() for part in bound_curve(bound, schedule)]
    return found
