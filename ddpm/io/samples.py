"""What scripts/sample.py does: a plan of which images, and their drawing into a folder."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ddpm.config.sections import SampleConfig
from ddpm.diffusion.class_labels import Label, label_ids
from ddpm.diffusion.sampling import Seed, Walk, plan_seeds
from ddpm.io.drawing import write_samples
from ddpm.io.formats import FORMATS, Request
from ddpm.io.pipelines import load_pipeline, locate, weights_digest
from ddpm.names import lookup
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.processes import check_launch, first_on_main, join_processes


class Plan(NamedTuple):
    """Images that are asked for, in order.

    Attributes:
        requests: how each is called.
        labels: what each shows, as the pipeline takes them.
        seeds: of each.
    """

    requests: list[Request]
    labels: list[Label | list[Label]]
    seeds: list[Seed]


class Classes(NamedTuple):
    """The classes that a plan is about.

    Attributes:
        ids: in the order in which they were asked for.
        names: of all classes of the model, and of the null class.
        per_class: rows, or images, of each.
        seed: the j-th of class c has the seed `seed + j * number of classes + c`.
        levels: number of resolutions of the model.
    """

    ids: list[int]
    names: list[str]
    per_class: int
    seed: int
    levels: int

    @property
    def null(self) -> int:
        """Id of the null class, and number of the others."""
        return len(self.names) - 1

    def label(self, class_id: int) -> int | None:
        """A class as the pipeline takes it."""
        return None if class_id == self.null else class_id

    def seeds(self, class_id: int) -> list[int]:
        """Seeds of a class."""
        return plan_seeds([class_id], self.per_class, self.seed, max(1, self.null))[1]


def by_class(asked: Classes) -> Plan:
    """Images of each class, all with seeds of their own; a row for each class."""
    requests, labels, seeds = [], [], []
    for c in asked.ids:
        for seed in asked.seeds(c):
            requests.append(Request(asked.names[c], f"seed{seed:06d}", -1 if c == asked.null else c, seed))
            labels.append(asked.label(c))
            seeds.append(seed)
    return Plan(requests, labels, seeds)


def _rows(rows: list[tuple[str, list[Label | list[Label]], list[Seed]]]) -> Plan:
    requests = [
        Request(name, f"{i:03d}", -1, seed.start if isinstance(seed, Walk) else seed)
        for name, _, seeds in rows
        for i, seed in enumerate(seeds)
    ]
    labels = [label for _, labels, _ in rows for label in labels]
    return Plan(requests, labels, [seed for *_, seeds in rows for seed in seeds])


def blended(asked: Classes, count: int) -> Plan:
    """Rows from one class to the next at one seed, the weight moving from one class embedding to the other."""
    rows = []
    for a, b in _pairs(asked, "blend"):
        for seed in asked.seeds(a):
            blends = [{asked.label(a): 1 - i / (count - 1), asked.label(b): i / (count - 1)} for i in range(count)]
            rows.append((f"{asked.names[a]} to {asked.names[b]}, seed {seed}", blends, [seed] * count))
    return _rows(rows)


def walked(asked: Classes, count: int) -> Plan:
    """Rows of one class from one of its seeds to its next."""
    rows = []
    for c in asked.ids:
        one_more = asked._replace(per_class=asked.per_class + 1)
        for start, end in pairwise(one_more.seeds(c)):
            walks = [Walk(start, end, i / (count - 1)) for i in range(count)]
            rows.append((f"{asked.names[c]}, seed {start} to {end}", [asked.label(c)] * count, walks))
    return _rows(rows)


def swapped(asked: Classes) -> Plan:
    """Rows from one class to the next at one seed, which takes over level by level, from the finest to the coarsest."""
    rows = []
    for a, b in _pairs(asked, "swap"):
        for seed in asked.seeds(a):
            depths = [[asked.label(b)] * n + [asked.label(a)] * (asked.levels - n) for n in range(asked.levels + 1)]
            name = f"{asked.names[b]} fine, {asked.names[a]} coarse, seed {seed}"
            rows.append((name, depths, [seed] * len(depths)))
    return _rows(rows)


def _pairs(asked: Classes, option: str) -> list[tuple[int, int]]:
    if len(asked.ids) < 2:
        raise ValueError(f"{option}: needs two classes or more; give them as --classes A,B")
    return list(pairwise(asked.ids))


def sample_to_folder(
    model: Path,
    classes: str | None,
    settings: SampleConfig,
    out: Path | None,
    formats: str = "png",
    guide: Path | None = None,
    blend: int | None = None,
    walk: int | None = None,
    swap: bool = False,
) -> None:
    """Draws images into a folder, over any number of processes; goes on where it was interrupted.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline.
        classes: names or ids, separated by commas; None means all, and `none` the null class.
        settings: how to draw, and how many of each class.
        out: the folder; one of its own inside the model unless given.
        formats: entries of FORMATS, separated by commas.
        guide: a weaker model for autoguidance, as `model`.
        blend: so many images from each class to the next.
        walk: so many images from each seed to the next.
        swap: rows in which one class takes over from another level by level.

    Raises:
        ValueError: for a model that cannot be loaded, an unknown class, or a setting that does not fit the model.
    """
    make_plan = by_class
    if blend:
        make_plan = partial(blended, count=blend)
    elif walk:
        make_plan = partial(walked, count=walk)
    elif swap:
        make_plan = swapped
    processes = join_processes(timedelta(hours=12))
    check_launch(processes.num_processes, "sample.py")
    kinds = [kind.strip() for kind in formats.split(",")]
    for kind in kinds:
        lookup(FORMATS, kind, "format")

    def prepare() -> tuple[Plan, dict, list[str], Callable[[list[int]], Tensor]]:
        directory = locate(model)
        pipeline = load_pipeline(directory).to(processes.device)
        other = None if guide is None else load_pipeline(guide).to(processes.device)
        plan = make_plan(_asked(pipeline, classes, settings))
        record = {
            "model": weights_digest(directory),
            "process": process_digest(pipeline),
            "guide": None if guide is None else weights_digest(locate(guide)),
            **dataclasses.asdict(settings),
        }
        draw = pipeline.drawer(pipeline.labels(plan.labels), plan.seeds, guide=other, **settings.drawing())
        return plan, record, pipeline.class_names, draw

    plan, record, names, draw = first_on_main(processes, prepare)
    if out is None:
        identity = hashlib.sha256(json.dumps([record, plan.requests, kinds]).encode()).hexdigest()
        out = model / "samples" / f"{settings.sampler}{settings.steps}-{identity[:6]}"
    grid = write_samples(out, plan.requests, draw, settings.batch_size, names, record, kinds)
    if processes.is_main_process:
        print(f"{len(plan.requests)} images in {out}; all together: {grid}")


# Options of the U-Net that came after its first release: at these values they change nothing, and do not count.
ADDED = {"conditioning": "both", "conditioned_depths": "all", "emb_channels": None}


def process_digest(pipeline: ClassConditionalPipeline) -> str:
    """Of what decides beside the weights what they draw: the schedule, the prediction, the architecture."""
    config = pipeline.unet.config
    network = {key: config[key] for key in config if not key.startswith("_")}       # not its path
    network = {key: value for key, value in network.items() if key not in ADDED or value != ADDED[key]}
    facts = [pipeline.schedule.betas.tolist(), pipeline.prediction, network, pipeline.class_names]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


def _asked(pipeline: ClassConditionalPipeline, classes: str | None, settings: SampleConfig) -> Classes:
    names, null_label = pipeline.class_names, pipeline.unet.null_label
    listed: Sequence[str | int]
    listed = range(len(names)) if classes is None else [c.strip() for c in classes.split(",") if c.strip()]
    if classes is None and not names:
        listed = ["none"]           # an unconditional model
    ids = list(dict.fromkeys(label_ids(listed, names, null_label)))
    levels = len(pipeline.unet.config.channel_mult)
    return Classes(ids, [*names, "none"], settings.per_class, settings.seed, levels)
