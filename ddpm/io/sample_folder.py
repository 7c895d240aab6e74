"""The command scripts/sample.py: plans which images to generate, and generates them into a folder."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from ddpm.atomic import json_digest
from ddpm.config.commands import SampleCommand
from ddpm.config.sections import SampleConfig
from ddpm.diffusion.class_labels import NO_CLASS, Label, label_ids
from ddpm.diffusion.sampling import BetweenSeeds, Seed, plan_seeds
from ddpm.io.captions import describe_captions
from ddpm.io.image_formats import FORMATS, Request, check_formats
from ddpm.io.image_writer import write_samples
from ddpm.io.pipelines import (
    compile_pipelines,
    describe_compilation,
    load_guide,
    load_pipeline,
    locate,
    process_digest,
)
from ddpm.io.provenance import settings_on_record, weights_digest
from ddpm.names import lookup
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import broadcast_from_main, check_launch, check_same, first_on_main, join_processes


class SamplePlan(NamedTuple):
    """The images to generate, in order.

    Attributes:
        requests: their names.
        labels: in the pipeline's format.
        seeds: of their noise.
    """

    requests: list[Request]
    labels: Sequence[Label | Sequence[Label]]
    seeds: Sequence[Seed]


class Classes(NamedTuple):
    """The classes of a plan.

    Attributes:
        ids: in the requested order.
        names: of all classes of the model, and of the null class, which is the only one of a model without classes.
        per_class: rows or images of each class.
        seed: the j-th of class c has the seed `seed + j * number of classes + c`.
        resolutions: number of resolutions of the model.
    """

    ids: list[int]
    names: list[str]
    per_class: int
    seed: int
    resolutions: int

    @property
    def null(self) -> int:
        """Id of the null class, which equals the number of the other classes."""
        return len(self.names) - 1

    def label(self, class_id: int) -> int | None:
        """Return a class in the pipeline's format."""
        return None if class_id == self.null else class_id

    def seeds(self, class_id: int) -> list[int]:
        """Return the seeds of a class."""
        return plan_seeds([class_id], self.per_class, self.seed, self.null)[1]

    def describe(self, class_id: int) -> str:
        """Return the beginning of the name of a row; empty for a model without classes."""
        return f"{self.names[class_id]}, " if self.null else ""


def plan_classes(classes: Classes) -> SamplePlan:
    """Plan one row of images per class, all with different seeds."""
    asked = [(c, seed) for c in classes.ids for seed in classes.seeds(c)]
    requests = [Request(classes.names[c], f"seed{seed:06d}", -1 if c == classes.null else c, seed) for c, seed in asked]
    return SamplePlan(requests, [classes.label(c) for c, _ in asked], [seed for _, seed in asked])


def _plan_rows(rows: Sequence[tuple[str, Sequence[Label | Sequence[Label]], Sequence[Seed]]]) -> SamplePlan:
    """Plan rows of images without a class, given as names, labels and seeds."""
    requests = [
        Request(name, f"{i:03d}", -1, seed.start if isinstance(seed, BetweenSeeds) else seed)
        for name, _, seeds in rows
        for i, seed in enumerate(seeds)
    ]
    labels = [label for _, labels, _ in rows for label in labels]
    return SamplePlan(requests, labels, [seed for *_, seeds in rows for seed in seeds])


def plan_blends(classes: Classes, count: int) -> SamplePlan:
    """Plan rows that interpolate the class embedding from one class to the next, at a constant seed."""
    rows = []
    for a, b in _pairs(classes, "blend"):
        for seed in classes.seeds(a):
            first, last = classes.label(a), classes.label(b)
            blends: list[Label] = [{first: 1 - i / (count - 1), last: i / (count - 1)} for i in range(count)]
            rows.append((f"{classes.names[a]} to {classes.names[b]}, seed {seed}", blends, [seed] * count))
    return _plan_rows(rows)


def plan_walks(classes: Classes, count: int) -> SamplePlan:
    """Plan rows that interpolate the noise of one class from one of its seeds to the next."""
    rows = []
    for c in classes.ids:
        one_more = classes._replace(per_class=classes.per_class + 1)
        for start, end in pairwise(one_more.seeds(c)):
            walks = [BetweenSeeds(start, end, i / (count - 1)) for i in range(count)]
            rows.append((f"{classes.describe(c)}seed {start} to {end}", [classes.label(c)] * count, walks))
    return _plan_rows(rows)


