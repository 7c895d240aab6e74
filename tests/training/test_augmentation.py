"""Augmentation: what its transforms do, that labels determine them, and that they do not leak."""

import itertools
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from ddpm.config.sections import Config, DataConfig, ModelConfig, SampleConfig, TrackingConfig, TrainConfig
from ddpm.data import ImageData, load_data
from ddpm.io.pipelines import load_pipeline
from ddpm.models.embedding import CONDITIONINGS
from ddpm.training import augmentation as augmentation_module
from ddpm.training.augmentation import AUGMENTATIONS, Augmentation, resample
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.dry_run import describe_samples, estimate_cost
from ddpm.training.step_inputs import prepare_images
from ddpm.training.timeline import Timeline
from ddpm.training.train import train
from ddpm.training.trainer import Trainer

ALL = list(AUGMENTATIONS)
POSITION = torch.arange(4000)
RUN = Config(
    data=DataConfig(augment=0.5, augmentations=ALL, balance=True),
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(steps=6, batch_size=8, warmup_steps=2, log_every=1, checkpoint_every=3, sample_every=0),
    sample=SampleConfig(steps=2, per_class=1),
    tracking=TrackingConfig(wandb="off"),
)


def images_of(count: int, side: int = 8, channels: int = 1) -> Tensor:
    """Return images in [-1, 1] with the values that uint8 images have."""
    values = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0))
    return values.float() / 127.5 - 1


