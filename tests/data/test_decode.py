"""Every picture mode against closed forms of one known gradient."""

import io
from typing import Any

import numpy as np
import pytest
from inputs import tiff
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm.data.pixels.decode import (
    PixelFormat,
    UnreadableImage,
    UnsuitableFormat,
    is_gray,
    open_picture,
    stored_values,
    to_pixels,
)
from ddpm.data.pixels.fits import FITS
from ddpm.data.pixels.survey import examine
from ddpm.data.pixels.tiffs import FOURTH, LOST, SECOND

SIDE = 16
GRAY = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)
COLOR = np.stack([GRAY, GRAY[::-1], GRAY.T], axis=-1)
ALPHA = GRAY[:, ::-1].copy()


def pixels_of(image: Image.Image | np.ndarray, resolution: int, channels: int, **options: Any) -> np.ndarray:
    return to_pixels(image, PixelFormat(resolution, channels, **options))


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
    gray = pixels_of(image, SIDE, 1)
    assert gray.dtype == np.uint8 and gray.shape == (1, SIDE, SIDE)
    np.testing.assert_allclose(gray[0], expected, atol=tolerance)
    color = pixels_of(image, SIDE, 3)
    np.testing.assert_array_equal(color, np.repeat(gray, 3, axis=0))


@pytest.mark.parametrize("name", color_cases())
def test_color_modes(name: str) -> None:
    image, expected, tolerance = color_cases()[name]
    assert not is_gray(image)
    pixels = pixels_of(image, SIDE, 3)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_allclose(pixels.transpose(1, 2, 0), expected, atol=tolerance)
    luma = pixels.transpose(1, 2, 0) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(pixels_of(image, SIDE, 1)[0], luma, atol=1)


def test_what_is_hidden_under_full_transparency_does_not_show() -> None:
    hidden = np.dstack([COLOR, np.zeros_like(GRAY)])
    assert (pixels_of(Image.fromarray(hidden), SIDE, 3) == 255).all()


@pytest.mark.parametrize("values", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("window", [(0, 65535), (0, 4095), (-100, 1000), (700, 701)])
@pytest.mark.parametrize("channels", [1, 3])
def test_more_than_eight_bits_are_scaled_and_clipped(values: type, window: tuple[int, int], channels: int) -> None:
    """The closed form: linear between the ends of the window, and constant beyond."""
    ramp = (GRAY.astype(np.float64) * 257).astype(values)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG" if values is np.uint16 else "TIFF")
    image = Image.open(file)
    assert is_gray(image)
    low, high = window
    expected = np.interp(ramp, [low, high], [0, 255])
    pixels = pixels_of(image, SIDE, channels, intensity=(float(low), float(high)))
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=0.5)      # rounding
    np.testing.assert_array_equal(pixels_of(ramp, SIDE, channels, intensity=(float(low), float(high))), pixels)


def test_the_whole_range_of_sixteen_bits_keeps_the_first_eight() -> None:
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(pixels_of(deep, SIDE, 1, intensity=(0.0, 65535.0))[0], GRAY)


@pytest.mark.parametrize("name", ["L", "P", "RGB", "CMYK"])
def test_a_window_of_eight_bits(name: str) -> None:
    image = (gray_cases() | color_cases())[name][0]
    plain = pixels_of(image, SIDE, 3)
    expected = np.interp(plain, [50, 100], [0, 255])
    np.testing.assert_allclose(pixels_of(image, SIDE, 3, intensity_uint8=(50.0, 100.0)), expected, atol=0.5)


