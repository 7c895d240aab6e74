"""Decoded images are kept in a file that all processes share, and found again as long as nothing has changed."""

import errno
import fcntl
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ddpm.data import ImageData, load_data
from ddpm.data.images import MappedPixels
from ddpm.data.pixels import pixel_cache, pixel_files, reading
from ddpm.data.pixels.pixel_cache import SMALL_BYTES, NotCached, StorageLimits, choose_storage
from ddpm.data.records import Records
from ddpm.data.request import DataRequest
from ddpm.data.sources.kinds import load_records
from ddpm.data.sources.tables import table_records

ROOT = Path(__file__).parents[2]
COUNT = 12
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of decoded images of an empty cache."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def small(entries: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache images of any size, and files that have just been written; return the folder of decoded images."""
    monkeypatch.setattr(pixel_cache, "SMALL_BYTES", 0)
    monkeypatch.setattr(pixel_cache, "SETTLED_SECONDS", 0)
    return entries


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one entry with each picture that is decoded into the cache or memory."""
    calls: list[int] = []
    convert = reading.to_pixels
    monkeypatch.setattr(reading, "to_pixels", lambda *args: calls.append(1) or convert(*args))
    return calls


OPENED: list[str] | None = None


def _note_opened(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(args[0], str | os.PathLike):
        OPENED.append(os.fspath(args[0]))


@contextmanager
def opened_files(below: Path) -> Iterator[list[str]]:
    """Collect the files below a folder that Python opens in the context."""
    global OPENED
    if not hasattr(_note_opened, "added"):
        sys.addaudithook(_note_opened)      # for good, so it is added once
        _note_opened.added = True           # type: ignore[attr-defined]
    found: list[str] = []
    OPENED = noted = []
    try:
        yield found
    finally:
        OPENED = None
        found += [file for file in noted if str(file).startswith(str(below))]


def pixels_of(i: int, side: int = 10) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_folder(root: Path, count: int = COUNT, side: int = 10, suffix: str = ".png") -> Path:
    for i in range(count):
        file = root / CLASSES[i % 3] / f"{i:05d}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(i, side)).save(file)
    return root


def write_list(root: Path) -> Path:
    write_folder(root)
    rows = [f"{CLASSES[i % 3]}/{i:05d}.png,{CLASSES[i % 3]}" for i in range(COUNT)]
    (root / "list.csv").write_text("\n".join(["file,label", *rows]))
    return root / "list.csv"


def table(root: Path, outside: bool = False) -> datasets.Dataset:
    files = sorted(write_folder(root / "files").rglob("*.png"))
    images = [{"bytes": None, "path": str(f)} if outside else {"bytes": f.read_bytes(), "path": f.name} for f in files]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    labels = [CLASSES.index(file.parent.name) for file in files]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def write_parquet(root: Path) -> Path:
    table(root).to_parquet(root / "table.parquet")
    return root / "table.parquet"


def write_saved(root: Path, outside: bool = False) -> Path:
    table(root, outside).save_to_disk(root / "saved")
    if outside:     # `datasets` embeds the files when it saves
        (arrow,) = (root / "saved").glob("*.arrow")
        with pa.memory_map(str(arrow)) as source:
            stored = pa.ipc.open_stream(source).read_all()
        images = pa.array(
            [{"bytes": None, "path": str(file)} for file in sorted((root / "files").rglob("*.png"))],
            type=stored.schema.field("image").type,
        )
        changed = stored.set_column(stored.schema.get_field_index("image"), stored.schema.field("image"), images)
        arrow.unlink()
        with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as writer:
            writer.write_table(changed)
    return root / "saved"


def write_npz(root: Path) -> Path:
    root.mkdir()
    images = np.stack([pixels_of(i) for i in range(COUNT)])
    np.savez(root / "a.npz", images=images, labels=np.arange(COUNT) % 3)
    return root / "a.npz"


def write_npy(root: Path) -> Path:
    root.mkdir()
    np.save(root / "a.npy", np.stack([pixels_of(i) for i in range(COUNT)]).astype(np.uint16) * 9)
    return root / "a.npy"


def write_animations(root: Path) -> Path:
    for i in range(3):
        (root / CLASSES[i]).mkdir(parents=True)
        first, *others = (Image.fromarray(pixels_of(4 * i + k)) for k in range(4))
        first.save(root / CLASSES[i] / "a.gif", save_all=True, append_images=others)
    return root


def write_damaged(root: Path) -> Path:
    write_folder(root)
    for name in ("ant/00000.png", "cat/00005.png"):
        (root / name).write_bytes((root / name).read_bytes()[:90])
    (root / "bee/00004.png").write_bytes(b"no image")
    return root


def write_transparent(root: Path) -> Path:
    write_folder(root)
    for i, file in enumerate(sorted(root.rglob("*.png"))):
        Image.fromarray(np.dstack([pixels_of(i)[..., 0] // 16, pixels_of(i)[..., 1]]), "LA").save(file)
    return root


def write_gray(root: Path) -> Path:
    write_folder(root)
    for i, file in enumerate(sorted(root.rglob("*.png"))):
        Image.fromarray(pixels_of(i)[..., 0]).convert("RGB").save(file)
    return root


SOURCES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "folder": (write_folder, {}),
    "slice": (write_folder, {"split": "train[25%:]"}),
    "list": (write_list, {}),
    "parquet": (write_parquet, {}),
    "saved": (write_saved, {}),
    "files of a table": (lambda root: write_saved(root, outside=True), {}),
    "npz": (write_npz, {"intensity": [10, 200]}),
    "npy": (write_npy, {"labels": "none"}),
    "frames": (write_animations, {"frames": "all", "resolution": 8}),
    "damaged": (write_damaged, {"on_bad_image": "skip"}),
    "dark with alpha": (write_transparent, {"channels": 2}),
    "gray in color": (write_gray, {}),
}


def facts_of(data: ImageData) -> dict[str, Any]:
    """Return everything about images as values that can be compared, the pixels as bytes."""
    facts = {field.name: getattr(data, field.name) for field in fields(data)}
    images, _ = data.__getitems__(range(len(data)))
    facts["pixels"], facts["labels"] = images.numpy().tobytes(), data.labels.tolist()
    facts["contents"], facts["order"] = data.contents.tolist(), list(data.survey.counts)
    return facts


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def entry(folder: Path) -> Path:
    (file,) = folder.glob("*.pixels")
    return file


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_what_it_gives_without_a_cache(name: str, tmp_path: Path, small: Path, decoded) -> None:
    write, options = SOURCES[name]
    source = str(write(tmp_path / "data"))
    plain = load_data(source, cache_gb=0, **options)
    assert plain.in_memory and files_in(small) == []
    decoded.clear()
    first = load_data(source, **options)
    assert isinstance(first.pixels, MappedPixels) and "in the cache" in first.summary() and len(decoded) >= len(plain)
    decoded.clear()
    second = load_data(source, **options)
    assert isinstance(second.pixels, MappedPixels) and decoded == []
    assert facts_of(first) == facts_of(second) == facts_of(plain)
    assert len(list(small.glob("*.pixels"))) == 1 and not list(small.glob("*.lock")) and not list(small.glob(".*"))


def test_a_second_start_opens_no_image(tmp_path: Path, entries: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the real limits: 6.1 MB of pixels, in files that have just been written."""
    source = write_folder(tmp_path / "data", 500, 64, ".jpg")
    with opened_files(source) as opened:
        first = load_data(str(source))
    assert {*opened} == {str(file) for file in source.rglob("*.jpg")}
    (told,) = capsys.readouterr().out.splitlines()
    assert "500" in told and str(entry(entries)) in told and "6.1 MB" in told
    with opened_files(source) as opened:
        second = load_data(str(source))
    assert opened == []
    (told,) = capsys.readouterr().out.splitlines()
    assert "500" in told and str(entry(entries)) in told and "6.1 MB" in told
    assert facts_of(first) == facts_of(second) == facts_of(load_data(str(source), cache_gb=0))