def plan_swaps(classes: Classes) -> SamplePlan:
    """Plan rows at one seed in which the next class replaces the class at ever coarser resolutions."""
    rows = []
    for a, b in _pairs(classes, "swap"):
        for seed in classes.seeds(a):
            fine, coarse, resolutions = classes.label(b), classes.label(a), classes.resolutions
            depths = [[fine] * n + [coarse] * (resolutions - n) for n in range(resolutions + 1)]
            name = f"{classes.names[b]} fine, {classes.names[a]} coarse, seed {seed}"
            rows.append((name, depths, [seed] * len(depths)))
    return _plan_rows(rows)


def _pairs(classes: Classes, option: str) -> list[tuple[int, int]]:
    if classes.null == 0:
        raise ValueError(f"{option}: the model has no classes; use --walk N, which goes from one seed to the next")
    if len(classes.ids) < 2:
        raise ValueError(f"{option}: needs two classes or more; pass them as --classes A,B")
    return list(pairwise(classes.ids))


def sample_to_folder(command: SampleCommand, settings: SampleConfig) -> None:
    """Generate images into a folder with any number of processes; continue an interrupted command.

    Args:
        command: the model, the classes, and how the images differ within a row.
        settings: sampling options, and the number of images per class.

    Raises:
        ValueError: for a model that cannot be loaded, an unknown class, a setting that the model does not support, or
            a format that cannot store its images.
    """
    make_plan = plan_classes
    if command.blend:
        make_plan = partial(plan_blends, count=command.blend)
    elif command.walk:
        make_plan = partial(plan_walks, count=command.walk)
    elif command.swap:
        make_plan = plan_swaps
    processes = join_processes()
    check_launch(processes.num_processes, "sample.py")
    formats = [kind.strip() for kind in command.format.split(",")]
    for kind in formats:
        lookup(FORMATS, kind, "format")

    # One process finds the checkpoints for all, because training may write new ones meanwhile.
    directory, guide_directory = broadcast_from_main(
        processes, lambda: (locate(command.model), None if command.guide is None else locate(command.guide))
    )

    def prepare() -> tuple[SamplePlan, dict[str, Any], list[str], Callable[[list[int]], Tensor]]:
        pipeline = load_pipeline(directory).to(processes.device)
        batch_size = {"batch_size": settings.batch_size or pipeline.images_per_call}
        check_formats(formats, pipeline.unet.config.in_channels)
        guide, guide_digest = load_guide(guide_directory, processes.device)
        if command.compile:
            compile_pipelines(processes.device, pipeline, guide)
        plan = make_plan(_select_classes(pipeline, command.classes, settings))
        record = {
            "model": weights_digest(directory),
            "process": process_digest(pipeline),
            "guide": guide_digest,
            **settings_on_record({**dataclasses.asdict(settings), **batch_size, "compile": command.compile}),
        }
        labels, options = pipeline.labels(plan.labels), settings.sampling_options() | batch_size
        return plan, record, pipeline.class_names, pipeline.make_draw_batch(labels, plan.seeds, guide=guide, **options)

    plan, record, names, draw = first_on_main(processes, prepare)
    check_same(processes, {"model": [record["model"], record["process"]], "guide": record["guide"]})
    digest = json_digest([record, plan.requests, formats], length=6)
    out = command.out or command.model / "samples" / f"{settings.sampler}{settings.steps}-{digest}"
    grid = write_samples(out, plan.requests, draw, record["batch_size"], names, record, formats)
    if processes.is_main_process:
        print(f"{len(plan.requests)} images in {out}; overview: {grid}")
        if command.compile:
            print(describe_compilation())
        if (shown := describe_captions(names)) is not None:
            print(shown)


def _select_classes(pipeline: ClassConditionalPipeline, classes: str | None, settings: SampleConfig) -> Classes:
    names: list[str] = pipeline.class_names
    listed: Sequence[str | int] = range(len(names)) or [NO_CLASS]         # of an unconditional model
    if classes is not None:
        listed = [c.strip() for c in classes.split(",") if c.strip()]
    ids = list(dict.fromkeys(label_ids(listed, names, pipeline.unet.null_label)))
    resolutions = len(pipeline.unet.config.channel_mult)
    return Classes(ids, [*names, NO_CLASS], settings.per_class, settings.seed, resolutions)
