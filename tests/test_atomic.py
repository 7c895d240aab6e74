"""Published directories are whole or not there, and damage is detected."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm.atomic import (
    MANIFEST,
    find_damage,
    newest_intact,
    read_json,
    recover,
    sha256,
    write_directory_atomically,
    write_json,
)


def fill_with(**files: bytes) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return fill


FILES = {"weights": bytes(range(256)) * 5, "unet__config": b'{"norm": "adagn"}', "empty": b""}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoints" / "step_1"
    write_directory_atomically(directory, fill_with(**FILES))
    return directory


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_write_directory(published: Path) -> None:
    found = contents(published)
    assert {name.replace("__", "/"): content for name, content in FILES.items()} == {
        name: content for name, content in found.items() if name != MANIFEST
    }
    assert json.loads(found[MANIFEST]).keys() == found.keys() - {MANIFEST}
    assert find_damage(published) is None
    assert [p.name for p in published.parent.iterdir()] == ["step_1"]       # no hidden file is left next to it


def test_digests_of_what_was_written_need_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the disk has changed since is damaged."""
    contents = {"weights": b"1", "facts": b"2"}

    def fill(folder: Path) -> dict[str, str]:
        fill_with(**contents)(folder)
        (folder / "weights").write_bytes(b"?")
        return {"weights": hashlib.sha256(b"1").hexdigest()}

    read: list[str] = []
    monkeypatch.setattr("ddpm.atomic.sha256", lambda path: read.append(path.name) or sha256(path))
    write_directory_atomically(tmp_path / "x", fill)
    assert read == ["facts"] and find_damage(tmp_path / "x") == "weights has changed"


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr("ddpm.atomic._flush", lambda path: flushed.append((path.name, (tmp_path / "x").exists())))

    def fill(folder: Path) -> None:
        assert not (tmp_path / "x").exists() and list(folder.iterdir()) == []
        (folder / "a").write_bytes(b"1")

    write_directory_atomically(tmp_path / "x", fill)
    # Files, then the manifest, then the folder are on the disk before the name exists; the name itself comes last.
    assert [name for name, _ in flushed[:2]] == ["a", MANIFEST]
    assert [there for _, there in flushed] == [False] * (len(flushed) - 1) + [True]


def test_replacing(published: Path) -> None:
    write_directory_atomically(published, fill_with(other=b"new"))
    assert contents(published).keys() == {"other", MANIFEST} and find_damage(published) is None
    assert [p.name for p in published.parent.iterdir()] == ["step_1"]


