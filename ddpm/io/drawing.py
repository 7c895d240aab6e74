"""Drawn images as files: folders of PNGs, parquet, one .npz; by any number of processes, and resumable.

The unit of work is a batch. It is drawn whole, whatever of it is there already, so that its pixels do not depend on
where an earlier command stopped; and it is kept at once, as PNGs where these are wanted and under `.parts` otherwise.
The other formats, and the grid, are made from what is kept. Every file gets its name when it is whole, so that what was
killed at any moment goes on from the files that are there, over as many processes as there are then.

    out/samples.json                    what the images are: written first, compared when going on
    out/CLASS/seed000007.png            format png
    out/samples-00000-of-00010.parquet  format parquet
    out/samples.npz                     format npz
    out/grid.png                        some images of each row; the last to be written
    out/.parts/00000.npy                batches that are drawn, until the files above are made of them
    out/.lock                           held while a command writes
"""

import fcntl
import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ddpm.atomic import atomic_write
from ddpm.io.formats import FORMATS, BatchFormat, Format, Parts, Plan, Read, Request
from ddpm.io.pictures import labelled_grid
from ddpm.names import lookup
from ddpm.processes import InUse, acquired, all_together, first_on_main, join_processes, on_main

GRID_COLUMNS = 50               # a grid shows so many images of a row at most,
GRID_ROWS = 32                  # so many rows,
GRID_PIXELS = 2**26             # and about so many pixels, which Pillow and browsers still open


def write_samples(
    out: Path,
    requests: Sequence[Request],
    draw: Callable[[list[int]], Tensor],
    batch_size: int,
    class_names: Sequence[str],
    record: dict[str, Any],
    formats: Sequence[str] = ("png",),
) -> Path:
    """Draws images, each process its share, and writes them; goes on where an earlier call with the same was ended.

    Memory does not grow with the number of images. The j-th batch that is missing belongs to process j % n.

    Args:
        out: folder, made if it does not exist; see the top of this file for what it gets.
        requests: the images, at least one.
        draw: places in `requests`, those of a whole batch -> uint8 (len, C, H, W) on the CPU; the same for the same.
        batch_size: places per call of `draw`; the last batch has what is left.
        class_names: in the order of ids.
        record: JSON-able facts that identify what `draw` does: model, settings, ...; kept in samples.json beside
            `count`, `batch_size`, `formats` and `requests` (a digest), which take precedence over facts of these names.
        formats: entries of FORMATS.

    Returns:
        Path of the grid.

    Raises:
        ValueError: if a format is unknown or has no place for images without a class, if two images would be one file,
            or if the folder holds other images or is in use by another command.
        OSError: if a file cannot be written; names it.
    """
    state = join_processes()
    plan, grid = Plan(out, requests, batch_size, class_names), out / "grid.png"
    on_main(state, lambda: _check(plan, formats))
    wanted = [name for name in FORMATS if name in formats]
    with _held(out, state):
        on_main(state, lambda: _begin(plan, record, wanted))
        files = [FORMATS[name](plan) for name in wanted]
        parts = Parts(plan)
        store = next((kind for kind in files if isinstance(kind, BatchFormat)), parts)
        work = broadcast_object_list([on_main(state, lambda: _missing(plan, files, store))])[0]
        _draw(plan, work, draw, files, store, state)
        state.wait_for_everyone()

        def read(batch: int) -> Tensor:
            return next(kind for kind in (store, *files) if kind.has(batch)).read(batch)

        def complete() -> None:
            for kind in files:
                if kind is not store:
                    kind.complete(read, (state.process_index, state.num_processes))

        def finish() -> None:
            if not grid.exists():
                with atomic_write(grid) as file:
                    _grid(plan, read).save(file, "PNG")
            parts.remove()

        all_together(state, complete)
        on_main(state, finish)
    return grid


def _check(plan: Plan, formats: Sequence[str]) -> None:
    chosen = {name: lookup(FORMATS, name, "format") for name in formats}
    if not chosen:
        raise ValueError(f"format: none is named; allowed are {', '.join(FORMATS)}")
    if not plan.requests:
        raise ValueError("no images are asked for; ask for one or more of a class")
    classless = next((request.row for request in plan.requests if request.label < 0), None)
    for name, kind in chosen.items():
        if kind.needs_classes and classless is not None:
            able = ", ".join(name for name, kind in FORMATS.items() if not kind.needs_classes)
            raise ValueError(
                f"format: {name} keeps the class of each image, and those of {classless!r} have none; allowed is {able}"
            )
    name, times = max(Counter(plan.class_names).items(), key=lambda item: item[1], default=("", 0))
    if "parquet" in chosen and times > 1:
        raise ValueError(f"format: parquet needs distinct class names, and {times} are {name!r}; leave parquet out")
    seen = set()
    for request in plan.requests:
        assert Path(request.file).name == request.file and -1 <= request.label < len(plan.class_names), request
        if (request.row, request.file) in seen:
            raise ValueError(f"{request.row!r} {request.file} is asked for twice; ask for each image once")
        seen.add((request.row, request.file))


