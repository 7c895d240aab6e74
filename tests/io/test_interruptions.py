"""Writing generated images continues after kill -9 at any moment, with any number of processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor
from toy_images import BATCH, COUNT, TWO, Toy, asked, choices, in_child, refusal, same, tree, write

from ddpm import atomic, processes
from ddpm.io.image_formats import FORMATS

pytestmark = pytest.mark.usefixtures("small_shards")


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
        # Only the rest of the batch that was being written is drawn again.
        drawn = {index for call in toy.calls for index in call}
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
        def draw(indices: list[int]) -> Tensor:
            if indices[0] == batch * BATCH:
                os.kill(os.getpid(), signal.SIGKILL)
            return Toy()(indices)

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
    out, err = capsys.readouterr()
    assert "18 of 22 images" in out and err == ""


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
formats.SHARD_IMAGES, formats.ROW_GROUP_IMAGES, processes.LOCK_TIMEOUT_SECONDS = 13, 7, 0.0

def draw(indices):
    if os.environ.get("RANK") == failing:
        raise ValueError("no luck")
    time.sleep(float(delay))
    return torch.from_numpy(np.stack([
        np.random.default_rng(index).integers(0, 256, (3, 8, 8), dtype=np.uint8) for index in indices
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
        """Wait for a number of images."""
        deadline = time.monotonic() + 60
        while len([*self.out.glob("*/[!.]*.png")]) < images:
            assert self.process.poll() is None and time.monotonic() < deadline, "no images appeared"
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


@pytest.mark.slow
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
            patch.setattr(processes, "LOCK_TIMEOUT_SECONDS", 0.0)
            said = refusal(out, formats, Toy(), requests=asked(count))
        assert str(main) in said and str(other) in said and "--out" in said
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


@pytest.mark.parametrize("failing", [pytest.param("main draws", marks=pytest.mark.slow), "main writes"])
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
