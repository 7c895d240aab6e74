"""Writing generated images: memory, full disks, and folders that contain something else."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor
from toy_images import CLASSES, RECORD, Toy, asked, choices, in_child, refusal, same, tree, write

from ddpm import processes
from ddpm.io import image_formats as kinds
from ddpm.io.image_formats import FORMATS, Request

pytestmark = pytest.mark.usefixtures("small_shards")


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


@pytest.mark.parametrize(("change", "expected"), [
    ({"record": {**RECORD, "sample": {"steps": 20, "sampler": "ddim"}}}, "sample.steps (50 there, 20 now)"),
    ({"record": {**RECORD, "guide": "b"}}, "guide (not set there, b now)"),
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
    assert str(tmp_path) in said and expected in said and "--out" in said
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
    assert name in said and "samples.json" in said and "--out" in said and toy.calls == []


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    for text in ("", "{", "[]"):
        (tmp_path / "samples.json").write_text(text)
        said = refusal(tmp_path, ("png",), Toy())
        assert "samples.json" in said and "another directory" in said


@choices
def test_images_without_a_class(formats: tuple[str, ...], tmp_path: Path) -> None:
    requests = [Request("cat to dog", f"{i}", -1, i) for i in range(9)]
    out = tmp_path / "out"
    if "parquet" in formats:
        said = refusal(out, formats, Toy(), requests=requests)
        assert "'cat to dog'" in said and "png" in said and "npz" in said and not out.exists()
        return
    write(out, formats, Toy(), requests=requests)
    if "png" in formats:
        assert len([*(out / "cat to dog").iterdir()]) == 9
    else:
        with np.load(out / "samples.npz") as arrays:
            assert arrays.files == ["images", "rows", "seeds"] and len(arrays["images"]) == 9
            assert arrays["rows"].tolist() == ["cat to dog"] * 9 and arrays["seeds"].tolist() == list(range(9))


def test_parquet_needs_distinct_class_names(tmp_path: Path) -> None:
    said = refusal(tmp_path, ("parquet",), Toy(), class_names=["a", "b", "c", "b"])
    assert "'b'" in said and "parquet" in said and said.endswith("use png or npz")
    assert list(tmp_path.iterdir()) == []


def test_two_commands_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOCK_TIMEOUT_SECONDS", 0.0)
    said = []

    def draw(indices: list[int]) -> Tensor:
        said.append(refusal(tmp_path, ("png",), Toy()))
        return Toy()(indices)

    write(tmp_path, ("png",), draw)
    assert str(tmp_path) in said[0] and str(os.getpid()) in said[0] and "--out" in said[0]
    write(tmp_path, ("png",), Toy())
