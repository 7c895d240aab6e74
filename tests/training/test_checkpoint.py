"""Checkpoints are written while training goes on, and are those of their step."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ddpm.training.checkpoint as checkpoint_module
import ddpm.training.snapshot as snapshot_module
from ddpm.atomic import find_damage
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.checkpoint import AVERAGED_WEIGHTS, CheckpointWriter, load_checkpoint
from ddpm.training.snapshot import Snapshot, write_tensors


class Training:
    """A small model in training, and what saves it."""

    def __init__(self, folder: Path, channels: int = 8, keep: int = 2) -> None:
        def build() -> UNet:
            return UNet(
                8, 1, 1, num_classes=2, channels=channels, channel_mult=(1,), attention_resolutions=(), head_channels=8
            )

        self.folder, self.model, self.averaged, self.steps = folder, build(), build().requires_grad_(False), 0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)
        schedule = NoiseSchedule(SCHEDULES["cosine"](10))
        self.pipeline = ClassConditionalPipeline.from_parts(self.averaged, schedule, "v", ["a", "b"])
        self.writer = CheckpointWriter(folder, self.pipeline, self.model, self.averaged, self.optimizer, keep)

    def step(self) -> None:
        """Change all tensors, as a step of training does."""
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        for average, parameter in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            average.lerp_(parameter, 0.5)
        self.steps += 1

    def save(self) -> None:
        self.writer.save({"step": self.steps})

    def tensors(self) -> list[Tensor]:
        """Copies of all tensors of a checkpoint."""
        states = [self.optimizer.state[parameter] for parameter in self.model.parameters()]
        moments = [state[kind] for state in states for kind in sorted(state)]
        weights = [*self.model.state_dict().values(), *self.averaged.state_dict().values()]
        return [tensor.clone() for tensor in [*weights, *moments]]

    def saved(self) -> list[str]:
        """The names of everything in the folder of the checkpoints."""
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "checkpoints")


class Disk:
    """A disk that writes no tensors until it is released."""

    def __init__(self) -> None:
        self.release, self._reached, self._write = threading.Event(), threading.Event(), snapshot_module.write_tensors

    def wait_until_reached(self) -> None:
        assert self._reached.wait(60)

    def write(self, path: Path, tensors: dict[str, Tensor]) -> str:
        self._reached.set()
        assert self.release.wait(60)
        return self._write(path, tensors)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(snapshot_module, "write_tensors", disk.write)
    yield disk
    disk.release.set()


def full(path: Path, tensors: dict[str, Tensor]) -> str:
    """Stands for `write_tensors` on a full disk."""
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device", str(path))


# ----------------------------------------------------------------------------------------------------------- snapshot


def test_a_checkpoint_is_that_of_its_step_whatever_follows(training: Training, disk: Disk) -> None:
    training.step()
    expected = training.tensors()
    training.save()
    for _ in range(3):
        training.step()         # while nothing is on the disk yet
    disk.wait_until_reached()
    assert training.saved() == [".step_00000001.tmp"]
    disk.release.set()
    training.writer.wait()
    other = Training(training.folder)
    state = load_checkpoint(training.folder / "step_00000001", other.model, other.averaged, other.optimizer)
    assert state == {"step": 1}
    assert all(torch.equal(a, b) for a, b in zip(expected, other.tensors(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(expected[:4], training.tensors()[:4], strict=True))


def test_the_memory_of_a_snapshot_is_used_again() -> None:
    layer = nn.Linear(3, 5)
    optimizer = torch.optim.AdamW(layer.parameters())
    snapshot = Snapshot(optimizer)
    snapshot.take({"weights": layer.state_dict()})
    before = {name: copy.data_ptr() for name, copy in snapshot._files["weights"].items()}
    moments = {"a": torch.zeros(2)}
    snapshot.take({"weights": layer.state_dict(), "moments": moments})      # some tensors exist after a step only
    assert {name: copy.data_ptr() for name, copy in snapshot._files["weights"].items()} == before
    assert {name: tensor.data_ptr() for name, tensor in layer.state_dict().items()} != before
    snapshot.take({"weights": nn.Linear(3, 4).state_dict()})
    assert snapshot._files["weights"]["weight"].shape == (4, 3) and snapshot._files.keys() == {"weights"}


@pytest.mark.parametrize("tensors", [
    {"b": torch.randn(3, 2), "a": torch.tensor(1.5), "é\n\"": torch.randn(0, 4), "A": torch.randn(1)},
    {"half": torch.randn(5, dtype=torch.bfloat16)},
    {"counts": torch.arange(7)},
    {},
], ids=lambda tensors: str(len(tensors)))
def test_a_file_has_the_bytes_that_safetensors_writes(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    digest = write_tensors(tmp_path / "folder" / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    ours = (tmp_path / "folder" / "ours").read_bytes()
    assert ours == (tmp_path / "theirs").read_bytes() and digest == hashlib.sha256(ours).hexdigest()


def test_data_types_may_be_mixed(tmp_path: Path) -> None:
    kinds = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8}
    tensors = {str(kind): torch.arange(5).to(kind) for kind in kinds} | {"flags": torch.tensor([True, False, True])}
    write_tensors(tmp_path / "file", tensors)
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_the_averaged_model_is_saved_as_the_pipeline_saves_itself(training: Training, tmp_path: Path) -> None:
    """The digest of the weights identifies the model, wherever it is saved."""
    training.step()
    training.save()
    training.writer.wait()
    training.pipeline.save_pretrained(tmp_path / "pipeline")
    files = [path.relative_to(tmp_path / "pipeline") for path in (tmp_path / "pipeline").rglob("*") if path.is_file()]
    assert Path(AVERAGED_WEIGHTS) in files
    for file in files:
        expected = (tmp_path / "pipeline" / file).read_bytes()
        assert (training.folder / "step_00000001" / file).read_bytes() == expected, file
    found = (training.folder / "step_00000001").rglob("*")
    rest = {str(path.relative_to(training.folder / "step_00000001")) for path in found if path.is_file()}
    assert rest - set(map(str, files)) == {
        "MANIFEST.json", "training/model.safetensors", "training/optimizer.safetensors", "training/state.json"
    }


# --------------------------------------------------------------------------------------------------- one after another


def test_saving_does_not_wait_but_the_next_one_does(training: Training, disk: Disk) -> None:
    training.step()
    training.save()
    training.step()
    opened, release = [], threading.Timer(0.3, lambda: (opened.append(training.saved()), disk.release.set()))
    release.start()
    training.save()         # returns after the first one is complete
    assert opened == [[".step_00000001.tmp"]] and "step_00000001" in training.saved()
    training.writer.wait()
    assert training.saved() == ["step_00000001", "step_00000002"]
    training.writer.wait()      # for nothing


def test_old_checkpoints_are_removed_after_the_new_one_is_complete(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        training.step()
        training.save()
    training.writer.wait()
    seen, remove = [], checkpoint_module.shutil.rmtree

    def observe(path: Path, **options: object) -> None:
        if not path.name.startswith("."):
            seen.append((path.name, training.saved(), find_damage(training.folder / "step_00000003")))
        remove(path, **options)

    monkeypatch.setattr(checkpoint_module.shutil, "rmtree", observe)
    training.step()
    training.save()
    training.writer.wait()
    assert seen == [("step_00000001", ["step_00000001", "step_00000002", "step_00000003"], None)]
    assert training.saved() == ["step_00000002", "step_00000003"]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("act", ["save", "wait", "leave"])
def test_an_error_is_raised_once(
    act: str, training: Training, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next save, by `wait`, or at the end of the context, whichever comes first."""
    training.step()
    training.save()
    training.writer.wait()
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_module, "write_tensors", full)
        training.step()
        training.save()
        # What would be free again later does not matter.
        training.writer._thread.join()
    with refused(str(training.folder / "step_00000002"), "No space left", "step_00000001"):
        if act == "leave":
            with training.writer:
                pass
        else:
            getattr(training if act == "save" else training.writer, act)()
    training.writer.wait()
    assert training.saved() == ["step_00000001"]
    training.save()         # the same step again, as after a new start
    training.writer.wait()
    assert training.saved() == ["step_00000001", "step_00000002"]
    assert find_damage(training.folder / "step_00000002") is None