@pytest.mark.parametrize("problem", [OSError("disk full"), ValueError("no"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_what_was_there(existed: bool, problem: BaseException, published: Path) -> None:
    directory = published if existed else published.with_name("step_2")

    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise problem

    before = contents(published)
    with pytest.raises(type(problem)):
        write_directory_atomically(directory, fill)
    assert contents(published) == before and find_damage(published) is None
    assert [p.name for p in published.parent.iterdir()] == ["step_1"]


@pytest.mark.parametrize("which", [1, 2])
def test_a_failure_while_renaming_leaves_what_was_there(
    which: int, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls, rename = contents(published), [], Path.rename

    def fail(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == which:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        write_directory_atomically(published, fill_with(other=b"new"))
    monkeypatch.undo()
    assert published.is_dir() and contents(published) == before
    assert [p.name for p in published.parent.iterdir()] == ["step_1"]


def test_killed_between_the_two_renames(published: Path) -> None:
    """What was to be replaced is whole under another name; it has its own again before anything else is done."""
    before = contents(published)
    published.rename(published.with_name(".step_1.old"))

    def fill(folder: Path) -> None:
        assert contents(published) == before
        (folder / "other").write_bytes(b"new")

    write_directory_atomically(published, fill)
    assert contents(published).keys() == {"other", MANIFEST} and find_damage(published) is None
    assert [p.name for p in published.parent.iterdir()] == ["step_1"]


@pytest.mark.parametrize("names", [[], [".step_1.tmp"], [".step_1.old"], [".step_1.tmp", ".step_1.old"]], ids=str)
@pytest.mark.parametrize("there", [True, False])
def test_recover(there: bool, names: list[str], published: Path) -> None:
    before = contents(published)
    if not there:
        published.rename(published.with_name("whole"))
    for name in names:
        left = published.with_name(name)
        write_directory_atomically(left, fill_with(**FILES) if name.endswith("old") else fill_with(half=b"half"))
    recover(published)
    if there or ".step_1.old" in names:
        assert contents(published) == before
    else:
        assert not published.exists()
    assert not list(published.parent.glob(".*"))


def test_leftovers_of_a_killed_process_do_not_matter(published: Path) -> None:
    for suffix in ("tmp", "old"):
        left = published.with_name(f".step_2.{suffix}")
        left.mkdir()
        (left / "half").write_bytes(b"half")
    write_directory_atomically(published.with_name("step_2"), fill_with(a=b"1"))
    assert contents(published.with_name("step_2")).keys() == {"a", MANIFEST}
    assert newest_intact(published.parent)[0] == published.with_name("step_2")


# ------------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("name", ["weights", "unet/config", MANIFEST])
def test_every_flipped_bit_is_seen(name: str, published: Path) -> None:
    path = published / name
    whole = path.read_bytes()
    bits = range(0, 8 * len(whole), 1 if len(whole) < 500 else 7)       # 7 passes through all indices in a byte
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert find_damage(published) is not None, bit
    path.write_bytes(whole)
    assert find_damage(published) is None


@pytest.mark.parametrize("name", ["weights", "unet/config", MANIFEST])
def test_every_truncation_is_seen(name: str, published: Path) -> None:
    path = published / name
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 2, 13), len(whole) - 2]:      # the manifest's last byte is but a line's end
        path.write_bytes(whole[:length])
        assert find_damage(published) is not None, length
    path.write_bytes(whole + b"x")
    assert find_damage(published) is not None


@pytest.mark.parametrize(("name", "expected"), [
    ("weights", "weights is missing"), ("unet/config", "config is missing"), (MANIFEST, f"{MANIFEST} is missing"),
])
def test_missing_files_are_named(name: str, expected: str, published: Path) -> None:
    (published / name).unlink()
    assert find_damage(published) == expected


def test_changed_files_are_named(published: Path) -> None:
    (published / "unet" / "config").write_bytes(b"{}")
    assert find_damage(published) == "unet/config has changed"


@pytest.mark.parametrize(
    "garbled", [b"", b"[]", b"3", b"null", b'"text"', b"{", b"\xff\xfe", b'{"weights": 3}', b'{"weights": null}']
)
def test_garbled_manifests_are_damage(garbled: bytes, published: Path) -> None:
    (published / MANIFEST).write_bytes(garbled)
    assert find_damage(published) is not None


def test_a_folder_in_place_of_a_file_is_damage(published: Path) -> None:
    (published / "weights").unlink()
    (published / "weights").mkdir()
    assert find_damage(published) is not None


def test_no_such_directory_is_damage(tmp_path: Path) -> None:
    assert find_damage(tmp_path / "none") is not None


# ------------------------------------------------------------------------------------------------------ newest_intact


@pytest.fixture
def several(tmp_path: Path) -> list[Path]:
    directories = [tmp_path / f"step_{step:08d}" for step in (2, 10, 300)]
    for directory in directories:
        write_directory_atomically(directory, fill_with(a=directory.name.encode()))
    return directories


def test_newest(several: list[Path]) -> None:
    assert newest_intact(several[0].parent) == (several[2], {})


def test_damaged_ones_are_passed_over_and_named(several: list[Path]) -> None:
    (several[2] / "a").write_bytes(b"?")
    assert newest_intact(several[0].parent) == (several[1], {several[2]: "a has changed"})
    (several[1] / MANIFEST).unlink()
    found, damaged = newest_intact(several[0].parent)
    assert found == several[0] and list(damaged) == [several[2], several[1]]
    (several[0] / "a").unlink()
    found, damaged = newest_intact(several[0].parent)
    assert found is None and len(damaged) == 3


def test_older_damage_does_not_matter(several: list[Path]) -> None:
    (several[0] / "a").write_bytes(b"?")
    assert newest_intact(several[0].parent) == (several[2], {})


def test_nothing_there(tmp_path: Path) -> None:
    assert newest_intact(tmp_path / "none") == (None, {})
    (tmp_path / "other").mkdir()
    assert newest_intact(tmp_path) == (None, {})


def test_unpublished_folders_are_not_candidates(several: list[Path]) -> None:
    write_directory_atomically(several[0].parent / ".step_00000400.tmp", fill_with(a=b"1"))
    assert newest_intact(several[0].parent) == (several[2], {})


def test_a_stray_file_is_passed_over(several: list[Path]) -> None:
    (several[0].parent / "step_00000999.zip").write_bytes(b"a copy that someone made")
    found, _ = newest_intact(several[0].parent)
    assert found == several[2]


@pytest.mark.parametrize(("text", "expected"), [
    ('{"id": ', r"facts\.json: .*restore"),
    ("[]", r"facts\.json: .*object.*restore"),
    ("{}", r"facts\.json: .*data.*restore"),
])
def test_a_damaged_json_file_is_named(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(ValueError, match=expected) as refused:
        read_json(tmp_path / "facts.json", "data")
    assert "\n" not in str(refused.value)


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "facts.json", {"data": [1, None, "é"]})
    assert read_json(tmp_path / "facts.json", "data") == {"data": [1, None, "é"]}
