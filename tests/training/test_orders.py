"""The orders in which a run visits the images."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.config.sections import Config, DataConfig, TrainConfig
from ddpm.data import ImageData
from ddpm.data.notes import describe_balance
from ddpm.randomness import Purpose, bits, permutation, permutations
from ddpm.training import batches
from ddpm.training.batches import build_samples, load_micro_batches
from ddpm.training.dry_run import describe_samples
from ddpm.training.orders import DRAWN_TOGETHER, BalancedOrder, EpochOrder, Order
from ddpm.training.timeline import Timeline
from ddpm.training.validation import check_classes

LABELS = torch.tensor([3] * 40 + [0] * 7 + [1] + [3] * 9 + [4] * 300 + [0] * 2)       # no image of class 2


def chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def images_of(labels: Tensor, classes: int) -> ImageData:
    """Return images whose first pixels hold their index."""
    pixels = torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = torch.arange(len(labels)) % 256, torch.arange(len(labels)) // 256
    return ImageData(pixels, labels, tuple(str(k) for k in range(classes)))


def shuffled(items: list[int], seed: int, purpose: Purpose, index: int) -> list[int]:
    """Return the items in the order of their random 63-bit keys."""
    words = bits(seed, purpose, torch.tensor([index]), 2 * len(items))[0].tolist()
    keys = [(high << 31) ^ low for high, low in chunks(words, 2)]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def balanced(labels: Tensor, seed: int, count: int) -> list[int]:
    """Return the first images of the balanced order, with a queue of images for each class."""
    members: dict[int, list[int]] = {}
    for image, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(image)
    queues: dict[int, list[int]] = {label: [] for label in members}
    epochs = dict.fromkeys(members, 0)
    drawn: list[int] = []
    for turn in range(-(-count // len(members))):
        for label in shuffled(sorted(members), seed, Purpose.CLASS_ORDER, turn):
            if not queues[label]:
                index = label * 2**32 + epochs[label]
                queues[label] = shuffled(members[label], seed, Purpose.ORDER_IN_CLASS, index)
                epochs[label] += 1
            drawn.append(queues[label].pop(0))
    return drawn[:count]


@pytest.mark.parametrize("seed", [0, 2**62 + 1])
def test_the_balanced_order_is_that_of_queues_of_each_class(seed: int) -> None:
    order = BalancedOrder(LABELS, seed)
    assert [order.index(p) for p in range(1500)] == balanced(LABELS, seed, 1500)


def test_every_class_is_drawn_equally_often_in_every_window() -> None:
    order, classes = BalancedOrder(LABELS, 3), 4
    drawn = torch.tensor([order.index(p) for p in range(2000)])
    for start in [*range(30), 1234]:
        for rounds in (1, 5, 100):
            window = LABELS[drawn[start : start + classes * rounds]]
            counts = window.bincount(minlength=5)[[0, 1, 3, 4]]
            # A window begins and ends within a round, so one image of each class may be outside, and one more inside.
            slack = 0 if start % classes == 0 else 1
            assert (counts - rounds).abs().max() <= slack and counts.sum() == classes * rounds
    # Within a class, each image once before any repeats.
    for label, count in zip(*LABELS.unique(return_counts=True), strict=True):
        of_class = drawn[LABELS[drawn] == label]
        assert all(len({*epoch}) == count for epoch in chunks(of_class.tolist(), int(count)) if len(epoch) == count)
    # The epochs of a class, and those of different classes, have different orders.
    first, second = (drawn[LABELS[drawn] == 3][start : start + 49] for start in (0, 49))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("n", [1, 2, 3, DRAWN_TOGETHER // 2 + 1, DRAWN_TOGETHER, 1000])
def test_epochs_are_permutations_wherever_one_begins(n: int) -> None:
    order = EpochOrder(n, 7)
    expected = torch.cat([permutation(7, epoch, n) for epoch in range(5)]).tolist()
    assert [order.index(p) for p in range(5 * n)] == expected
    backwards = EpochOrder(n, 7)
    assert [backwards.index(p) for p in reversed(range(5 * n))] == expected[::-1]


@pytest.mark.parametrize("order", [EpochOrder(len(LABELS), 1), BalancedOrder(LABELS, 1)])
def test_an_image_is_a_function_of_its_position(order: Order) -> None:
    ahead = [order.index(p) for p in range(3000)]
    fresh = EpochOrder(len(LABELS), 1) if isinstance(order, EpochOrder) else BalancedOrder(LABELS, 1)
    assert [fresh.index(p) for p in (2999, 0, 1500, 17)] == [ahead[p] for p in (2999, 0, 1500, 17)]
    assert 0 <= fresh.index(10**12) < len(LABELS)


def test_one_class_is_in_epochs_too() -> None:
    order = BalancedOrder(torch.zeros(9, dtype=torch.int64), 0)
    assert sorted(order.index(p) for p in range(9, 18)) == list(range(9))


def config_of(balance: bool, **train: Any) -> Config:
    return Config(data=DataConfig(balance=balance), train=TrainConfig(seed=5, **train))


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize(("batch", "processes", "accumulation"), [(8, 1, 1), (8, 2, 1), (8, 2, 2), (48, 1, 3)])
def test_batches_are_the_order_whatever_their_size(
    balance: bool, batch: int, processes: int, accumulation: int
) -> None:
    """Also if the run begins at a later step, as after an interruption."""
    data = images_of(LABELS, 5)
    train = {"batch_size": batch, "gradient_accumulation_steps": accumulation, "steps": 192 // batch}
    config = config_of(balance, **train)
    order = BalancedOrder(LABELS, 5) if balance else EpochOrder(len(LABELS), 5)
    seen = {}
    for rank in range(processes):
        start = 96 // batch
        for position, images, labels in load_micro_batches(
            build_samples(config, data), Timeline.of(config.train), start, rank, processes, config
        ):
            index = images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()
            assert torch.equal(labels, LABELS[index])
            seen |= dict(zip(position.tolist(), index.tolist(), strict=True))
    assert seen == {p: order.index(p) for p in range(96, 192)}


@pytest.mark.parametrize("balance", [False, True])
def test_the_order_goes_on_where_the_batch_size_changes(balance: bool) -> None:
    """Three steps of 8 samples, and then steps of 20, which begin at position 24."""
    data, config = images_of(LABELS, 5), config_of(balance, batch_size=20, steps=6)
    timeline = Timeline.of(config.train, [{"step": 3, "option": "train.batch_size", "old": 8, "new": 20}])
    order = BalancedOrder(LABELS, 5) if balance else EpochOrder(len(LABELS), 5)
    seen = [
        (position.tolist(), (images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()).tolist())
        for position, images, _ in load_micro_batches(build_samples(config, data), timeline, 2, 0, 1, config)
    ]
    steps = [range(16, 24), range(24, 44), range(44, 64), range(64, 84)]
    assert seen == [([*step], [order.index(p) for p in step]) for step in steps]


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("mps", False), ("cuda:1", True)])
def test_batches_are_pinned_for_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    """Pinning would start CUDA in a process that trains on a CPU of a machine with GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    given = {}

    class Loader(list):
        num_workers = 0

        def __init__(self, samples: object, **options: object) -> None:
            given.update(options)

    monkeypatch.setattr(batches, "DataLoader", Loader)
    monkeypatch.setattr(batches, "hold_on_device", lambda samples, device: samples)     # too many for the GPU
    config = config_of(False, steps=1, batch_size=4)
    samples = build_samples(config, images_of(LABELS, 5))
    assert [*load_micro_batches(samples, Timeline.of(config.train), 0, 0, 1, config, torch.device(device))] == []
    assert given["pin_memory"] is pinned


