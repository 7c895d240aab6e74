"""Drawn images as files: what is asked for, once each and whole, whatever was killed on the way."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm import atomic, processes
from ddpm.data import load_data
from ddpm.io import image_formats as kinds
from ddpm.io import image_writer as files
from ddpm.io.image_formats import FORMATS, Request, folder_names
from ddpm.io.image_writer import write_samples
from ddpm.io.pictures import labelled_grid, to_pil

CLASSES = ("cat", "a dog", "Vögel", "x/../y")
FOLDERS = ("cat", "a dog", "Vögel", "x_.._y")
COUNT, BATCH = 22, 4
SHARD = 3 * BATCH + 1
RECORD = {"model": "runs/a", "sample": {"steps": 50, "sampler": "ddim"}}
CHOICES = [*((name,) for name in FORMATS), ("parquet", "npz"), tuple(FORMATS)]
TWO = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
TWO += ["--mixed_precision", "no", "--dynamo_backend", "no"]

choices = pytest.mark.parametrize("formats", CHOICES, ids="+".join)


def asked(count: int = COUNT) -> list[Request]:
    per_class = -(-count // len(CLASSES))
    return [Request(CLASSES[i // per_class], f"seed{i:06d}", i // per_class, i) for i in range(count)]


def pixels(place: int, shape: tuple[int, int, int] = (3, 8, 8)) -> np.ndarray:
    return np.random.default_rng(place).integers(0, 256, shape, dtype=np.uint8)


class Toy:
    """Draws a pure function of the place, and remembers what it drew."""

    def __init__(self, shape: tuple[int, int, int] = (3, 8, 8)) -> None:
        self.shape = shape
        self.calls: list[list[int]] = []

    def __call__(self, places: list[int]) -> Tensor:
        self.calls.append(places)
        return torch.from_numpy(np.stack([pixels(place, self.shape) for place in places]))


def write(out: Path, formats: tuple[str, ...], draw: Callable[[list[int]], Tensor], **other: object) -> Path:
    arguments = {"requests": asked(), "batch_size": BATCH, "class_names": CLASSES, "record": RECORD} | other
    return write_samples(out, draw=draw, formats=formats, **arguments)


def tree(out: Path) -> dict[str, bytes]:
    """All files but the lock, which names a process."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


def same(out: Path, expected: dict[str, bytes]) -> None:
    found = tree(out)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "SHARD_IMAGES", SHARD)
    monkeypatch.setattr(kinds, "ROW_GROUP_IMAGES", 2 * BATCH - 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, bytes]]:
    """Formats -> files of a run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "SHARD_IMAGES", SHARD)
        patch.setattr(kinds, "ROW_GROUP_IMAGES", 2 * BATCH - 1)
        found = {}
        for formats in CHOICES:
            out = tmp_path_factory.mktemp("whole") / "out"
            write(out, formats, Toy())
            found[formats] = tree(out)
        return found


def in_child(act: Callable[[], object]) -> int:
    """Exit status of a forked process."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)        # the parent's other threads do not survive a fork
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


# ------------------------------------------------------------------------------------------------------ what is written


@choices
def test_layout(formats: tuple[str, ...], whole: dict) -> None:
    expected = {"samples.json", "grid.png"}
    if "png" in formats:
        expected |= {f"{FOLDERS[r.label]}/{r.file}.png" for r in asked()}
    if "parquet" in formats:
        expected |= {f"samples-0000{i}-of-00002.parquet" for i in range(2)}
    if "npz" in formats:
        expected |= {"samples.npz"}
    assert whole[formats].keys() == expected
    assert json.loads(whole[formats]["samples.json"]).items() >= {
        **RECORD, "count": COUNT, "batch_size": BATCH, "formats": [name for name in FORMATS if name in formats]
    }.items()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 12)])
def test_png(shape: tuple[int, int, int], tmp_path: Path) -> None:
    write(tmp_path, ("png",), Toy(shape))
    data = load_data(str(tmp_path), 8)
    assert data.class_names == tuple(sorted(FOLDERS)) and len(data) == COUNT
    for place, request in enumerate(asked()):
        found = np.asarray(Image.open(tmp_path / FOLDERS[request.label] / f"{request.file}.png"))
        assert np.array_equal(found.reshape(*shape[1:], -1), pixels(place, shape).transpose(1, 2, 0))


