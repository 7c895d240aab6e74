"""Launches that cannot work are refused, and files are locked where the file system can."""

import errno
import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ddpm.launch_checks
import ddpm.processes
from ddpm import heartbeat
from ddpm.launch_checks import Card, check_cards
from ddpm.processes import acquire_lock, join_processes

H100 = "NVIDIA H100 80GB HBM3"
SLICE = f"{H100} MIG 1g.10gb"


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_launches_that_divide_the_model_are_refused(refused, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with refused("distributed_type", kind.removesuffix("_CONFIG"), "MULTI_GPU", "accelerate launch --multi_gpu"):
        join_processes()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(ddpm.launch_checks, "SECONDS_FOR_FIRST", 0)
    with pytest.raises(SystemExit, match="2"):      # the first process tells it
        join_processes()


@pytest.mark.parametrize("kind", ["XLA", "MULTI_NPU", "MULTI_XPU"])
def test_devices_that_are_not_supported_are_refused(refused, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    state = SimpleNamespace(distributed_type=kind, num_processes=2, process_index=0, device=torch.device("cpu"))
    monkeypatch.setattr(ddpm.processes, "PartialState", lambda **options: state)
    with refused("distributed_type", kind, "MULTI_GPU", "accelerate launch --multi_gpu"):
        join_processes()


def test_every_process_has_a_card_of_its_own(refused) -> None:
    check_cards([None, None])
    check_cards([Card("a", H100, "0:1:0"), Card("a", H100, "0:2:0"), Card("b", H100, "0:1:0")])
    with refused("processes: processes 0 and 2", "--num_processes 2", "CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        check_cards([Card("a", H100, "0:1:0"), Card("a", H100, "0:2:0"), Card("a", H100, "0:1:0")])
    with refused("processes: processes 0 and 1", "MIG", "python"):
        check_cards([Card("a", SLICE, "0:1:0"), Card("a", SLICE.replace("1g.10", "2g.20"), "0:1:0")])


@pytest.mark.parametrize(
    ("properties", "place"),
    [
        ({"name": H100, "uuid": "u", "pci_domain_id": 0, "pci_bus_id": 27, "pci_device_id": 0}, "0:27:0"),
        ({"name": H100, "uuid": "u"}, "u"),
        ({"name": SLICE, "uuid": "u"}, "MIG"),      # which card a slice belongs to is not known then
    ],
)
def test_cards_are_told_apart_when_processes_join(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, Any], place: str
) -> None:
    """NCCL compares addresses on the bus; two processes that a launcher puts on one GPU have the same."""
    state = SimpleNamespace(
        distributed_type="MULTI_GPU", num_processes=2, process_index=0, is_main_process=True,
        device=torch.device("cuda:0"),
    )
    monkeypatch.setattr(ddpm.processes, "PartialState", lambda **options: state)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**properties))
    gathered: list[Any] = []

    def gather(found: list[Any]) -> list[Any]:
        gathered.extend(found if isinstance(found[0], Card) else [])
        return found * 2

    monkeypatch.setattr(ddpm.processes, "gather_object", gather)
    with pytest.raises(ValueError, match="share one GPU"):
        join_processes()
    assert [card.place for card in gathered] == [place]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, number: int
) -> None:
    def flock(file: Any, kind: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(ddpm.processes, "_unlocked", set())
    for _ in range(2):
        with (tmp_path / ".lock").open("w") as lock:
            assert acquire_lock(lock, fcntl.LOCK_EX)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line and "flock" in line


def test_other_errors_of_locks_are_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def flock(file: Any, kind: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / ".lock").open("w") as lock, pytest.raises(OSError, match="broken"):
        acquire_lock(lock, fcntl.LOCK_EX)


def test_a_lock_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ddpm.processes, "LOCK_TIMEOUT_SECONDS", 0.1)
    held: Callable[[], Any] = lambda: (tmp_path / ".lock").open("w")       # noqa: E731
    with held() as first, held() as second:
        assert acquire_lock(first, fcntl.LOCK_EX)
        assert not acquire_lock(second, fcntl.LOCK_EX)


def test_files_are_completed_before_a_missing_process_ends_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def leave(code: int) -> None:
        done.append(f"exit {code}")
        raise SystemExit(code)

    monkeypatch.setattr(heartbeat, "BEFORE_END", [lambda: done.append("complete")])
    monkeypatch.setattr(heartbeat.os, "_exit", leave)
    with pytest.raises(SystemExit):
        heartbeat.Heartbeat.end(SimpleNamespace(_ending=threading.Lock(), timeout=1.0), "process 1: is missing")
    assert done == ["complete", "exit 2"]


@pytest.mark.parametrize(("heard", "left", "named"), [
    ([29.5, 29.5, 29.5, 29.5], [], None),
    ([29.5, 29.5, 29.5, 10.0], [], "process 3"),
    ([20.0, 29.5, 29.5, 10.0], [], "process 3"),
    ([20.0, 20.1, 20.2, 19.9], [], "process 0"),        # all in one interval: with the store of process 0
    ([20.0, 9.0, 20.2, 19.9], [], "process 1"),         # process 0 ended because of it
    ([14.0, 9.0, 20.2, 19.9], [], "process 1"),
    ([20.0, 9.0, 20.2, 19.9], [1], "process 0"),        # process 1 was not needed any more
    ([29.5, 9.0, 29.5, 29.5], [1], None),
])
def test_the_first_of_several_processes_that_died_is_named(
    heard: list[float], left: list[int], named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 2 looks at time 30. Counts come every second, and process 0 keeps the store."""
    monkeypatch.setattr(heartbeat.Heartbeat, "_connect", lambda self: torch.distributed.HashStore())
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    mine = heartbeat.Heartbeat((2, 4), timeout=10.0)
    mine._clock, mine._heard, mine._left = 30.0, heard, left
    silent = mine._find_silent(4.0)
    assert (silent is None) == (named is None) and (named is None or mine._describe(silent).startswith(f"{named}:"))


@pytest.mark.parametrize("ended", [[], [1]])
def test_a_process_that_waits_explains_that_the_store_is_gone(
    ended: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    def add(*_: object) -> int:
        raise RuntimeError("connection closed")

    monkeypatch.setattr(heartbeat.Heartbeat, "_connect", lambda self: torch.distributed.HashStore())
    monkeypatch.setattr(heartbeat.os, "_exit", leave)
    mine = heartbeat.Heartbeat((2, 3), timeout=0.1)
    mine._store, mine._left = SimpleNamespace(add=add), ended
    with pytest.raises(SystemExit):
        mine.meet()
    said = capsys.readouterr().err
    assert ("process 1: has ended" if ended else "connection closed") in said and said.count("\n") == 1