def _write_other_pixels(file: Path) -> None:
    """Overwrite an image with another one of the same size in bytes, and give it its old time."""
    before = file.stat()
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _replace_by_rename(file: Path) -> None:
    other = file.with_name("other.bmp")
    shutil.copy2(file, other)
    _write_other_pixels(other)
    other.replace(file)


def _exchange(one: Path, other: Path) -> None:
    one.rename(one.with_suffix(".tmp"))
    other.rename(one)
    one.with_suffix(".tmp").rename(other)


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {       # and whether the images are others than before
    "written with its old times": (lambda root: _write_other_pixels(root / "bee/00004.bmp"), True),
    "replaced with its old times": (lambda root: _replace_by_rename(root / "bee/00004.bmp"), True),
    "touched": (lambda root: (root / "bee/00004.bmp").touch(), False),
    "added": (lambda root: Image.fromarray(pixels_of(99)).save(root / "cat/99.bmp"), True),
    "removed": (lambda root: (root / "bee/00004.bmp").unlink(), True),
    "two files exchanged": (lambda root: _exchange(root / "ant/00000.bmp", root / "ant/00003.bmp"), True),
    "in another class": (lambda root: (root / "ant/00000.bmp").rename(root / "cat/00000.bmp"), True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_files_is_noticed(change: str, tmp_path: Path, small: Path, decoded) -> None:
    act, differs = CHANGES[change]
    source = write_folder(tmp_path / "data", suffix=".bmp")
    before = facts_of(load_data(str(source)))
    decoded.clear()
    act(source)
    after = facts_of(load_data(str(source)))
    assert len(decoded) > 0
    assert after == facts_of(load_data(str(source), cache_gb=0))
    assert (after["pixels"] != before["pixels"]) == differs


def test_a_file_in_place_is_noticed(tmp_path: Path, small: Path) -> None:
    """One byte of an uncompressed array, with the old times."""
    path = write_npz(tmp_path / "data")
    load_data(str(path))
    array = tmp_path / "data/b.npy"
    np.save(array, np.zeros((COUNT, 8, 8, 3), np.uint8))
    assert not load_data(str(array)).pixels[torch.arange(COUNT)].any()
    times = array.stat()
    with array.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\7")
    os.utime(array, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_data(str(array)).pixels[torch.tensor([COUNT - 1])].max() == 7


def test_other_options_have_entries_of_their_own_and_the_same_pixels_one(tmp_path: Path, small: Path, decoded) -> None:
    """A run that continues gives the decisions of its start as options."""
    source = str(write_folder(tmp_path / "data"))
    first = load_data(source)
    decoded.clear()
    for options in ({"resolution": 8, "channels": 3}, {"labels": "none"}, {"memory_gb": 1e-9}, {"cache_gb": 1e-3}):
        again = load_data(source, **options)
        assert isinstance(again.pixels, MappedPixels) and again.pixels.file == first.pixels.file
        assert again.notes == load_data(source, **{**options, "cache_gb": 0, "memory_gb": 4}).notes
    assert len(decoded) == 4 * COUNT        # by those without a cache
    for options in ({"resolution": 4}, {"channels": 1}, {"intensity": [0, 128]}, {"fit": "pad"}):
        data = load_data(source, **options)
        assert data.pixels.file != first.pixels.file
        assert facts_of(data) == facts_of(load_data(source, cache_gb=0, **options))


def _flip(position: int) -> Callable[[Path], object]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[position] ^= 1
        file.write_bytes(content)

    return damage


def _forge(file: Path) -> None:
    """Write an entry whose checksums are right, but which has other images than its name says."""
    facts = json.dumps({"shape": [2, 3, 8, 8], "bad": [], "facts": [0, 0, True], "checksum": ""}).encode()
    digest = hashlib.blake2b(facts, digest_size=16).digest()
    file.write_bytes(bytes(2 * 192) + facts + len(facts).to_bytes(8, "little") + digest + b"ddpm pixels 1")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "only the end": lambda file: file.write_bytes(file.read_bytes()[-40:]),
    "longer": lambda file: file.write_bytes(bytes(5) + file.read_bytes()),
    "one bit of the first pixel": _flip(0),
    "one bit of a pixel": _flip(1000),
    "one bit of the facts": _flip(-60),
    "one bit of the length": _flip(-37),
    "forged": _forge,
    "pickled": lambda file: file.write_bytes(pickle.dumps(torch.zeros(9))),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "removed": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["*.pixels", "*.json"])
def test_what_is_damaged_is_made_again(damage: str, which: str, tmp_path: Path, small: Path, decoded) -> None:
    source = str(write_folder(tmp_path / "data"))
    plain = facts_of(load_data(source))
    for file in small.glob(which):
        if damage == "a folder" and which == "*.pixels":
            continue        # below
        DAMAGES[damage](file) if file.stat().st_size > 1000 else file.write_bytes(file.read_bytes()[:-9])
    assert facts_of(load_data(source)) == plain
    decoded.clear()
    again = load_data(source)
    assert facts_of(again) == plain
    assert decoded == [] or damage == "a folder"


def test_pieces_of_large_entries_are_checked(tmp_path: Path, small: Path, decoded, monkeypatch) -> None:
    """Of 2304 bytes in 4 pieces of 64 bytes, the ends are always checked; a hole is found if a piece touches it."""
    monkeypatch.setattr("ddpm.data.pixels.pixel_files.PIECES", 4)
    monkeypatch.setattr("ddpm.data.pixels.pixel_files.PIECE_BYTES", 64)
    source = str(write_folder(tmp_path / "data"))
    size = load_data(source).pixels.tensor.numel()
    plain = facts_of(load_data(source, cache_gb=0))
    for begin, end in ((0, 1), (size - 1, size), (size // 4, size * 3 // 4)):
        file = entry(small)
        content = bytearray(file.read_bytes())
        content[begin:end] = bytes(255 - value for value in content[begin:end])
        file.write_bytes(content)
        decoded.clear()
        assert facts_of(load_data(source)) == plain and len(decoded) == COUNT


@contextmanager
def _full_disk(after: int, short: bool) -> Iterator[None]:
    left, write = [after], os.pwrite

    def pwrite(file: int, content: bytes, position: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            if short:
                return len(content) // 2
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_files.os, "pwrite", pwrite)
        yield


@pytest.mark.parametrize("memory_gb", [4, 1e-9])
@pytest.mark.parametrize("case", ["no space", "no space later", "short write", "at the end", "not writable"])
def test_without_a_cache_it_works_as_before(case, memory_gb, tmp_path, small, capsys, monkeypatch) -> None:
    source = str(write_folder(tmp_path / "data"))
    plain = load_data(source, cache_gb=0, memory_gb=memory_gb)
    with pytest.MonkeyPatch.context() as patch:
        folder = small
        full = _full_disk(10**9, False)
        if case == "no space":
            patch.setattr(pixel_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * COUNT * 192 - 1))
        elif case == "not writable":
            (tmp_path / "file").write_text("")
            patch.setenv("DDPM_CACHE", str(tmp_path / "file"))
            folder = tmp_path / "file/images"
        else:
            full = _full_disk(COUNT if case == "at the end" else 5, short=case == "short write")
        with full:
            data = load_data(source, memory_gb=memory_gb)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and all(part in told[0] for part in (str(folder), "DDPM_CACHE", "data.cache_gb 0"))
    assert type(data.pixels) is type(plain.pixels) and facts_of(data) == facts_of(plain)
    assert files_in(small) == []
    assert isinstance(load_data(source).pixels, MappedPixels)


def test_where_files_cannot_be_locked(tmp_path: Path, small: Path, monkeypatch, capsys) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    source = str(write_folder(tmp_path / "data"))
    assert isinstance(load_data(source).pixels, MappedPixels) and capsys.readouterr().err == ""
    assert facts_of(load_data(source)) == facts_of(load_data(source, cache_gb=0))


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path, small: Path) -> None:
    source = str(write_folder(tmp_path / "data"))
    load_data(source)
    name = entry(small).name
    entry(small).unlink()
    (small / f".{name}.0123.tmp").write_bytes(b"half")
    (small / "notes.txt").write_text("not ours")
    (small / ".0f-other.pixels.0123.tmp").write_bytes(b"of another process at work")
    load_data(source)
    assert not (small / f".{name}.0123.tmp").exists()
    assert {"notes.txt", ".0f-other.pixels.0123.tmp", name} <= {*files_in(small)}


def test_small_images_leave_no_files(tmp_path: Path, entries: Path) -> None:
    load_data()
    source = write_folder(tmp_path / "data", 260, 4)        # as many as could be more than 4 MB at 64 pixels
    assert load_data(str(source)).in_memory and files_in(entries) == []


def test_storage() -> None:
    limits = StorageLimits(memory=10e6, cache=100e6)
    small, large = int(SMALL_BYTES), 10**9

    def refuse() -> int:
        raise AssertionError("not needed")

    assert choose_storage(small, limits, refuse) == "memory"
    assert choose_storage(small, StorageLimits(1, 100e6), refuse) == "demand"
    assert choose_storage(small + 1, limits, lambda: large) == "cache"
    assert choose_storage(int(100e6), limits, lambda: int(200e6)) == "cache"
    with pytest.raises(NotCached):
        choose_storage(int(100e6), limits, lambda: int(200e6) - 1)
    assert choose_storage(int(100e6) + 1, limits, refuse) == "demand"
    assert choose_storage(int(10e6), StorageLimits(10e6), refuse) == "memory"
    assert choose_storage(large, StorageLimits(float("inf"), 0), refuse) == "memory"


def test_an_image_that_cannot_be_read_now_is_not_cached_as_unreadable(tmp_path, small, capsys, monkeypatch) -> None:
    source = write_folder(tmp_path / "data")
    read, lost = Path.read_bytes, source / "bee/00004.png"

    def fail(path: Path) -> bytes:
        if path == lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        data = load_data(str(source), on_bad_image="skip")
    assert data.skipped == 1 and data.in_memory and files_in(small) == []
    assert str(lost) in capsys.readouterr().err
    assert load_data(str(source), on_bad_image="skip").skipped == 0


def test_an_unreadable_image_leaves_nothing(tmp_path: Path, small: Path, refused) -> None:
    source = write_damaged(tmp_path / "data")
    for _ in range(2):
        with refused("data.source", "ant/00000.png", "data.on_bad_image skip"):
            load_data(str(source))
    assert files_in(small) == []


def test_files_that_change_while_they_are_waited_for_are_not_cached(tmp_path, entries, capsys, monkeypatch) -> None:
    monkeypatch.setattr(pixel_cache, "SMALL_BYTES", 0)
    source = write_folder(tmp_path / "data", suffix=".bmp")
    monkeypatch.setattr(pixel_cache.time, "sleep", lambda seconds: _write_other_pixels(source / "bee/00004.bmp"))
    data = load_data(str(source))
    assert data.in_memory and files_in(entries) == [] and "DDPM_CACHE" in capsys.readouterr().err
    monkeypatch.setattr(pixel_cache.time, "time", lambda: 0.0)
    assert load_data(str(source)).in_memory and files_in(entries) == []


def test_mapped_pixels_are_shared_read_only_and_picklable(tmp_path: Path, small: Path) -> None:
    source = str(write_folder(tmp_path / "data"))
    data = load_data(source)
    again = pickle.loads(pickle.dumps(data))
    assert isinstance(again.pixels, MappedPixels) and len(pickle.dumps(data.pixels)) < 1000
    assert facts_of(again) == facts_of(data)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(data.pixels.file))]
    assert maps and all(line.split()[1] == "r--s" for line in maps)
    loader = torch.utils.data.DataLoader(data, batch_size=5, num_workers=1, collate_fn=lambda batch: batch)
    images, labels = map(torch.cat, zip(*loader, strict=True))
    assert torch.equal(images, data.pixels.tensor) and torch.equal(labels, data.labels)
    with pytest.raises(IndexError):
        data.__getitems__([COUNT])