@contextmanager
def _held(out: Path, state: PartialState) -> Iterator[None]:
    """Keeps other commands out of a folder while any process of this one lives, the main one or another."""

    def hold() -> IO[str]:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a+")
        # Alone at first, and then together: the kernel ends a lock with its process, however that ends.
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH) if state.is_main_process else (fcntl.LOCK_SH,):
            if not acquired(lock, kind):
                lock.seek(0)
                holders = ", ".join(lock.read().split("\n")[:-1]) or "another process"
                raise InUse(f"{out}: in use by {holders}; wait for it, or name another folder with --out")
            if kind == fcntl.LOCK_EX:
                lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        return lock

    with first_on_main(state, hold):
        yield


def _begin(plan: Plan, record: dict[str, Any], formats: list[str]) -> None:
    """Writes samples.json, or checks that it is of the same images, and removes what a killed process left."""
    digest = hashlib.sha256(json.dumps(list(plan.class_names)).encode())
    for request in plan.requests:
        digest.update(json.dumps(request).encode())
    own = {"count": len(plan.requests), "batch_size": plan.batch_size, "formats": formats}
    text = json.dumps({**record, **own, "requests": digest.hexdigest()[:16]}, indent=2) + "\n"
    path = plan.out / "samples.json"
    own = (".*.tmp", "*/.*.tmp") if path.exists() else (f".{path.name}.*.tmp",)
    for left in (left for pattern in own for left in plan.out.glob(pattern)):
        left.unlink()
    if path.exists():
        different = _differences(path, text)
        if different:
            raise ValueError(
                f"{plan.out}: holds other images: {', '.join(different[:3])}; name another folder with --out"
            )
        return
    for found in (*plan.out.glob("*"), *plan.out.glob("*/*")):
        if found.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".parquet", ".npz", ".npy"):
            raise ValueError(
                f"{plan.out}: holds other images ({found.relative_to(plan.out)}) and no {path.name}; "
                "name another folder with --out"
            )
    with atomic_write(path) as file:
        file.write(text.encode())


def _differences(path: Path, text: str) -> list[str]:
    """Facts of a samples.json that are not those of `text`, with both values."""

    def leaves(facts: dict[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
        for name, value in facts.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{inside}{name}.")
            else:
                yield inside + name, json.dumps(value)

    try:
        old = dict(leaves(json.loads(path.read_text())))
    except (ValueError, AttributeError) as problem:
        raise ValueError(f"{path}: is damaged ({problem}); name another folder with --out") from problem
    new = dict(leaves(json.loads(text)))
    return [
        f"{name} ({_brief(old.get(name, 'not set'))} there, {_brief(new.get(name, 'not set'))} now)"
        for name in new | old
        if old.get(name) != new.get(name)
    ]


def _brief(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:40]}...{value[-17:]}"


def _missing(plan: Plan, files: Sequence[Format], store: BatchFormat) -> list[int]:
    """Batches that are still to be kept: not in the store, and wanted by a format."""
    work = [b for b in range(plan.batches) if not store.has(b) and not all(kind.has(b) for kind in files)]
    there = len(plan.requests) - sum(len(plan.places(batch)) for batch in work)
    if there:
        print(f"{plan.out}: {there:,} of {len(plan.requests):,} images are already there")
    return work


def _draw(
    plan: Plan,
    work: Sequence[int],
    draw: Callable[[list[int]], Tensor],
    files: Sequence[Format],
    store: BatchFormat,
    state: PartialState,
) -> None:
    """Draws and keeps this process's share of the batches. A failure ends it at once: the others may need hours yet."""
    sizes = [len(plan.places(batch)) for batch in work]
    total, several = len(plan.requests), state.num_processes
    shown = state.is_main_process and len(work) > 1
    with tqdm(total=total, initial=total - sum(sizes), unit="image", disable=None if shown else True) as bar:
        for first in range(0, len(work), several):          # the others are taken to be as far
            if first + state.process_index < len(work):
                batch = work[first + state.process_index]
                there = next((kind for kind in files if kind.has(batch)), None)
                images = draw(list(plan.places(batch))) if there is None else there.read(batch)
                assert images.dtype == torch.uint8 and len(images) == len(plan.places(batch)), images.shape
                store.write(batch, images)
            bar.update(sum(sizes[first : first + several]))


def _grid(plan: Plan, read: Read) -> Image.Image:
    """The first images of the first rows, as many as a grid shows."""
    rows = list(plan.folders)[:GRID_ROWS]
    height, width = read(0).shape[2:]
    columns = max(1, min(GRID_COLUMNS, GRID_PIXELS // (len(rows) * height * width)))
    shown: dict[str, list[int]] = {row: [] for row in rows}
    for place, request in enumerate(plan.requests):
        if request.row in shown and len(shown[request.row]) < columns:
            shown[request.row].append(place)
    images: dict[int, Tensor] = {}
    wanted = {place for places in shown.values() for place in places}
    for batch in sorted({place // plan.batch_size for place in wanted}):
        drawn = zip(plan.places(batch), read(batch), strict=True)
        images |= {place: image.clone() for place, image in drawn if place in wanted}
    return labelled_grid([[images[place] for place in places] for places in shown.values()], rows)