@pytest.mark.parametrize("formats", [("parquet",), tuple(FORMATS)], ids="+".join)
def test_parquet(formats: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "train" / "test-images"        # which `datasets` must not take for names of splits
    write(out, formats, Toy())
    if formats == ("parquet",):
        data = load_data(str(out))
        assert data.class_names == CLASSES and data.labels.tolist() == [request.label for request in asked()]
        assert np.array_equal(data.__getitems__(range(COUNT))[0], np.stack([pixels(place) for place in range(COUNT)]))
    shards = str(out / "samples-*.parquet")
    table = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert table.features["label"].names == list(CLASSES) and isinstance(table.features["image"], datasets.Image)
    assert table["seed"][:] == list(range(COUNT)) and table["label"][:] == [request.label for request in asked()]
    assert all(np.array_equal(row["image"], pixels(i).transpose(1, 2, 0)) for i, row in enumerate(table))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 12)])
def test_npz(shape: tuple[int, int, int], tmp_path: Path) -> None:
    write(tmp_path, ("npz",), Toy(shape))
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays.files == ["images", "labels", "seeds", "class_names"]
        expected = np.stack([pixels(place, shape).transpose(1, 2, 0) for place in range(COUNT)])
        assert np.array_equal(arrays["images"], expected) and arrays["images"].dtype == np.uint8
        assert arrays["labels"].tolist() == [request.label for request in asked()]
        assert arrays["seeds"].tolist() == list(range(COUNT)) and tuple(arrays["class_names"]) == CLASSES


@choices
def test_each_image_is_drawn_once_and_batches_are_whole(formats: tuple[str, ...], tmp_path: Path) -> None:
    toy = Toy()
    write(tmp_path, formats, toy)
    assert toy.calls == [list(range(COUNT))[i : i + BATCH] for i in range(0, COUNT, BATCH)]


def test_shards_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "SHARD_IMAGES", 5_000)
    monkeypatch.setattr(kinds, "SHARD_BYTES", 9 * 192)      # nine images of 3x8x8: two batches of four
    write(tmp_path, ("parquet",), Toy())
    assert len([*tmp_path.glob("samples-*-of-00003.parquet")]) == 3


@choices
def test_the_grid(formats: tuple[str, ...], tmp_path: Path, whole: dict) -> None:
    toy = Toy()
    grid = write(tmp_path, formats, toy)
    rows = [[torch.from_numpy(pixels(i)) for i, r in enumerate(asked()) if r.row == name] for name in CLASSES]
    assert np.array_equal(np.asarray(Image.open(grid)), np.asarray(labelled_grid(rows, CLASSES)))
    grid.unlink()
    drawn = len(toy.calls)
    assert write(tmp_path, formats, toy) == grid
    same(tmp_path, whole[formats])
    assert len(toy.calls) == drawn


def test_a_large_grid_is_cut(tmp_path: Path) -> None:
    requests = [Request(f"row {i % 40}\n", f"{i:04d}", -1, i) for i in range(40 * 60)]
    with Image.open(write(tmp_path, ("png",), Toy((1, 8, 8)), requests=requests, batch_size=500)) as grid:
        assert grid.height == files.GRID_ROWS * 50 + 2
        assert files.GRID_COLUMNS * 50 < grid.width < (files.GRID_COLUMNS + 3) * 50


def test_an_unfinished_shard_costs_no_images_of_others(tmp_path: Path, whole: dict) -> None:
    write(tmp_path, ("parquet",), Toy())
    (tmp_path / "samples-00001-of-00002.parquet").unlink()
    toy = Toy()
    write(tmp_path, ("parquet",), toy)
    assert toy.calls == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21]]
    same(tmp_path, whole["parquet",])