def test_processes_decode_once_and_hold_one_copy(tmp_path: Path, entries: Path) -> None:
    """Two processes start at once; one decodes all images while the other waits, and both map one file.

    What `datasets` calls a table may not differ between processes.
    """
    sources = [str(write(tmp_path / write.__name__)) for write in (write_folder, write_parquet, write_saved)]
    code = (
        "import json, sys, time; from ddpm.data import load_data; from ddpm.data.pixels import pixel_cache, reading\n"
        "pixel_cache.SMALL_BYTES, convert, told = 0, reading.to_pixels, []\n"
        "reading.to_pixels = lambda *args: time.sleep(0.05) or n.append(1) or convert(*args)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for source in sys.argv[1:]:\n"
        "    n = []; data = load_data(source)\n"
        "    maps = [line.split() for line in open('/proc/self/maps')]\n"
        "    mapped = [line[4] for line in maps if line[-1] == str(data.pixels.file)]\n"
        "    told.append([len(n), str(data.pixels.file.stat().st_ino), sorted({*mapped}), data.fingerprint])\n"
        "print(json.dumps(told))"
    )
    command = [sys.executable, "-c", code, *sources]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    for one, other in zip(*(json.loads(lines[-1]) for lines in told), strict=True):
        assert sorted([one[0], other[0]]) == [0, COUNT]
        assert one[1:] == other[1:] and one[2] == [one[1]]      # both map the same inode, and no other


def test_records_say_what_they_are_without_being_read(tmp_path: Path) -> None:
    """Pictures that are not those of files, as of scikit-learn or of a table in memory, have no origin."""
    in_memory = table_records(table(tmp_path), DataRequest("x"), "x")
    records: list[Records] = [load_records(DataRequest("digits")), in_memory]
    assert [each.pictures.origin([0, 1]) for each in records] == [None, None]