def test_a_window_does_not_change_alpha() -> None:
    image = Image.fromarray(np.dstack([COLOR, ALPHA]))
    pixels = pixels_of(image, SIDE, 4, intensity_uint8=(50.0, 100.0))
    np.testing.assert_array_equal(pixels[3], ALPHA)
    np.testing.assert_allclose(pixels[:3], np.interp(COLOR.transpose(2, 0, 1), [50, 100], [0, 255]), atol=0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    with pytest.raises(UnreadableImage, match="not a number"):
        pixels_of(Image.fromarray(np.float32([[0, value]])), 1, 1, intensity=(0.0, 1.0))


def test_values_without_a_scale_are_refused() -> None:
    with pytest.raises(UnsuitableFormat, match=r"data\.intensity"):
        pixels_of(Image.fromarray(np.float32([[0, 1]])), 1, 1)


def test_alpha_is_kept_if_there_is_room_for_it() -> None:
    rgba = Image.fromarray(np.dstack([COLOR, ALPHA]))
    np.testing.assert_array_equal(pixels_of(rgba, SIDE, 4).transpose(1, 2, 0), np.dstack([COLOR, ALPHA]))
    gray = Image.fromarray(np.stack([GRAY, ALPHA], -1))
    np.testing.assert_array_equal(pixels_of(gray, SIDE, 2), np.stack([GRAY, ALPHA]))
    np.testing.assert_array_equal(pixels_of(Image.fromarray(COLOR), SIDE, 4)[3], 255)      # opaque
    transparent = gray_cases()["P with transparency"][0]
    np.testing.assert_array_equal(pixels_of(transparent, SIDE, 2)[1], np.where(GRAY == 9, 0, 255))


@pytest.mark.parametrize("channels", [2, 4, 5, 7])
@pytest.mark.parametrize("fit", FITS)
def test_each_channel_of_an_array_is_an_image_of_its_own(channels: int, fit: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    pixels = pixels_of(values, 8, channels, fit=fit)
    alone = [pixels_of(Image.fromarray(values[..., c]), 8, 1, fit=fit)[0] for c in range(channels)]
    np.testing.assert_array_equal(pixels, alone)
    with pytest.raises(UnsuitableFormat, match=r"data\.channels"):
        pixels_of(values, 8, 3)


def stored(values: np.ndarray, *arguments: Any, **more: Any) -> np.ndarray:
    """Return what is read of a TIFF of these values, in the units of the file."""
    return stored_values(open_picture(io.BytesIO(tiff(values, *arguments, **more))))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("channels", "depth"), [(2, "u1"), (4, "u1"), (4, "<u2"), (4, ">u2")])
def test_a_channel_of_a_tiff_without_a_meaning_is_no_alpha(channels: int, depth: str, compressed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    scaled = (values.astype(np.float64) * (np.iinfo(depth).max / 255)).astype(depth)
    image = open_picture(io.BytesIO(tiff(scaled, {262: channels // 2, 338: 0}, compressed=compressed)))
    facts = examine(image)
    assert (facts.channels, facts.extra) == ((1, SECOND) if channels == 2 else (3, FOURTH))
    np.testing.assert_array_equal(pixels_of(image, SIDE, channels), values.transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels_of(image, SIDE, channels - 1), values[..., :-1].transpose(2, 0, 1))
    assert (pixels_of(image, SIDE, 6 - channels)[-1] == 255).all()      # of other images with alpha


def test_a_channel_in_a_plane_of_its_own_is_lost() -> None:
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    image = open_picture(io.BytesIO(tiff(values, {262: 2, 338: 0}, planes=True, compressed=True)))
    assert examine(image).extra == LOST
    np.testing.assert_array_equal(pixels_of(image, SIDE, 3), values[..., :3].transpose(2, 0, 1))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("depth", ["<u1", ">u1", "<u2"])
def test_0_is_white(depth: str, compressed: bool) -> None:
    values = (GRAY.astype(np.float64) * (np.iinfo(depth).max / 255)).astype(depth)
    np.testing.assert_array_equal(stored(~values, {262: 0}, compressed=compressed), values)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("depth", ["<i2", ">i2", "<u4", "<i4", ">i4", "<f4", ">f4"])
def test_many_bits_in_either_order_of_bytes(depth: str, compressed: bool) -> None:
    limits = np.finfo(depth) if "f" in depth else np.iinfo(depth)
    values = np.array([[limits.min, limits.max], [0, 258]], depth)
    np.testing.assert_array_equal(stored(values, {262: 1}, compressed=compressed), values)


def test_compressed_planes_of_16_bits() -> None:
    values = np.dstack([COLOR, ALPHA]).astype("<u2")[..., :3] * 257
    np.testing.assert_array_equal(stored(values, {262: 2}, planes=True, compressed=True), COLOR)


@pytest.mark.parametrize(("shape", "depth", "tags", "options"), [
    pytest.param((4, 4, 5), "u1", {262: 2, 338: 0}, {}, id="opened without some channels"),
    pytest.param((4, 4, 5), "u1", {262: 1, 338: 0}, {}, id="not opened"),
    pytest.param((4, 4, 3), "u2", {262: 2}, {"planes": True}, id="planes of 16 bits"),
    pytest.param((4, 4, 2), "u1", {262: 1, 338: 2}, {"planes": True, "compressed": True}, id="alpha in a plane"),
    pytest.param((4, 4), "i1", {262: 1}, {}, id="signed"),
    pytest.param((4, 4), "f4", {262: 0}, {}, id="floats of which 0 is white"),
])
def test_a_tiff_that_pillow_misreads_is_refused(shape: tuple, depth: str, tags: dict, options: dict) -> None:
    with pytest.raises(UnreadableImage, match=r"a TIFF .*\.npz or \.npy"):
        open_picture(io.BytesIO(tiff(np.zeros(shape, f"<{depth}"), tags, **options)))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_texts_of_a_file_are_not_taken_for_what_is_known_of_it(depth: type) -> None:
    """A PNG may have texts of any name."""
    texts = PngInfo()
    for name in ("extra", "inverted", "unsigned", "maxval", "reduced"):
        texts.add_text(name, name)
    file = io.BytesIO()
    Image.fromarray(GRAY.astype(depth)).save(file, "PNG", pnginfo=texts)
    image = open_picture(file)
    assert examine(image) == examine(Image.fromarray(GRAY.astype(depth)))
    np.testing.assert_array_equal(pixels_of(image, SIDE, 1, intensity=(0.0, 255.0))[0], GRAY)


SHAPES = [(300, 1), (1, 300), (2, 2), (30, 20), (1, 1)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_shape_becomes_a_square(fit: str, size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size, (200,) * len(mode) if len(mode) > 1 else 200)
    assert FITS[fit](image, 16).size == (16, 16) and FITS[fit](image, 16).mode == mode


def test_padding_keeps_the_whole_image_and_is_black_or_transparent() -> None:
    noise = np.random.default_rng(0).integers(1, 256, (6, 12), dtype=np.uint8)
    padded = pixels_of(Image.fromarray(noise), 12, 1, fit="pad")[0]
    np.testing.assert_array_equal(padded[3:9], noise)
    assert not padded[:3].any() and not padded[9:].any()
    np.testing.assert_array_equal(pixels_of(Image.fromarray(noise.T), 12, 1, fit="pad")[0], padded.T)
    opaque = Image.fromarray(np.full((6, 12, 4), 255, np.uint8))
    assert not pixels_of(opaque, 12, 4, fit="pad")[3, :3].any()
    assert (pixels_of(opaque, 12, 4, fit="pad")[3, 3:9] == 255).all()


def test_stretching_keeps_the_corners() -> None:
    quarters = np.kron([[0, 80], [160, 240]], np.ones((40, 10))).astype(np.uint8)
    pixels = pixels_of(Image.fromarray(quarters), 20, 1, fit="stretch")[0]
    np.testing.assert_array_equal(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], [0, 80, 160, 240])
    np.testing.assert_array_equal(pixels[[4, 15]][:, [4, 15]], [[0, 80], [160, 240]])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(7, 12), (12, 7), (5, 5)])
@pytest.mark.parametrize("resolution", [3, 5, 20])
def test_a_constant_stays_constant(mode: str, size: tuple[int, int], resolution: int) -> None:
    color = {"L": 90, "RGB": (10, 20, 30), "RGBA": (10, 20, 30, 255), "I;16": 90 * 257}[mode]
    pixels = pixels_of(Image.new(mode, size, color), resolution, 3, intensity=(0.0, 65535.0))
    expected = {"L": [90] * 3, "I;16": [90] * 3}.get(mode, [10, 20, 30])
    assert pixels.shape == (3, resolution, resolution)
    assert (pixels == np.array(expected)[:, None, None]).all()


def test_shrinking_averages_blocks() -> None:
    """Far from edges, an antialiased reduction of large blocks is the mean of each."""
    blocks = np.kron([[0, 255], [100, 30]], np.ones((64, 64))).astype(np.uint8)
    pixels = pixels_of(Image.fromarray(blocks), 8, 1)[0]
    means = blocks.reshape(8, 16, 8, 16).mean(axis=(1, 3))
    inner = np.ix_([0, 1, 6, 7], [0, 1, 6, 7])
    np.testing.assert_array_equal(pixels[inner], means[inner])


def test_shrinking_does_not_alias() -> None:
    """A checkerboard of single pixels becomes its mean; skipping pixels would give 0 or 255."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    inner = pixels_of(Image.fromarray(board), 8, 1)[0, 1:-1, 1:-1].astype(float)
    assert np.abs(inner - 127.5).max() < 2


def test_the_center_is_kept_and_the_right_size_is_untouched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_of(Image.fromarray(noise), 9, 1)[0], noise[:, 2:11])
    np.testing.assert_array_equal(pixels_of(Image.fromarray(noise.T), 9, 1)[0], noise.T[2:11])


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, GRAY), (3, np.rot90(GRAY, 2)), (6, np.rot90(GRAY, -1)), (8, np.rot90(GRAY)), (2, GRAY[:, ::-1])],
)
def test_exif_orientation(orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(pixels_of(Image.open(file), SIDE, 1)[0], upright)