def test_what_one_format_has_is_not_drawn_for_another(tmp_path: Path, whole: dict) -> None:
    write(tmp_path, tuple(FORMATS), Toy())
    toy = Toy()
    for lost in ("cat", "samples.npz", "samples-00000-of-00002.parquet"):
        path = tmp_path / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        write(tmp_path, tuple(FORMATS), toy)
        same(tmp_path, whole[tuple(FORMATS)])
    assert toy.calls == []


@pytest.mark.parametrize("size", [0, 5, 60])
def test_a_png_that_is_cut_off_is_drawn_again(size: int, tmp_path: Path, whole: dict) -> None:
    write(tmp_path, ("png",), Toy())
    path = tmp_path / "cat" / "seed000002.png"
    path.write_bytes(path.read_bytes()[:size])
    toy = Toy()
    write(tmp_path, ("png",), toy)
    assert toy.calls == [[0, 1, 2, 3]]
    same(tmp_path, whole["png",])


# --------------------------------------------------------------------------------------------------------------- killed


@choices
def test_killed_at_every_file(formats: tuple[str, ...], tmp_path: Path, whole: dict) -> None:
    """Whichever file a kill -9 comes before, the same call goes on to the same files, byte for byte."""
    replace = Path.replace
    finished, moment = False, 0
    while not finished:
        out, moment, calls = tmp_path / str(moment), moment + 1, []

        def dies(self: Path, target: Path, calls: list = calls, moment: int = moment) -> Path:
            calls.append(target)
            if len(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        def child(out: Path = out, dies: Callable = dies) -> None:
            Path.replace = dies
            write(out, formats, Toy())

        status = in_child(child)
        assert status in (0, signal.SIGKILL)
        finished = status == 0
        there = {int(p.stem[-6:]) for p in out.glob("*/seed*.png")}
        there |= {int(p.stem) * BATCH + i for p in out.glob(".parts/*.npy") for i in range(len(np.load(p)))}
        toy = Toy()
        write(out, formats, toy)
        same(out, whole[formats])
        # What is there is not drawn, but for the rest of the batch that was being written.
        drawn = {place for call in toy.calls for place in call}
        assert len(drawn & there) < BATCH
    assert moment > len(whole[formats])


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_file_appears_whole(old: bytes | None, flushed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if old is not None:
        path.write_bytes(old)
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt), atomic.atomic_write(path, flushed) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == before
    with atomic.atomic_write(path, flushed) as file:
        file.write(b"new" * 10_000)
        assert {name: content for name, content in tree(tmp_path).items() if not name.endswith(".tmp")} == before
    assert tree(tmp_path) == {"a.png": b"new" * 10_000}


def test_killed_twice_and_in_the_middle_of_a_file(tmp_path: Path, whole: dict) -> None:
    def dies_at(batch: int) -> Callable[[list[int]], Tensor]:
        def draw(places: list[int]) -> Tensor:
            if places[0] == batch * BATCH:
                os.kill(os.getpid(), signal.SIGKILL)
            return Toy()(places)

        return draw

    for batch in (2, 4):
        assert in_child(lambda batch=batch: write(tmp_path, tuple(FORMATS), dies_at(batch))) == signal.SIGKILL
        (tmp_path / "cat" / ".seed000099.png.tmp").write_bytes(b"half")
        (tmp_path / ".samples.npz.tmp").write_bytes(b"half")
    write(tmp_path, tuple(FORMATS), Toy())
    same(tmp_path, whole[tuple(FORMATS)])


def test_what_is_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ("png",), Toy())
    assert capsys.readouterr().out == ""
    (tmp_path / "cat" / "seed000000.png").unlink()
    write(tmp_path, ("png",), Toy())
    assert capsys.readouterr() == (f"{tmp_path}: 18 of 22 images are already there\n", "")


# ------------------------------------------------------------------------------------------------------------ processes

SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np, torch
from ddpm import processes
from ddpm.io import image_writer as files
from ddpm.io import image_formats as formats