def test_the_error_that_ends_a_run_is_the_one_that_is_raised(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training.step()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError), training.writer:
        patch.setattr(snapshot_module, "write_tensors", full)
        training.save()
        raise ZeroDivisionError
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: ") and "step_00000001" in line and training.saved() == []
    with pytest.raises(ZeroDivisionError), training.writer:
        training.save()
        raise ZeroDivisionError
    assert training.saved() == ["step_00000001"]        # complete, although the run ended with an error
    assert capsys.readouterr().err == ""


def test_a_second_ctrl_c_does_not_wait(training: Training, disk: Disk) -> None:
    training.step()
    with pytest.raises(KeyboardInterrupt), training.writer:
        training.save()
        disk.wait_until_reached()
        raise KeyboardInterrupt
    assert training.saved() == [".step_00000001.tmp"]
    assert training.writer._thread.daemon       # the process can exit
    disk.release.set()
    training.writer.wait()


# --------------------------------------------------------------------------------------------------------------- speed


@pytest.mark.slow
def test_the_loop_stands_still_for_a_copy_and_not_for_the_write(tmp_path: Path, one_thread: None) -> None:
    """10 million parameters, 160 MB of weights, average and moments."""
    training = Training(tmp_path / "checkpoints", channels=208)
    assert 8e6 < sum(p.numel() for p in training.model.parameters()) < 2e7
    training.step()
    training.writer.prepare()

    def seconds(act: Callable[[], object]) -> float:
        start = time.perf_counter()
        act()
        return time.perf_counter() - start

    tensors, targets = training.tensors(), training.tensors()
    copies, stalls, writes = [], [], []
    for _ in range(5):
        copies.append(seconds(lambda: [target.copy_(tensor) for target, tensor in zip(targets, tensors, strict=True)]))
        stalls.append(seconds(training.save))
        writes.append(stalls[-1] + seconds(training.writer.wait))
    # The best of five, because other programs use the machine. A factor of 2 is for names, threads and new pages.
    assert min(stalls) < 2 * min(copies) + 0.02, (stalls, copies)
    # The copy is one pass over the memory, and writing is three: to the cache, to the disk and through SHA-256.
    assert min(stalls) < min(writes) / 3, (stalls, writes)
