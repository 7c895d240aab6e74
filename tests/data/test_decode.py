"""Every picture mode against closed forms of one known gradient."""

import io

import numpy as np
import pytest
from PIL import Image

from ddpm.data.decode import UnreadableImage, is_gray, to_pixels

SIDE = 16
GRAY = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)
COLOR = np.stack([GRAY, GRAY[::-1], GRAY.T], axis=-1)
ALPHA = GRAY[:, ::-1].copy()


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha / 255.0
    return values * weight + 255 * (1 - weight)


def palette_image(palette: list[int], **info: object) -> Image.Image:
    image = Image.fromarray(GRAY).copy()
    image.putpalette(palette)
    image.info.update(info)
    return image


def gray_ramp() -> list[int]:
    return [value for i in range(256) for value in (255 - i,) * 3]


def gray_cases() -> dict[str, tuple[Image.Image, np.ndarray, float]]:
    transparent = Image.fromarray(GRAY).copy()
    transparent.info["transparency"] = 7
    return {
        "1": (Image.fromarray(GRAY > 127), np.where(GRAY > 127, 255, 0), 0),
        "L": (Image.fromarray(GRAY), GRAY, 0),
        "L with a transparent value": (transparent, np.where(GRAY == 7, 255, GRAY), 0),
        "LA": (Image.fromarray(np.stack([GRAY, ALPHA], -1)), over_white(GRAY, ALPHA), 1),
        "P": (palette_image(gray_ramp()), 255 - GRAY, 0),
        "P with transparency": (palette_image(gray_ramp(), transparency=9), np.where(GRAY == 9, 255, 255 - GRAY), 0),
        "I;16": (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY, 0),
        "I;16 between": (Image.fromarray(GRAY.astype(np.uint16) * 256), GRAY * (256 / 257), 0.5),
        "I 8 bits": (Image.fromarray(GRAY.astype(np.int32)), GRAY, 0),
        "I 16 bits": (Image.fromarray(GRAY.astype(np.int32) * 257), GRAY, 0),
        "F to 1": (Image.fromarray(GRAY.astype(np.float32) / 255), GRAY, 0),
        "F to 255": (Image.fromarray(GRAY.astype(np.float32)), GRAY, 0),
    }


def color_cases() -> dict[str, tuple[Image.Image, np.ndarray, float]]:
    color = Image.fromarray(COLOR)
    ramp = [value for i in range(256) for value in (i, 255 - i, 128)]
    ramp_array = np.stack([GRAY, 255 - GRAY, np.full_like(GRAY, 128)], -1)
    return {
        "RGB": (color, COLOR, 0),
        "RGBA": (
            Image.fromarray(np.dstack([COLOR, ALPHA])),
            over_white(COLOR.astype(float), ALPHA[..., None]),
            1,
        ),
        "P": (palette_image(ramp), ramp_array, 0),
        "P with transparency": (
            palette_image(ramp, transparency=9),
            np.where(GRAY[..., None] == 9, 255, ramp_array),
            0,
        ),
        "CMYK": (color.convert("CMYK"), COLOR, 1),
        "YCbCr": (color.convert("YCbCr"), COLOR, 3),
    }


@pytest.mark.parametrize("name", gray_cases())
def test_gray_modes(name: str) -> None:
    image, expected, tolerance = gray_cases()[name]
    assert is_gray(image)
    gray = to_pixels(image, SIDE, 1)
    assert gray.dtype == np.uint8 and gray.shape == (1, SIDE, SIDE)
    np.testing.assert_allclose(gray[0], expected, atol=tolerance)
    color = to_pixels(image, SIDE, 3)
    np.testing.assert_array_equal(color, np.repeat(gray, 3, axis=0))


@pytest.mark.parametrize("name", color_cases())
def test_color_modes(name: str) -> None:
    image, expected, tolerance = color_cases()[name]
    assert not is_gray(image)
    pixels = to_pixels(image, SIDE, 3)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_allclose(pixels.transpose(1, 2, 0), expected, atol=tolerance)
    luma = pixels.transpose(1, 2, 0) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(to_pixels(image, SIDE, 1)[0], luma, atol=1)


def test_what_is_hidden_under_full_transparency_does_not_show() -> None:
    hidden = np.dstack([COLOR, np.zeros_like(GRAY)])
    assert (to_pixels(Image.fromarray(hidden), SIDE, 3) == 255).all()


@pytest.mark.parametrize("values", [np.uint16, np.int32])
def test_sixteen_bits_survive_a_file(values: type) -> None:
    file = io.BytesIO()
    Image.fromarray(GRAY.astype(values) * 257).save(file, "PNG" if values is np.uint16 else "TIFF")
    np.testing.assert_array_equal(to_pixels(Image.open(file), SIDE, 1)[0], GRAY)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.float32([[0, np.nan]]), "nan"),
        (np.float32([[0, 300]]), "0 to 255"),
        (np.float32([[-1, 1]]), "-1 to 1"),
        (np.int32([[0, 70000]]), "0 to 65535"),
    ],
)
def test_values_without_a_scale_are_refused(values: np.ndarray, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        to_pixels(Image.fromarray(values), 1, 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(7, 12), (12, 7), (5, 5)])
@pytest.mark.parametrize("resolution", [3, 5, 20])
def test_a_constant_stays_constant(mode: str, size: tuple[int, int], resolution: int) -> None:
    color = {"L": 90, "RGB": (10, 20, 30), "RGBA": (10, 20, 30, 255), "I;16": 90 * 257}[mode]
    pixels = to_pixels(Image.new(mode, size, color), resolution, 3)
    expected = {"L": [90] * 3, "I;16": [90] * 3}.get(mode, [10, 20, 30])
    assert pixels.shape == (3, resolution, resolution)
    assert (pixels == np.array(expected)[:, None, None]).all()


def test_shrinking_averages_blocks() -> None:
    """Far from edges, an antialiased reduction of large blocks is the mean of each."""
    blocks = np.kron([[0, 255], [100, 30]], np.ones((64, 64))).astype(np.uint8)
    pixels = to_pixels(Image.fromarray(blocks), 8, 1)[0]
    means = blocks.reshape(8, 16, 8, 16).mean(axis=(1, 3))
    inner = np.ix_([0, 1, 6, 7], [0, 1, 6, 7])
    np.testing.assert_array_equal(pixels[inner], means[inner])


def test_shrinking_does_not_alias() -> None:
    """A checkerboard of single pixels becomes its mean; skipping pixels would give 0 or 255."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    inner = to_pixels(Image.fromarray(board), 8, 1)[0, 1:-1, 1:-1].astype(float)
    assert np.abs(inner - 127.5).max() < 2


def test_the_center_is_kept_and_the_right_size_is_untouched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(noise), 9, 1)[0], noise[:, 2:11])
    np.testing.assert_array_equal(to_pixels(Image.fromarray(noise.T), 9, 1)[0], noise.T[2:11])


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, GRAY), (3, np.rot90(GRAY, 2)), (6, np.rot90(GRAY, -1)), (8, np.rot90(GRAY)), (2, GRAY[:, ::-1])],
)
def test_exif_orientation(orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(to_pixels(Image.open(file), SIDE, 1)[0], upright)
