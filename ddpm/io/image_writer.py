"""Writing generated images to files: folders of PNGs, parquet, one .npz; by any number of processes, and resumable.

The unit of work is a batch. It is always generated as a whole, so that its pixels do not depend on where an earlier
command stopped, and stored immediately: as PNGs if that format is requested, otherwise under `.parts`. The other
formats and the grid are made from the stored batches. All files are written atomically, so an interrupted command
continues from the existing files, with any number of processes.

    out/samples.json                    describes the images; written first, and checked when continuing
    out/CLASS/seed000007.png            format png
    out/samples-00000-of-00010.parquet  format parquet
    out/samples.npz                     format npz
    out/grid.png                        some images of each row; written last
    out/.parts/00000.npy                batches that are not in the files above yet
    out/.lock                           locked while a command writes
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ddpm.atomic import atomic_write, json_digest, read_json, write_json
from ddpm.data.labels.class_ids import check_distinct
from ddpm.diffusion.class_labels import NO_CLASS
from ddpm.io.captions import caption
from ddpm.io.image_formats import FORMATS, BatchFormat, BatchStore, FileLayout, Format, ReadBatch, Request
from ddpm.io.pictures import count_tiles, labeled_grid, plain_grid
from ddpm.io.provenance import describe_changes
from ddpm.processes import (
    InUse,
    acquire_lock,
    all_together,
    broadcast_from_main,
    first_on_main,
    gather_object,
    join_processes,
    on_main,
)

SAMPLES_RECORD = "samples.json"  # describes the images in a folder
GRID_COLUMNS = 50               # maximum number of images per row of the grid
GRID_ROWS = 32                  # maximum number of rows of the grid
GRID_PIXELS = 2**26             # approximate maximum number of pixels of the grid, which Pillow and browsers can open

Draw = Callable[[list[int]], Tensor]        # indices of images -> uint8 (len, C, H, W)


def write_samples(
    out: Path,
    requests: Sequence[Request],
    draw: Draw,
    batch_size: int,
    class_names: Sequence[str],
    record: dict[str, Any],
    formats: Sequence[str] = ("png",),
) -> Path:
    """Generate images, distributed over the processes, and write them; continue an interrupted call.

    Memory does not grow with the number of images. The j-th missing batch belongs to process j % n.

    Args:
        out: folder, created if it does not exist; see the top of this file for its content.
        requests: the images, at least one, with different files.
        draw: indices of a whole batch in `requests` -> uint8 (len, C, H, W) on the CPU; deterministic.
        batch_size: indices per call of `draw`; the last batch may be smaller.
        class_names: in the order of ids.
        record: JSON facts that determine the result of `draw`, such as model and settings. They are saved in
            samples.json with `count`, `batch_size`, `formats` and `requests` (a digest), which override equal names.
        formats: entries of FORMATS.

    Returns:
        Path of the grid.

    Raises:
        ValueError: if a format cannot store images without a class of a model with classes, or if the folder contains
            other images or is in use by another command.
        OSError: if a file cannot be written; names it.
    """
    processes = join_processes()
    layout, grid = FileLayout(out, requests, batch_size, class_names), out / "grid.png"
    on_main(processes, lambda: _check(layout, formats))
    wanted = [name for name in FORMATS if name in formats]
    with _lock_folder(out, processes):
        on_main(processes, lambda: _begin(layout, record, wanted))
        files = [FORMATS[name](layout) for name in wanted]
        parts = BatchStore(layout)
        store = next((kind for kind in files if isinstance(kind, BatchFormat)), parts)
        work = broadcast_from_main(processes, lambda: _find_missing(files, store))
        _draw(work, draw, files, store, processes)
        gather_object([])           # wait for all, which have unequal work

        def read(batch: int) -> Tensor:
            return next(kind for kind in (store, *files) if kind.has(batch)).read(batch)

        def complete() -> None:
            for kind in files:
                kind.complete(read, (processes.process_index, processes.num_processes))

        def finish() -> None:
            if not grid.exists():
                with atomic_write(grid) as file:
                    _grid(layout, read).save(file, "PNG")
            parts.remove()

        all_together(processes, complete)
        on_main(processes, finish)
    return grid


def _check(layout: FileLayout, formats: Sequence[str]) -> None:
    files = {(request.row, request.file) for request in layout.requests}
    assert layout.requests and len(files) == len(layout.requests), "two images would have one file"
    classless = next((request.row for request in layout.requests if layout.class_names and request.label < 0), None)
    for name in formats:
        if FORMATS[name].needs_classes and classless is not None:
            able = ", ".join(name for name, kind in FORMATS.items() if not kind.needs_classes)
            raise ValueError(
                f"format: {name} needs a class for each image, and {classless!r} has none; allowed: {able}"
            )
    if "parquet" in formats:
        check_distinct(layout.class_names, "format: parquet needs distinct class names", "use png or npz")


@contextmanager
def _lock_folder(out: Path, processes: PartialState) -> Iterator[None]:
    """Lock a folder against other commands until all processes of this command have ended."""

    def acquire() -> IO[str]:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a+")
        # First exclusive, then shared: the kernel releases a lock when its process ends, however that happens.
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH) if processes.is_main_process else (fcntl.LOCK_SH,):
            if not acquire_lock(lock, kind):
                lock.seek(0)
                holders = ", ".join(lock.read().split("\n")[:-1]) or "another process"
                raise InUse(f"{out}: in use by {holders}; wait for it, or choose another folder with --out")
            if kind == fcntl.LOCK_EX:
                lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        return lock

    with first_on_main(processes, acquire):
        yield


def _begin(layout: FileLayout, record: dict[str, Any], formats: list[str]) -> None:
    """Write samples.json, or check that it describes the same images; remove temporary files of a killed process."""
    own = {"count": len(layout.requests), "batch_size": layout.batch_size, "formats": formats}
    own["requests"] = json_digest([list(layout.class_names), layout.requests], length=16)
    facts = {**record, **own}
    path = layout.out / SAMPLES_RECORD
    patterns = (".*.tmp", "*/.*.tmp") if path.exists() else (f".{path.name}.*.tmp",)
    for temporary in [file for pattern in patterns for file in layout.out.glob(pattern)]:
        temporary.unlink()
    if path.exists():
        if changes := describe_changes(read_json(path), facts):
            raise ValueError(f"{layout.out}: contains other images: {changes}; choose another folder with --out")
        return
    for found in (*layout.out.glob("*"), *layout.out.glob("*/*")):
        if found.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".parquet", ".npz", ".npy"):
            raise ValueError(
                f"{layout.out}: contains other images ({found.relative_to(layout.out)}) and no {path.name}; choose "
                "another folder with --out"
            )
    write_json(path, facts)


def _find_missing(files: Sequence[Format], store: BatchFormat) -> list[int]:
    """Find the batches that are not stored yet and that a format needs; print how many images exist already."""
    layout = store.layout
    work = [b for b in range(layout.batches) if not store.has(b) and not all(kind.has(b) for kind in files)]
    there = len(layout.requests) - sum(len(layout.indices(batch)) for batch in work)
    if there:
        print(f"{layout.out}: {there:,} of {len(layout.requests):,} images exist already")
    return work


def _draw(
    work: Sequence[int], draw: Draw, files: Sequence[Format], store: BatchFormat, processes: PartialState
) -> None:
    """Generate and store this process's batches.

    An error is raised immediately, without waiting for the other processes, which may need hours.
    """
    layout = store.layout
    sizes = [len(layout.indices(batch)) for batch in work]
    total, several = len(layout.requests), processes.num_processes
    shown = processes.is_main_process and len(work) > 1
    with tqdm(total=total, initial=total - sum(sizes), unit="image", disable=None if shown else True) as bar:
        for first in range(0, len(work), several):          # assumes that all processes are equally fast
            if first + processes.process_index < len(work):
                batch = work[first + processes.process_index]
                there = next((kind for kind in files if kind.has(batch)), None)
                images = draw(list(layout.indices(batch))) if there is None else there.read(batch)
                assert images.dtype == torch.uint8 and len(images) == len(layout.indices(batch)), images.shape
                store.write(batch, images)
            bar.update(sum(sizes[first : first + several]))


def _grid(layout: FileLayout, read: ReadBatch) -> Image.Image:
    """Draw the first images of the first rows; of a model without classes, images without names."""
    rows = list(layout.folders)[:GRID_ROWS]
    channels, height, width = read(0).shape[1:]
    most = GRID_PIXELS // (height * width * count_tiles(channels))
    if not layout.class_names and rows == [NO_CLASS]:
        count = max(1, min(len(layout.requests), GRID_COLUMNS * GRID_ROWS, most))
        return plain_grid(torch.cat([read(batch) for batch in range(-(-count // layout.batch_size))])[:count].unbind())
    columns = max(1, min(GRID_COLUMNS, most // len(rows)))
    shown: dict[str, list[int]] = {row: [] for row in rows}
    for index, request in enumerate(layout.requests):
        if request.row in shown and len(shown[request.row]) < columns:
            shown[request.row].append(index)
    images: dict[int, Tensor] = {}
    wanted = {index for indices in shown.values() for index in indices}
    for batch in sorted({index // layout.batch_size for index in wanted}):
        drawn = zip(layout.indices(batch), read(batch), strict=True)
        images |= {index: image.clone() for index, image in drawn if index in wanted}
    labels = [layout.requests[indices[0]].label for indices in shown.values()]      # -1 for rows without a class
    numbered = [f"row {number}" if label < 0 else f"class {label}" for number, label in enumerate(labels, 1)]
    captions = [caption(row, instead) for row, instead in zip(rows, numbered, strict=True)]
    return labeled_grid([[images[index] for index in indices] for indices in shown.values()], captions)
