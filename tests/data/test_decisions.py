"""How pictures become pixels is decided from all of them: size, channels, scale; and what is told about it."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ddpm.data import ImageData, load_data
from ddpm.data.notes import _range_option
from ddpm.data.pixels.decisions import default_resolution
from ddpm.data.pixels.survey import PictureFacts, Survey

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def write(root: Path, images: Sequence[Image.Image | np.ndarray], suffix: str = ".png") -> str:
    """Write images into two class folders, alternately, and return their folder."""
    for index, image in enumerate(images):
        folder = root / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(folder / f"{index:03d}{suffix}")
    return str(root)


def pixels(data: ImageData) -> np.ndarray:
    return data.__getitems__(range(len(data)))[0].numpy()


def told(data: ImageData, *parts: str) -> bool:
    """Return whether one note has all parts."""
    return any(all(part in note for part in parts) for note in data.notes)


def square(side: int) -> tuple[int, int]:
    return side, side


# --------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize(("sizes", "expected"), [
    ([square(8)] * 3, 8),                               # the digits
    ([square(28)] * 3, 28),
    ([square(32)] * 3, 32),
    ([square(64)] * 3, 64),
    ([square(65)] * 3, 64),
    ([square(100)] * 3, 64),
    ([square(17)] * 3, 16),
    ([square(2)] * 3, 4),
    ([(300, 1)] * 3, 4),
    ([(64, 16)] * 3, 16),
    ([square(2)] + [square(32)] * 9, 32),               # one of ten is smaller
    ([square(2)] * 2 + [square(32)] * 9, 4),            # two of eleven
    ([square(2)] * 2 + [square(32)] * 18, 32),
    ([square(side) for side in range(20, 40)], 20),     # 22 fits in 18 of 20
])
def test_default_resolution(sizes: list[tuple[int, int]], expected: int) -> None:
    for _ in range(3):
        random.Random(0).shuffle(sizes)
        survey = Survey(Counter(PictureFacts(size, 3) for size in sizes), len(sizes))
        assert default_resolution(survey) == expected


def test_the_default_square_fits_in_nine_of_ten() -> None:
    """The definition: it fits in at least 90 percent of the images, and the next larger multiple of 4 does not."""
    draws = np.random.default_rng(0)
    for _ in range(50):
        sides = draws.integers(4, 60, draws.integers(1, 40))
        survey = Survey(Counter(PictureFacts(square(int(side)), 1) for side in sides), len(sides))
        side = default_resolution(survey)
        assert (sides >= side).mean() >= 0.9 > (sides >= side + 4).mean()


@pytest.mark.parametrize(("sizes", "parts"), [
    ([square(17)] * 2, ("17x17", "16x16", "--data.resolution 16")),
    ([(64, 16)] * 2, ("64x16", "16x16")),
    ([(64, 16)] * 2, ("not square", "--data.fit pad")),
    ([square(100)] * 2, ("100x100", "64x64", "--data.resolution 128")),
    ([square(2)] * 2, ("2x2", "4x4", "--data.resolution 8")),
    ([square(10), (30, 20), (20, 30)], ("10x10 to 30x20", "median side 20", "--data.resolution 8")),
])
def test_a_size_that_is_not_the_images_own_is_told(
    sizes: list[tuple[int, int]], parts: tuple[str, ...], tmp_path: Path
) -> None:
    data = load_data(write(tmp_path, [Image.new("RGB", size, "red") for size in sizes]))
    assert told(data, *parts), data.notes


@pytest.mark.parametrize("side", [4, 8, 28, 32, 64])
def test_the_images_own_size_is_not_worth_a_note(side: int, tmp_path: Path) -> None:
    images = [Image.new("RGB", square(side), (200, i, 0)) for i in range(20)]
    assert load_data(write(tmp_path, images)).notes == ()


def test_enlarging_on_request_is_told(tmp_path: Path) -> None:
    images = [Image.new("RGB", square(side), "red") for side in (8, 8, 16)]
    assert told(load_data(write(tmp_path, images), 16), "16x16", "2 of 3")


# ----------------------------------------------------------------------------------------------------------- channels


def test_one_image_with_color_is_enough(tmp_path: Path) -> None:
    images = [Image.fromarray(RAMP)] * 4 + [Image.fromarray(np.dstack([RAMP, RAMP.T, RAMP]))]
    data = load_data(write(tmp_path, images))
    assert data.channels == 3 and told(data, "1 color", "4 gray", "--data.channels 1")
    np.testing.assert_array_equal(pixels(data)[0], np.stack([RAMP] * 3))
    assert load_data(write(tmp_path / "gray", images[:4])).channels == 1
    gray = load_data(str(tmp_path), channels=1)
    assert gray.channels == 1
    for asked in (gray, load_data(str(tmp_path), channels=3)):
        assert not told(asked, "--data.channels")


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_told_and_can_be_kept(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(Image.fromarray(RAMP.T))
    source, with_alpha = write(tmp_path, [image, image.rotate(180)]), len(mode)
    data = load_data(source)
    assert data.channels == with_alpha - 1 and told(data, "white", f"--data.channels {with_alpha}")
    kept = load_data(source, channels=with_alpha)
    assert not kept.notes[:-1] and kept.fingerprint != data.fingerprint
    np.testing.assert_array_equal(pixels(kept)[0, -1], RAMP.T)


@pytest.mark.parametrize(("channels", "allowed"), [(2, "1, 3"), (4, "1, 3"), (7, ".npz or .npy")])
def test_channels_that_no_image_has(channels: int, allowed: str, tmp_path: Path, refused) -> None:
    source = write(tmp_path, [Image.fromarray(RAMP)] * 2)
    with refused(f"data.channels: {channels}", allowed):
        load_data(source, channels=channels)


# -------------------------------------------------------------------------------------------------------------- scale


def ramps(highest: float, kind: type, count: int = 4, lowest: float = 0) -> list[np.ndarray]:
    """Ramps whose ends differ; only the last one reaches the highest value of all."""
    unit = RAMP / 255
    return [(lowest + unit * (highest - lowest) * (i + 1) / count).astype(kind) for i in range(count)]


@pytest.mark.parametrize(("highest", "depth"), [
    (200, 255), (255, 255), (256, 1023), (1023, 1023), (4000, 4095), (4095, 4095), (10_000, 16383), (60_000, 65535),
])
@pytest.mark.parametrize(("kind", "suffix"), [(np.uint16, ".png"), (np.int32, ".tif")])
def test_integers_use_the_bit_depth_in_use(
    highest: int, depth: int, kind: type, suffix: str, tmp_path: Path
) -> None:
    images = ramps(highest, kind)
    data = load_data(write(tmp_path, images, suffix))
    assert data.intensity == (0, depth) and data.channels == 1
    assert told(data, str(depth), "--data.intensity") == (depth < 65535 and not (kind == np.int32 and depth == 255))
    order = [0, 2, 1, 3]        # as two folders read
    np.testing.assert_allclose(pixels(data)[:, 0], np.stack(images)[order] * (255 / depth), atol=0.5)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (0, 255), (-1, 1), (-1000, 1000), (0, 4000), (3e5, 7e6)])
def test_floats_use_the_range_of_all_images(lowest: float, highest: float, tmp_path: Path) -> None:
    images = ramps(highest, np.float32, lowest=lowest)
    data = load_data(write(tmp_path, images, ".tif"))
    assert data.intensity == (lowest, highest)
    expected = np.interp(np.stack(images)[[0, 2, 1, 3]], [lowest, highest], [0, 255])
    np.testing.assert_allclose(pixels(data)[:, 0], expected, atol=0.5)
    assert told(data, "--data.intensity", f"values are {lowest:.0f} to {highest:.0f}")


def test_negative_integers_use_the_range_of_all_images(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, ramps(3000, np.int32, lowest=-1024), ".tif"))
    assert data.intensity == (-1024, 3000)


def test_dark_and_bright_images_of_one_source_stay_dark_and_bright(tmp_path: Path) -> None:
    """A scale per image would make all of them equally bright."""
    images = [np.full((8, 8), value, np.float32) for value in (0, 1, 200, 200)]
    np.testing.assert_array_equal(pixels(load_data(write(tmp_path, images, ".tif")))[:, 0, 0, 0], [0, 255, 1, 255])


def test_a_window_is_applied_to_all_images_and_clips(tmp_path: Path) -> None:
    images = ramps(1000, np.float32, lowest=-1000)
    source = write(tmp_path, images, ".tif")
    data = load_data(source, intensity=[-160, 240])
    expected = np.interp(np.stack(images)[[0, 2, 1, 3]], [-160, 240], [0, 255])
    np.testing.assert_allclose(pixels(data)[:, 0], expected, atol=0.5)
    assert told(data, "4 of 4", "data.intensity")
    assert load_data(source, intensity=[-1000, 1000]).fingerprint == load_data(source).fingerprint != data.fingerprint


def test_a_window_of_images_with_eight_bits(tmp_path: Path) -> None:
    source = write(tmp_path, [RAMP // 2, RAMP // 4])
    data = load_data(source, intensity=[0, 64])
    np.testing.assert_allclose(pixels(data)[0, 0], np.interp(RAMP // 2, [0, 64], [0, 255]), atol=0.5)
    assert told(data, "1 of 2", "data.intensity")


@pytest.mark.parametrize("brightest", [1, 15, 31, 32, 200])
def test_images_that_use_a_small_part_of_the_range(brightest: int, tmp_path: Path) -> None:
    image = (RAMP * (brightest / 255)).astype(np.uint8)
    source = write(tmp_path, [image] * 2)
    for memory_gb in (4, 1e-9):
        expected = brightest < 32
        assert told(load_data(source, memory_gb=memory_gb), f'--data.intensity "[0, {brightest}]"') == expected


def windows(data: ImageData) -> list[list[float]]:
    """Return the ranges that notes propose."""
    proposed = re.findall(r'--data\.intensity "(\[[^"]+\])"', " ".join(data.notes))
    return [yaml.safe_load(window) for window in proposed if "LOW" not in window]


@pytest.mark.parametrize(("value", "kind", "suffix"), [
    (0, np.uint8, ".png"), (255, np.uint8, ".png"), (0, np.uint16, ".png"), (7, np.uint16, ".png"),
    (-3, np.int32, ".tif"), (0, np.float32, ".tif"), (0.5, np.float32, ".tif"), (1e6, np.float32, ".tif"),
])
def test_images_of_one_value_are_told_without_a_range_to_try(
    value: float, kind: type, suffix: str, tmp_path: Path
) -> None:
    source = write(tmp_path, [np.full((8, 8), value, kind)] * 4, suffix)
    for memory_gb in (4, 1e-9):
        data = load_data(source, memory_gb=memory_gb)
        assert told(data, "same value", "nothing to learn", "check the images"), data.notes
        assert windows(data) == [] and not told(data, "data.intensity")


def test_a_range_that_loses_all_values_is_told(tmp_path: Path) -> None:
    source = write(tmp_path, ramps(1, np.float32), ".tif")
    data = load_data(source, intensity=[5, 6])
    assert told(data, "same value", "0 to 1") and windows(data) == [[0, 1]]
    assert not told(load_data(source, intensity=[0, 1]), "same value")


@pytest.mark.parametrize("window", [(0, 3e-4), (100_000, 100_001.18), (1000.01, 1000.02), (-1, 7e6), (0, 15)])
def test_a_proposed_range_keeps_its_ends_apart(window: tuple[float, float]) -> None:
    low, high = yaml.safe_load(_range_option(window).split('"')[1])
    assert low < high and (low, high) == pytest.approx(window, abs=(window[1] - window[0]) / 50)


def test_a_mixture_of_depths_is_told(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, [RAMP, RAMP.astype(np.uint16) * 16]))
    assert data.intensity == (0, 4095) and told(data, "not uint8 are scaled: 1;", "are not: 1")
    np.testing.assert_array_equal(pixels(data)[0, 0], RAMP)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_make_an_image_unreadable(value: float, tmp_path: Path, refused) -> None:
    broken = np.full((8, 8), value, np.float32)
    source = write(tmp_path, [*ramps(1, np.float32), broken, *ramps(2, np.float32)], ".tif")
    with refused("a/004.tif", "data.on_bad_image skip"):
        load_data(source)
    data = load_data(source, on_bad_image="skip")
    assert data.skipped == 1 and data.intensity == (0, 2)


# -------------------------------------------------------------------------------------------------------- fingerprints


COLOR = np.dstack([RAMP, RAMP.T, RAMP // 2])


@pytest.mark.parametrize(("image", "options", "other"), [
    *((COLOR, {"fit": fit}, {}) for fit in ("crop", "pad", "stretch")),
    *((COLOR, {"fit": fit, "resolution": 8}, {"resolution": 8}) for fit in ("pad", "stretch")),
    (COLOR, {"resolution": 16}, {}),
    (COLOR, {"channels": 3}, {}),
    (RAMP, {"channels": 1}, {}),
    (COLOR, {"frames": "all"}, {}),
    (COLOR, {"frames": "first"}, {}),
    (COLOR, {"intensity": [0, 255]}, {}),
    (COLOR, {"on_bad_image": "skip", "memory_gb": 1e-9, "split": "train[:100%]"}, {}),
    (RAMP.astype(np.uint16) * 257, {"intensity": [0, 65535]}, {}),
    (RAMP.astype(np.uint16) * 16, {"intensity": [0, 4095], "fit": "pad"}, {}),
])
def test_options_that_change_no_pixel_do_not_count(
    image: np.ndarray, options: dict, other: dict, tmp_path: Path
) -> None:
    source = write(tmp_path, [image, image // 2])
    one, another = load_data(source, **options), load_data(source, **other)
    np.testing.assert_array_equal(pixels(one), pixels(another))
    assert one.fingerprint == another.fingerprint


@pytest.mark.parametrize(("image", "options"), [
    (COLOR[:8], {"fit": "pad"}),
    (COLOR[:8], {"fit": "stretch"}),
    (COLOR, {"resolution": 8}),
    (COLOR, {"channels": 1}),
    (COLOR, {"intensity": [0, 254]}),
    (COLOR, {"intensity": [-1, 255]}),
    (RAMP.astype(np.uint16) * 257, {"intensity": [0, 4095]}),
])
def test_options_that_change_pixels_count(image: np.ndarray, options: dict, tmp_path: Path) -> None:
    source = write(tmp_path, [image, image // 2])
    one, another = load_data(source, **options), load_data(source)
    assert not np.array_equal(pixels(one), pixels(another)) and one.fingerprint != another.fingerprint


def test_the_fit_counts_if_not_all_images_are_known_to_be_squares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pixels.survey", "pixels.reading", "notes", "pixels.decisions"):
        monkeypatch.setattr(f"ddpm.data.{module}.MAX_SURVEYED", 2)
    source = write(tmp_path, [RAMP, RAMP[:8], RAMP])
    assert load_data(source, fit="pad").fingerprint != load_data(source).fingerprint


# ---------------------------------------------------------------------------------------------------------- all images


def some_of_everything() -> list[Image.Image | np.ndarray]:
    sizes = [(10 + 3 * i, 40 - i) for i in range(12)] + [square(2)]
    images: list[Image.Image | np.ndarray] = [Image.new("L" if i % 3 else "RGB", s, i) for i, s in enumerate(sizes)]
    return images + ramps(3000, np.uint16)


def test_decisions_do_not_depend_on_the_order(tmp_path: Path) -> None:
    seen = set()
    for seed in range(4):
        images = some_of_everything()
        random.Random(seed).shuffle(images)
        data = load_data(write(tmp_path / str(seed), images))
        seen.add((data.resolution, data.channels, data.format, data.notes))
    assert len(seen) == 1


@pytest.mark.parametrize("first_look", [1, 3, 64])
@pytest.mark.parametrize("skip", ["error", "skip"])
def test_what_the_first_look_guesses_does_not_matter(
    first_look: int, skip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path, some_of_everything())
    expected = load_data(source, on_bad_image=skip)
    monkeypatch.setattr("ddpm.data.pixels.reading.FIRST_LOOK", first_look)
    for memory_gb in (4, 1.5e-5, 1e-9):         # the second holds the pixels of some guesses only
        data = load_data(source, on_bad_image=skip, memory_gb=memory_gb)
        assert data.fingerprint == expected.fingerprint and data.notes == expected.notes
        np.testing.assert_array_equal(pixels(data), pixels(expected))


def test_a_sample_of_very_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    for module in ("pixels.survey", "pixels.reading", "notes"):
        monkeypatch.setattr(f"ddpm.data.{module}.MAX_SURVEYED", 3)
    source = write(tmp_path, [RAMP] * 9)
    for memory_gb in (4, 1e-9):
        data = load_data(source, memory_gb=memory_gb)
        assert told(data, "3 of 9 images", "evenly spaced") and len(data.survey) == 3
    # An image that was not looked at, and that the decision does not cover, is an error and not a guess.
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a/002.png")
    with refused("a/002.png", "data.intensity"):
        load_data(source)