out, names, count, delay, failing = Path(sys.argv[1]), *sys.argv[2:6]
classes = ("cat", "a dog", "Vögel", "x/../y")
per_class = -(-int(count) // 4)
requests = [formats.Request(classes[i // per_class], f"seed{i:06d}", i // per_class, i) for i in range(int(count))]
formats.SHARD_IMAGES, formats.ROW_GROUP_IMAGES, processes.PATIENCE_SECONDS = 13, 7, 0.0

def draw(places):
    if os.environ.get("RANK") == failing:
        raise ValueError("no luck")
    time.sleep(float(delay))
    return torch.from_numpy(np.stack([
        np.random.default_rng(place).integers(0, 256, (3, 8, 8), dtype=np.uint8) for place in places
    ]))

def full(path, flushed=True):
    if path.name == "samples.npz":
        raise OSError(28, "No space left on device", str(path))
    return atomic_write(path, flushed)

if failing == "writes":
    atomic_write, formats.atomic_write = formats.atomic_write, full

record = {"model": "runs/a", "sample": {"steps": 50, "sampler": "ddim"}}
try:
    files.write_samples(out, requests, draw, 4, classes, record, names.split(","))
except (ValueError, OSError) as problem:
    print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(2)
"""


class Launched:
    """The script above, over two processes or one."""

    def __init__(self, out: Path, processes: int, count: int = COUNT, delay: float = 0, failing: str = "none") -> None:
        script = out.with_name("script.py")
        script.write_text(SCRIPT)
        launcher = ["-m", "accelerate.commands.accelerate_cli", *TWO] if processes == 2 else []
        arguments = [str(out), ",".join(FORMATS), str(count), str(delay), failing]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        environment |= {"ACCELERATE_USE_CPU": "true"} if processes == 2 else {}
        self.out = out
        command = [sys.executable, *launcher, str(script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def until(self, images: int) -> None:
        """Waits for so many images."""
        deadline = time.monotonic() + 60
        while len([*self.out.glob("*/[!.]*.png")]) < images:
            assert self.process.poll() is None and time.monotonic() < deadline, "it did not get under way"
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


def test_two_processes_killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, formats, out = 102, tuple(FORMATS), tmp_path / "out"
    write(tmp_path / "whole", formats, Toy(), requests=asked(count))
    expected = tree(tmp_path / "whole")

    launched = Launched(out, 2, count, delay=0.1)
    launched.until(20)
    main, other = (int(line.split()[1]) for line in (out / ".lock").read_text().splitlines())
    os.kill(other, signal.SIGSTOP)
    try:
        launched.process.kill()
        launched.process.wait()
        os.kill(main, signal.SIGKILL)
        # While a process is left that nobody looks after, no other command writes here.
        with monkeypatch.context() as patch:
            patch.setattr(processes, "PATIENCE_SECONDS", 0.0)
            said = refusal(out, formats, Toy(), requests=asked(count))
        assert f"in use by process {main} on " in said and f", process {other} on " in said and "--out" in said
    finally:
        os.kill(other, signal.SIGKILL)

    # From what is left, one process goes on, and two.
    there = len([*out.glob("*/[!.]*.png")])
    assert 20 <= there < count
    shutil.copytree(out, tmp_path / "copy")
    toy = Toy()
    write(out, formats, toy, requests=asked(count))
    assert sum(map(len, toy.calls)) <= count - there + 2 * BATCH
    same(out, expected)
    assert Launched(tmp_path / "copy", 2, count).end()[0] == 0
    same(tmp_path / "copy", expected)


@pytest.mark.parametrize("failing", ["main draws", "main writes"])
def test_a_failure_ends_all_processes(failing: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    started = time.monotonic()
    code, said = Launched(out, 2, failing="0" if failing == "main draws" else "writes").end()
    assert code != 0 and time.monotonic() - started < 45
    expected = "error: no luck" if failing == "main draws" else "samples.npz'"
    assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1 and expected in said


def test_killed_in_a_process_of_its_own(tmp_path: Path) -> None:
    launched = Launched(tmp_path / "out", 1, 62, delay=0.05)
    launched.until(9)
    launched.process.kill()
    launched.process.wait()
    write(tmp_path / "out", tuple(FORMATS), Toy(), requests=asked(62))
    write(tmp_path / "whole", tuple(FORMATS), Toy(), requests=asked(62))
    same(tmp_path / "out", tree(tmp_path / "whole"))


# ------------------------------------------------------------------------------------------------------ limits and size


def test_memory_does_not_grow_with_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "SHARD_IMAGES", 5_000)
    few, many = asked(400), asked(4_000)            # 4,000 of 3x32x32 are 12 MB

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def child() -> None:
        for formats in (("png", "npz"), ("parquet", "npz")):
            write(tmp_path / f"few{formats[0]}", formats, Toy((3, 32, 32)), requests=few, batch_size=50)
        before = peak()
        for formats in (("png", "npz"), ("parquet", "npz")):
            write(tmp_path / f"many{formats[0]}", formats, Toy((3, 32, 32)), requests=many, batch_size=50)
        # Twice 12 MB of pixels go through; keeping them takes 31 MB, and the allocator's own disorder 3 to 7.
        assert peak() - before < 14_000, f'{peak() - before} kB more'

    assert in_child(child) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_names_the_file(name: str, tmp_path: Path) -> None:
    limit, full = {
        "png": (2_000, "seed000000.png"),
        "parquet": (20_000, "samples-00000-of-00002.parquet"),      # more than a part of four images of 3x32x32
        "npz": (20_000, "samples.npz"),
    }[name]
    out = tmp_path / "out"

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match="File too large") as raised:
            write(out, (name,), Toy((3, 32, 32)))
        assert Path(raised.value.filename).name == full
        assert list(tmp_path.rglob("*.tmp")) == []

    assert in_child(child) == 0
    write(out, (name,), Toy((3, 32, 32)))
    write(tmp_path / "whole", (name,), Toy((3, 32, 32)))
    same(out, tree(tmp_path / "whole"))


# ------------------------------------------------------------------------------------------------------------- refusals


def refusal(*arguments: object, **other: object) -> str:
    with pytest.raises(ValueError) as raised:
        write(*arguments, **other)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(("change", "expected"), [
    ({"record": {**RECORD, "sample": {"steps": 20, "sampler": "ddim"}}}, "sample.steps (50 there, 20 now)"),
    ({"record": {**RECORD, "guide": "b"}}, 'guide (not set there, "b" now)'),
    ({"record": {"model": "runs/a"}}, "sample.steps (50 there, not set now)"),
    ({"batch_size": 5}, "batch_size (4 there, 5 now)"),
    ({"requests": asked(23)}, "count (22 there, 23 now)"),
    ({"requests": asked()[::-1]}, "requests ("),
    ({"class_names": CLASSES[::-1]}, "requests ("),
    ({"formats": ("png", "npz")}, 'formats (["png"] there, ["png", "npz"] now)'),
], ids=str)     # fmt: skip
def test_other_images_are_refused(change: dict, expected: str, tmp_path: Path) -> None:
    write(tmp_path, ("png",), Toy())
    before, toy = tree(tmp_path), Toy()
    said = refusal(tmp_path, change.pop("formats", ("png",)), toy, **change)
    assert f"holds other images: {expected}" in said and "name another folder with --out" in said
    assert toy.calls == [] and tree(tmp_path) == before


def test_equal_facts_in_another_form_go_on(tmp_path: Path, whole: dict) -> None:
    write(tmp_path, ("png", "npz"), Toy(), record={"size": (3, 8)}, class_names=list(CLASSES))
    toy = Toy()
    write(tmp_path, ("npz", "png"), toy, record={"size": [3, 8]}, requests=tuple(asked()))
    assert toy.calls == []


@pytest.mark.parametrize("name", ["cat/1.png", "1.PNG", "x/1.jpg", "a.parquet", "samples.npz", ".parts/00000.npy"])
def test_foreign_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    toy = Toy()
    said = refusal(tmp_path, ("png",), toy)
    assert f"({name}) and no samples.json" in said and "--out" in said and toy.calls == []


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    for text in ("", "{", "[]"):
        (tmp_path / "samples.json").write_text(text)
        assert "samples.json: is damaged" in refusal(tmp_path, ("png",), Toy())


@choices
def test_images_without_a_class(formats: tuple[str, ...], tmp_path: Path) -> None:
    requests = [Request("cat to dog", f"{i}", -1, i) for i in range(9)]
    if formats == ("png",):
        write(tmp_path, formats, Toy(), requests=requests, class_names=())
        assert len([*(tmp_path / "cat to dog").iterdir()]) == 9
    else:
        said = refusal(tmp_path / "out", formats, Toy(), requests=requests)
        assert "those of 'cat to dog' have none; allowed is png" in said and not (tmp_path / "out").exists()


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    assert refusal(tmp_path, ("jpg",), Toy()) == "format: 'jpg' is not one of png, parquet, npz; did you mean png?"
    assert "allowed are png" in refusal(tmp_path, (), Toy())
    assert "no images" in refusal(tmp_path, ("png",), Toy(), requests=[])
    assert "seed000000 is asked for twice" in refusal(tmp_path, ("png",), Toy(), requests=[*asked(4), asked()[0]])
    said = refusal(tmp_path, ("parquet",), Toy(), class_names=["a", "b", "c", "b"])
    assert "distinct class names, and 2 are 'b'" in said
    assert list(tmp_path.iterdir()) == []


def test_two_commands_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.0)
    said = []

    def draw(places: list[int]) -> Tensor:
        said.append(refusal(tmp_path, ("png",), Toy()))
        return Toy()(places)

    write(tmp_path, ("png",), draw)
    assert f"{tmp_path}: in use by process {os.getpid()} on " in said[0] and "--out" in said[0]
    write(tmp_path, ("png",), Toy())


# ---------------------------------------------------------------------------------------------------------------- names


def test_folder_names() -> None:
    rows = ["cat", "golden retriever", "Vögel", "猫", "a/b", "a_b", "a\\b", "A_B", "..", ".", "", " ", ".hidden"]
    rows += ["x" * 300, "x" * 301, "grid.png", "samples.json", "x.parquet", "metadata.csv", "../../etc", "new\nline"]
    rows += ["\ud800", "a_b_2"]
    names = folder_names([*rows, *rows])
    assert list(names) == rows
    assert len({name.casefold() for name in names.values()}) == len(rows)
    for row in ("cat", "golden retriever", "Vögel", "猫", "a_b", "a_b_2"):
        assert names[row] == row
    for name in names.values():
        assert Path(name).name == name and not name.startswith(".") and len(name.encode()) < 200 and name.isprintable()
        assert Path(name).suffix not in {".png", ".json", ".parquet", ".csv"}


def test_rows_with_any_name_stay_inside(tmp_path: Path) -> None:
    rows = ["..", "../x", "/abs", "", "a/b", "a_b", "grid.png", "x.parquet", "state.json", "train"]
    requests = [Request(row, f"{i:06d}", i % len(rows), i) for i in range(3) for row in rows]
    write(tmp_path / "deep" / "out", ("png",), Toy(), requests=requests, class_names=rows)
    assert len([*tmp_path.rglob("00*.png")]) == 30 and [p.name for p in tmp_path.iterdir()] == ["deep"]
    data = load_data(str(tmp_path / "deep" / "out"))
    assert len(data.class_names) == len(rows) and data.labels.bincount().tolist() == [3] * len(rows)


def test_the_grid_shows_any_name() -> None:
    images = [[torch.zeros(3, 8, 8, dtype=torch.uint8)]] * 4
    assert labelled_grid(images, ["", "two\nlines", "猫", "x" * 1000]).width < 2000


@pytest.mark.parametrize("channels", [1, 3])
def test_to_pil(channels: int) -> None:
    image = torch.from_numpy(pixels(0, (channels, 5, 7)))
    assert np.array_equal(np.asarray(to_pil(image)).reshape(5, 7, channels), image.permute(1, 2, 0))


def test_places_are_split_without_gaps() -> None:
    for count, size in ((1, 1), (7, 3), (9, 3), (2, 5)):
        plan = kinds.FileLayout(Path(), asked(count), size, CLASSES)
        places = [plan.places(batch) for batch in range(plan.batches)]
        assert places[0].start == 0 and places[-1].stop == count
        assert all(a.stop == b.start and len(a) == size for a, b in pairwise(places))
