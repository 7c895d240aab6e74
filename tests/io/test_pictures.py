"""Images of any number of channels as files, as pictures, and in grids."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from toy_images import CHANNELS, pixels

from ddpm.io.pictures import (
    CAPTION_GAP,
    MAX_TILES,
    captioned_grid,
    count_tiles,
    describe_picture,
    encode_png,
    labeled_grid,
    to_picture,
    to_tensor,
)
from ddpm.pipeline import PIL_CHANNELS

H, W = 5, 7


def expected(image: np.ndarray) -> np.ndarray:
    """Return the tiles of an image, uint8 (C, H, W) -> (H, W * tiles, 3)."""
    color = [image[:3].transpose(1, 2, 0)] if len(image) >= 3 else []
    gray = [np.repeat(channel[:, :, None], 3, axis=2) for channel in image[3 * len(color) :]]
    return np.concatenate([*color, *gray], axis=1)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_picture_shows_every_channel(channels: int) -> None:
    image = pixels(0, (channels, H, W))
    picture = to_picture(torch.from_numpy(image))
    assert picture.mode == {1: "L"}.get(channels, "RGB") and picture.size == (W * count_tiles(channels), H)
    assert np.array_equal(np.asarray(picture.convert("RGB")), expected(image))


def test_no_value_is_hidden_by_another() -> None:
    """A channel that is 0, such as the alpha of transparent pixels, leaves the others visible."""
    image = torch.from_numpy(pixels(0, (4, H, W)))
    image[3] = 0
    assert np.array_equal(np.asarray(to_picture(image))[:, :W], image[:3].permute(1, 2, 0))


def test_many_channels_are_cut() -> None:
    image = pixels(0, (40, H, W))
    picture = to_picture(torch.from_numpy(image))
    assert picture.size == (W * MAX_TILES, H)
    assert np.array_equal(np.asarray(picture), expected(image)[:, : W * MAX_TILES])


@pytest.mark.parametrize("channels", range(1, 20))
def test_the_description_fits_the_picture(channels: int) -> None:
    text = describe_picture(channels)
    assert (text is None) == (channels in (1, 3))
    if text is not None:
        assert f"{count_tiles(channels)} tiles" in text and ("in color" in text) == (channels > 3)
        assert ("not shown" in text) == (channels > 2 + MAX_TILES)
        assert str(min(channels, 2 + MAX_TILES)) in text


@pytest.mark.parametrize("channels", range(1, PIL_CHANNELS + 1))
def test_a_png_has_exactly_these_values(channels: int) -> None:
    image = torch.from_numpy(pixels(0, (channels, H, W)))
    image[-1, :2] = 0       # with alpha: fully transparent pixels, which keep their color
    with Image.open(BytesIO(encode_png(image))) as read:
        assert read.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        assert torch.equal(to_tensor(read), image)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_grid_has_a_cell_for_each_image(channels: int) -> None:
    rows = [[torch.from_numpy(pixels(10 * r + c, (channels, 8, 8))) for c in range(3)] for r in range(2)]
    sheet = np.asarray(labeled_grid(rows, ["a", "b"], min_pixels=8))
    wide = 8 * count_tiles(channels)
    margin = sheet.shape[1] - 3 * (wide + 2)
    assert sheet.shape[0] == 2 * 10 + 2
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            cell = sheet[2 + 10 * r :, margin + c * (wide + 2) :][:8, :wide]
            assert np.array_equal(cell, expected(image.numpy()))


@pytest.mark.parametrize(("count", "side", "shown"), [
    (64, 8, (8, 8)), (64, 64, (8, 8)), (64, 1024, (2, 2)), (64, 300, (6, 6)), (3, 8, (2, 2)), (1, 8, (1, 1)),
    (5, 1, (3, 2)),
])
def test_a_grid_with_captions_is_nearly_square_and_not_too_large(count: int, side: int, shown: tuple[int, int]) -> None:
    images = [Image.new("RGB", (side, side), "red")] * count
    sheet = captioned_grid(images, ["cat"] * len(images))
    columns, rows = shown
    cell = max(64, side) + CAPTION_GAP
    assert sheet.width == columns * cell + CAPTION_GAP and sheet.height == rows * (cell + 15) + CAPTION_GAP
    assert max(sheet.size) < 2200
