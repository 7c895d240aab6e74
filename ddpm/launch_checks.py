"""Which launches can work: those in which each process holds the whole model, on a GPU of its own or on CPUs."""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

# Kinds of launch in which every process holds the whole model, as accelerate calls them; and variables
# ACCELERATE_USE_... of others, which it would notice only after it has joined the processes.
ALLOWED = ("NO", "MULTI_GPU", "MULTI_CPU")
DIVIDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")

SECONDS_FOR_FIRST = 10.0


def leave_to_first() -> None:
    """End this process if it is not the first one, whose error message is enough.

    It lets the first one end before, because a launcher kills all processes as soon as one has ended.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SECONDS_FOR_FIRST)
        raise SystemExit(2)


def refuse_kind(kind: str) -> NoReturn:
    """Refuse a kind of launch that divides the model, or that uses devices for which the program is not made.

    Args:
        kind: as accelerate calls it.

    Raises:
        ValueError: says how to launch.
    """
    leave_to_first()
    raise ValueError(
        f"distributed_type: {kind.removesuffix('_CONFIG')} is not supported; every process holds the whole model, on a "
        f"CUDA GPU or a CPU; allowed: {', '.join(ALLOWED)}; launch with: accelerate launch --multi_gpu "
        "--num_processes N --num_machines 1 --mixed_precision no --dynamo_backend no, which does not read the file of "
        "accelerate config"
    )


class Card(NamedTuple):
    """A GPU, as NCCL tells it from others.

    Attributes:
        machine: name and boot of the machine.
        name: such as `NVIDIA H100 80GB HBM3`.
        place: address on the machine's bus, which the slices of a card (MIG) share.
    """

    machine: str
    name: str
    place: str


def find_card(device: torch.device) -> Card | None:
    """Return the GPU of this process; None if its device is not a CUDA GPU."""
    if device.type != "cuda":
        return None
    found, boot = torch.cuda.get_device_properties(device), Path("/proc/sys/kernel/random/boot_id")
    place = [getattr(found, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if None in place:               # an older torch; then slices of different cards are not told apart
        place = ["MIG"] if " MIG " in found.name else [found.uuid]
    machine = f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"
    return Card(machine, found.name, ":".join(map(str, place)))


def check_cards(cards: Sequence[Card | None]) -> None:
    """Check that every process has a card of its own, without which NCCL cannot connect them.

    Args:
        cards: of each process; None for CPUs.

    Raises:
        ValueError: if two processes share one; says how many processes there can be.
    """
    first: dict[tuple[str, str], int] = {}
    for process, card in enumerate(cards):
        if card is not None and first.setdefault((card.machine, card.place), process) != process:
            one = first[card.machine, card.place]
            count = len({other.place for other in cards if other is not None and other.machine == card.machine})
            shared = f"processes: processes {one} and {process} share one GPU ({card.name})"
            if " MIG " in card.name:
                raise ValueError(
                    f"{shared} through slices of it (MIG), which NCCL does not connect; use one process (python in "
                    "place of accelerate launch), or one whole GPU for each process"
                )
            raise ValueError(
                f"{shared}, and each needs one of its own; use --num_processes {count} on this machine, or make more "
                "GPUs visible (CUDA_VISIBLE_DEVICES), or use CPUs: ACCELERATE_USE_CPU=true accelerate launch ..."
            )