def test_shuffled_labels_are_balanced_as_they_are_trained_on() -> None:
    config = Config(data=DataConfig(balance=True, shuffle_labels=True))
    samples = build_samples(config, images_of(LABELS, 5))
    _, _, labels = samples.__getitems__(range(400))
    assert labels.bincount(minlength=5).tolist() == [100, 100, 0, 100, 100]


@pytest.mark.parametrize(("counts", "smallest", "largest"), [
    ([0, 20, 20], 20, 20), ([0, 20, 199], 20, 199), ([0, 20, 200], 20, 200), ([20, 200, 0], 20, 200),
    ([20, 0, 0], 20, 20),
])
def test_what_is_said_about_the_sizes_of_classes(counts: list[int], smallest: int, largest: int) -> None:
    """Classes without images are neither small nor part of the balance."""
    data = images_of(torch.arange(3).repeat_interleave(torch.tensor(counts)), 3)
    imbalanced = largest >= 10 * smallest
    notes = " ".join(describe_balance(counts, data.class_names))
    assert (f"{smallest} to {largest} images" in notes) == imbalanced
    plain, balanced = (" ".join(describe_samples(config_of(balance), data, 1200)) for balance in (False, True))
    assert ("--data.balance true" in plain) == imbalanced
    classes = sum(count > 0 for count in counts)
    assert f"each of {classes} classes" in balanced and f"{1200 / classes / smallest:,.1f} times" in balanced
    assert ("smallest" in balanced) == (smallest < largest)


def test_balance_needs_classes(refused) -> None:
    data = images_of(torch.zeros(5, dtype=torch.int64), 0)
    with refused("data.balance", "false"):
        check_classes(config_of(True), data)
    check_classes(config_of(False), data)


def test_many_classes_and_images_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 classes and a million images: a step draws orders of the classes it meets, not of all images."""
    labels = torch.arange(1_000_000) % 10_000
    order, drawn = BalancedOrder(labels, 0), []

    def counted(seed: int, epochs: Tensor, n: int, purpose: Purpose) -> Tensor:
        drawn.append(len(epochs) * n)
        return permutations(seed, epochs, n, purpose)

    monkeypatch.setattr("ddpm.training.orders.permutations", counted)
    indices = [order.index(p) for p in range(512)]
    assert len({labels[i].item() for i in indices}) == 512
    assert sum(drawn) <= 10_000 + 512 * DRAWN_TOGETHER and len(drawn) == 513
    assert [order.index(p) for p in range(512)] == indices and len(drawn) == 513        # they are kept
    # Two classes change places in every second position, but are not drawn so often.
    drawn.clear()
    pair = BalancedOrder(torch.tensor([0, 1, 1]), 0)
    assert len([pair.index(p) for p in range(512)]) == 512 and len(drawn) <= 3 + 2 * 2 + 512 // DRAWN_TOGETHER