def applied(name: str, count: int = 600, side: int = 8, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, what a single transform makes of them where it is applied, and its labels."""
    augmentation = Augmentation([name], 0.9, seed=1)
    images = images_of(count, side, channels)
    made, labels = augmentation(images, POSITION[:count])
    changed = labels.any(dim=1)
    return images[changed], made[changed], labels[changed]


# ------------------------------------------------------------------------------------------ closed forms of transforms


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("vertical_flip", 2)])
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 3), (5, 5)])
def test_flips_are_exact(name: str, axis: int, side: int, channels: int) -> None:
    images, made, labels = applied(name, 20, side, channels)
    assert torch.equal(made, images.flip(axis)) and labels.unique().tolist() == [1]


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 3), (5, 2)])
def test_quarter_turns_are_exact(side: int, channels: int) -> None:
    images, made, labels = applied("quarter_turn", 60, side, channels)
    seen = set()
    for image, turned, (cos, sin) in zip(images, made, labels.tolist(), strict=True):
        quarters = round(math.atan2(sin, cos + 1) / (math.pi / 2)) % 4
        seen.add(quarters)
        assert torch.equal(turned, image.rot90(quarters, (1, 2)))
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("side", [8, 28, 17, 5])
def test_shifts_are_whole_pixels_and_reflect_at_the_edge(side: int) -> None:
    images, made, labels = applied("shift", 500, side, 2)
    most = max(1, round(side / 8))
    seen = set()
    for image, shifted, label in zip(images, made, labels, strict=True):
        right, down = (label.double() * side / 8).round().int().tolist()
        assert label.tolist() == pytest.approx([right * 8 / side, down * 8 / side])
        padded = np.pad(image.numpy(), ((0, 0), (most, most), (most, most)), mode="symmetric")
        window = padded[:, most - down : most - down + side, most - right : most - right + side]
        assert np.array_equal(shifted.numpy(), window)
        seen.add((right, down))
    possible = {*itertools.product(range(-most, most + 1), repeat=2)} - {(0, 0)}
    assert seen <= possible and (len(possible) > 24 or seen == possible)
    assert max(abs(right) for right, _ in seen) == max(abs(down) for _, down in seen) == most


def wave(frequency_x: float, frequency_y: float, matrix: Tensor, side: int) -> Tensor:
    """Return a smooth image as seen through an affine map of its coordinates, without interpolation."""
    centers = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)])
    u, v, _ = torch.einsum("ij,jyx->iyx", matrix, points)
    return (0.9 * torch.cos(frequency_x * u + 0.3) * torch.cos(frequency_y * v - 0.2)).float()


# x to the right and y down, as the label says how the image changes.
EXPECTED = {
    "rotation": lambda a: [[1 + a[0], -a[1], 0], [a[1], 1 + a[0], 0], [0, 0, 1]],
    "scale": lambda a: [[1.3 ** -a[0], 0, 0], [0, 1.3 ** -a[0], 0], [0, 0, 1]],
    "aspect": lambda a: [[1.2 ** -a[0], 0, 0], [0, 1.2 ** a[0], 0], [0, 0, 1]],
    "crop": lambda a: [[1 - a[0] / 4, 0, a[1] / 4], [0, 1 - a[0] / 4, a[2] / 4], [0, 0, 1]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_other_transforms_move_a_smooth_image_as_their_label_says(name: str) -> None:
    """The center of the image, where no reflection is visible, within the error of cubic interpolation."""
    side, identity = 64, torch.eye(3, dtype=torch.float64)
    image = wave(3, 4, identity, side)[None, None].expand(40, 1, side, side)
    augmentation = Augmentation([name], 0.9, seed=2)
    made, labels = augmentation(image, POSITION[:40])
    inner = slice(16, 48)       # inside the image for every transform
    assert labels.any(dim=1).sum() > 25
    for result, label in zip(made[:, 0], labels.double().tolist(), strict=True):
        expected = wave(3, 4, torch.tensor(EXPECTED[name](label), dtype=torch.float64), side)
        # torch's cubic kernel is off by up to 0.024 pixels in each direction; the slope is up to 4 / 32 per pixel.
        torch.testing.assert_close(result[inner, inner], expected[inner, inner], atol=6e-3, rtol=0)


def test_a_crop_shows_a_part_of_the_image() -> None:
    labels = Augmentation(["crop"], 0.99, seed=0).draw_labels(POSITION, 8)
    corners = torch.tensor([[-1, -1, 1], [1, 1, 1]], dtype=torch.float64)
    seen = AUGMENTATIONS["crop"].matrix(labels) @ corners.T                                    # (B, 3, 2)
    assert seen.abs().max() <= 1 + 1e-12        # nothing beyond the edges, up to rounding
    sides = (seen[:, 0, 1] - seen[:, 0, 0]) / 2
    assert 0.75 <= sides.min() < 0.76 and sides.max() == 1


@pytest.mark.parametrize("pair", [*itertools.combinations(["flip", "vertical_flip", "quarter_turn", "shift"], 2)])
def test_transforms_are_composed_in_the_order_of_the_dict(pair: tuple[str, str]) -> None:
    """These move pixels without interpolation, so that two in turn equal one resampling."""
    first, second = (Augmentation([name], 0.5, seed=4) for name in pair)
    images = images_of(100)
    once, label = first(images, POSITION[:100])
    twice, other = second(once, POSITION[:100])
    made, labels = Augmentation(pair[::-1], 0.5, seed=4)(images, POSITION[:100])
    assert torch.equal(labels, torch.cat([label, other], dim=1))
    assert torch.equal(made, twice)


# ----------------------------------------------------------------------------------------------------- labels, chances


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_zero_is_the_label_of_the_identity_and_of_nothing_else(name: str) -> None:
    transform = AUGMENTATIONS[name]
    zero = torch.zeros(1, transform.channels, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.equal(transform.matrix(zero)[0], identity)
    u = torch.rand(2000, max(1, transform.numbers), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = torch.tensor([0.5, 2**32 - 0.5], dtype=torch.float64) * 2.0**-32     # the smallest and the largest number
    u = torch.cat([u, ends[:, None].expand(2, u.shape[1])])[:, : transform.numbers]
    labels = transform.draw(u, 8)
    assert labels.shape == (2002, transform.channels) and labels.any(dim=1).all()
    assert (transform.matrix(labels) != identity).any(dim=(1, 2)).all()
    # Different labels are different transforms, so that a label says which one it is.
    distinct = labels.unique(dim=0)
    matrices = transform.matrix(distinct).flatten(1)
    assert len(matrices.unique(dim=0)) == len(distinct)
    assert labels.abs().max() <= 2      # a scale that a linear layer learns well


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("probability", [0.12, 0.7])
def test_each_transform_has_the_probability(name: str, probability: float) -> None:
    labels = Augmentation([name], probability, seed=6).draw_labels(POSITION, 8)
    count, n = int(labels.any(dim=1).sum()), len(POSITION)
    # Within 4 standard deviations of the binomial distribution.
    assert abs(count - n * probability) <= 4 * math.sqrt(n * probability * (1 - probability))


def test_transforms_are_independent_of_each_other() -> None:
    augmentation = Augmentation(ALL, 0.3, seed=8)
    parts = augmentation.draw_labels(POSITION, 8).split([t.channels for t in AUGMENTATIONS.values()], dim=1)
    happens = torch.stack([part.any(dim=1) for part in parts]).double()
    correlation = torch.corrcoef(happens) - torch.eye(len(parts))
    assert correlation.abs().max() < 4 / math.sqrt(len(POSITION))       # 4 standard deviations
    clean = float((happens.sum(dim=0) == 0).double().mean())
    assert clean == pytest.approx(0.7 ** len(parts), abs=4 * math.sqrt(0.06 * 0.94 / 4000))
    # The label of a transform does not depend on which others are chosen, nor on the order of their names.
    for name, part in zip(AUGMENTATIONS, parts, strict=True):
        assert torch.equal(Augmentation([name], 0.3, seed=8).draw_labels(POSITION, 8), part)
    assert torch.equal(Augmentation(ALL[::-1], 0.3, seed=8).draw_labels(POSITION, 8), torch.cat(parts, dim=1))


def test_an_image_is_augmented_by_its_position_whatever_is_around_it() -> None:
    images, augmentation = images_of(64, channels=3), Augmentation(ALL, 0.5, seed=3)
    whole, labels = augmentation(images, POSITION[:64])
    parts = [augmentation(images[at], POSITION[:64][at]) for at in (slice(0, 5), slice(5, 6), slice(6, 64))]
    assert torch.equal(torch.cat([made for made, _ in parts]), whole)
    assert torch.equal(torch.cat([label for _, label in parts]), labels)
    other, _ = Augmentation(ALL, 0.5, seed=4)(images, POSITION[:64])
    assert not torch.equal(other, whole)


def test_unchanged_images_are_equal_bit_for_bit_and_none_leaves_the_range() -> None:
    images = images_of(500, channels=3).clamp(-1, 1)
    made, labels = Augmentation(ALL, 0.2, seed=3)(images, POSITION[:500])
    clean = ~labels.any(dim=1)
    assert 0 < clean.sum() < 500 and torch.equal(made[clean], images[clean])
    assert made.abs().max() <= 1 and made.dtype == labels.dtype == torch.float32
    few, _ = Augmentation(["flip"], 1e-9, seed=3)(images, POSITION[:500])
    assert torch.equal(few, images)
    identity = torch.eye(3, dtype=torch.float64).expand(500, 3, 3)
    assert torch.equal(resample(images, identity), images)


# ------------------------------------------------------------------------------------------------------------ training


def trainer_of(config: Config, path: Path = Path()) -> Trainer:
    data = load_data("digits")
    config = derive_config(config, data)
    return Trainer(config, Accelerator(cpu=True), data, build_schedule(config), build_unet(config, data), path)


def advance(trainer: Trainer, steps: int) -> None:
    inputs = trainer.load_inputs()
    for _ in range(steps):
        trainer.train_step(inputs)


def test_probability_zero_is_no_augmentation() -> None:
    none = replace(RUN, data=replace(RUN.data, augment=0.0))
    plain = replace(RUN, data=DataConfig(balance=True))
    one, other = trainer_of(none), trainer_of(plain)
    assert one.augmentation is None and one.unet.config.augment_channels == 0
    advance(one, 2)
    advance(other, 2)
    assert all(torch.equal(p, q) for p, q in zip(one.unet.parameters(), other.unet.parameters(), strict=True))


def test_horizontal_flip_is_without_a_label() -> None:
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = Config(data=DataConfig(horizontal_flip=True))
    x_0, labels = prepare_images(POSITION[:64], images, config, None)
    plain = images.float() / 127.5 - 1
    flipped = (x_0 != plain).flatten(1).any(dim=1)
    assert labels is None and 16 < flipped.sum() < 48 and torch.equal(x_0[flipped], plain.flip(3)[flipped])
    both, labels = prepare_images(POSITION[:64], images, config, Augmentation(["shift"], 0.5, seed=0))
    clean = ~labels.any(dim=1)
    assert torch.equal(both[clean], x_0[clean]) and 16 < clean.sum() < 48


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_labels_are_learned_and_samples_do_without_them(conditioning: str) -> None:
    """The projection gets a gradient in every step, moves, and is absent from the model that draws samples."""
    trainer = trainer_of(replace(RUN, model=replace(RUN.model, conditioning=conditioning)))
    unet, channels = trainer.unet, trainer.augmentation.channels
    start = unet.augment_embed.weight.detach().clone()
    for _ in range(4):
        advance(trainer, 1)
        assert unet.augment_embed.weight.grad is not None
    assert unet.augment_embed.weight.grad.any() and not torch.equal(unet.augment_embed.weight, start)
    averaged, drawn = trainer.ema.model, trainer.pipeline.unet
    assert averaged.augment_embed.weight.shape == start.shape and drawn.config.augment_channels == 0
    assert drawn.state_dict().keys() == averaged.state_dict().keys() - {"augment_embed.weight"}
    x, t, k = torch.randn(4, 1, 8, 8), torch.tensor([0, 5, 400, 999]), torch.tensor([0, 1, 9, 10])
    with torch.no_grad():
        expected = averaged(x, t, k, augment_labels=torch.zeros(4, channels)).sample
        assert torch.equal(drawn(x, t, k).sample, expected)
        other = averaged(x, t, k, augment_labels=torch.ones(4, channels)).sample
    assert not torch.equal(other, expected)


def test_a_batch_without_augmented_images_has_a_gradient_for_the_projection() -> None:
    """DistributedDataParallel waits for the gradient of every parameter."""
    trainer = trainer_of(replace(RUN, data=replace(RUN.data, augment=1e-9)))
    advance(trainer, 1)
    grad = trainer.unet.augment_embed.weight.grad
    assert grad is not None and not grad.any()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(RUN, path)
    return path


def test_a_resumed_run_is_the_whole_run(run: Path, tmp_path: Path) -> None:
    first = trainer_of(RUN, tmp_path)
    advance(first, 5)       # of a new model, the weights before the first norm change from the fourth step on
    first.save()
    first.checkpoints.wait()
    second = trainer_of(RUN, tmp_path)
    second.restore(tmp_path / "checkpoints" / "step_00000005")
    assert second.step == 5
    assert torch.equal(second.ema.model.augment_embed.weight, first.ema.model.augment_embed.weight)
    assert not torch.equal(second.ema.model.augment_embed.weight, second.unet.augment_embed.weight)
    advance(second, 1)
    second.save()
    second.checkpoints.wait()
    for name in ("training/model", "training/augmentation", "training/optimizer", "unet/diffusion_pytorch_model"):
        a, b = (load_file(path / f"checkpoints/step_00000006/{name}.safetensors") for path in (run, tmp_path))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_every_saved_model_is_without_the_projection(run: Path) -> None:
    digits = load_data("digits")
    plain = build_unet(derive_config(replace(RUN, data=DataConfig()), digits), digits)
    for path in (run, run / "pipeline", run / "checkpoints" / "step_00000003"):
        unet = load_pipeline(path).unet
        assert unet.config.augment_channels == 0 and unet.state_dict().keys() == plain.state_dict().keys()
        assert "augment" not in "".join(load_file(next(path.rglob("unet/*.safetensors"))))
    facts = json.loads((run / "run.json").read_text())
    assert facts["parameters"] == sum(p.numel() for p in plain.parameters())
    assert "augment_embed.weight" in load_file(run / "checkpoints/step_00000006/training/model.safetensors")


def test_a_pretrained_model_gets_a_projection_that_changes_nothing_at_first(run: Path) -> None:
    config = replace(RUN, model=ModelConfig(pretrained=str(run)))
    unet, pretrained = build_unet(config, load_data("digits")), load_pipeline(run).unet
    x, t, k = torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 999]), torch.tensor([0, 1, 10])
    labels = torch.ones(3, unet.config.augment_channels)
    with torch.no_grad():
        assert torch.equal(unet.eval()(x, t, k, augment_labels=labels).sample, pretrained(x, t, k).sample)
    trainer = trainer_of(config)
    advance(trainer, 2)
    assert trainer.unet.augment_embed.weight.any()


def test_a_pretrained_model_without_conditioning_learns_its_projection(tmp_path: Path) -> None:
    """Its norms have no other input. The product of two zeros would stay zero."""
    model = replace(RUN.model, conditioning="none")
    trained = trainer_of(replace(RUN, data=DataConfig(), model=model)).pipeline
    trained.save_pretrained(tmp_path / "pretrained")
    trainer = trainer_of(replace(RUN, model=ModelConfig(pretrained=str(tmp_path / "pretrained"))))
    before = trainer.unet.augment_embed.weight.detach().clone()
    advance(trainer, 4)
    assert not torch.equal(trainer.unet.augment_embed.weight, before)


def test_the_estimate_of_a_run_has_the_time_of_its_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is slowed down by a known time, which the estimate therefore has."""
    slow = 0.2
    transform = augmentation_module.resample
    monkeypatch.setattr(augmentation_module, "resample", lambda *given: (time.sleep(slow), transform(*given))[1])
    data = load_data("digits")
    config = derive_config(RUN, data)
    parts = build_unet(config, data), build_schedule(config), Accelerator(cpu=True), Timeline.of(config.train)
    [seconds] = re.findall(r"about (\S+) s per step", estimate_cost(config, data, *parts))
    assert float(seconds) >= slow


def test_what_is_told(run: Path) -> None:
    data = load_data("digits")
    balance, augment = describe_samples(RUN, data, 6 * 8)
    smallest, largest = data.labels.bincount().min(), data.labels.bincount().max()
    each = 6 * 8 / 10
    assert all(f"({n} images) {each / n:.1f} times" in balance for n in (smallest, largest)), balance
    assert all(name in augment for name in ALL) and "0.5" in augment and f"{100 * 0.5**8:.3g}%" in augment
    assert describe_samples(Config(), data, 64) == []
    uneven = ImageData(data.pixels, (torch.arange(len(data.labels)) == 0).long(), ("many", "one"))
    (advice,) = describe_samples(Config(), uneven, 64)
    assert "--data.balance true" in advice and "--data.balance" not in " ".join(describe_samples(RUN, uneven, 64))
