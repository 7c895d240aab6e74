"""What becomes of sources as people have them: which are read, as what, and what their owners are told."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from inputs import CLASSES, COUNT, INPUTS

from ddpm.data import ImageData, load_data

Refused = Callable[..., AbstractContextManager[None]]
TWO = 2 * COUNT


class Read(NamedTuple):
    """What is expected of a source that can be read.

    Attributes:
        images: N.
        classes: names of the classes; none for a source that is read without classes.
        channels: C.
        resolution: H = W in pixels.
        told: words of the notes, such as options and numbers.
        untold: words that the notes do not have.
        ignored: number of files that are not read as images.
        options: arguments of `load_data`.
    """

    images: int = TWO
    classes: tuple[str, ...] = CLASSES
    channels: int = 3
    resolution: int = 16
    told: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    ignored: int = 0
    options: dict[str, Any] = {}        # noqa: RUF012


class No(NamedTuple):
    """What is expected of a source that is refused: words of the message, and arguments of `load_data`."""

    told: tuple[str, ...]
    options: dict[str, Any] = {}        # noqa: RUF012


NO_CLASSES = ("data.labels filename", "data.labels ")
NUMBERS = ("0", "1")
EXPECTED: dict[str, Read | No | list[Read | No]] = {
    # ------------------------------------------------------------------------------------------------------- pixels
    "png_16_bit": Read(channels=1),
    "png_12_bit": Read(channels=1, told=("4095", "data.intensity")),
    "png_10_bit": Read(channels=1, told=("1023", "data.intensity")),
    "gray_alpha": [Read(channels=1, told=("data.channels 2",)), Read(channels=2, options={"channels": 2})],
    "rgba": [Read(told=("data.channels 4",)), Read(channels=4, options={"channels": 4})],
    "palette_transparent": Read(told=("data.channels 4",)),
    "cmyk_jpeg": Read(),
    "lab_tiff": [Read(), Read(channels=1, options={"channels": 1})],
    "gray_in_color": [
        Read(told=("data.channels 1",)),
        Read(untold=("data.channels",), options={"channels": 3}),
        Read(channels=1, untold=("data.channels",), options={"channels": 1}),
    ],
    "one_bit": Read(channels=1),
    "exif_rotated": Read(),
    "animated_gif": [Read(told=("data.frames all",)), Read(4 * TWO, options={"frames": "all"})],
    "animated_webp": [Read(told=("data.frames all",)), Read(4 * TWO, options={"frames": "all"})],
    "tiff_pages": [Read(told=("data.frames all",)), Read(3 * TWO, options={"frames": "all"})],
    "tiff_float_0_1": Read(channels=1, told=("data.intensity",)),
    "tiff_float_hounsfield": [
        Read(channels=1, told=("data.intensity", "LOW, HIGH"), untold=("-1000, ",)),
        Read(channels=1, told=("clip",), options={"intensity": [-200, 400]}),
    ],
    "tiff_float_0_4000": Read(channels=1, told=("data.intensity",)),
    "tiff_float_dark_frames": Read(channels=1, told=("data.intensity",)),
    "tiff_int32": Read(channels=1, told=("data.intensity",)),
    "tiff_nan": No(("data.source", "square/000.tif", "data.on_bad_image skip")),
    "gray_first": [
        Read(told=("11 color and 1 gray", "data.channels 1")),
        Read(untold=("gray",), options={"channels": 3}),
    ],
    "color_first": [
        Read(told=("1 color and 11 gray", "data.channels 1")),
        Read(channels=1, untold=("gray",), options={"channels": 1}),
    ],
    "smaller_than_the_resolution": [
        Read(resolution=8, told=("data.resolution",)),
        Read(resolution=32, options={"resolution": 32}),
    ],
    "mixed_sizes": Read(resolution=8, told=("10x40", "45x30", "data.resolution")),
    "first_is_tiny": Read(24, resolution=32, told=("2x2", "32x32", "data.resolution")),
    "not_square": [
        Read(told=("data.fit pad",)),
        Read(told=("data.fit pad",), untold=("enlarged",), options={"resolution": 16}),
        Read(resolution=32, told=("data.fit pad", "32x32", "12 of 12"), options={"resolution": 32}),
        Read(resolution=32, untold=("data.fit", "12 of 12"), options={"resolution": 32, "fit": "pad"}),
        Read(options={"fit": "pad"}),
        Read(options={"fit": "stretch"}),
    ],
    "size_28": Read(channels=1, resolution=28),
    "size_48": Read(resolution=48),
    "size_100": [
        Read(resolution=64, told=("100", "data.resolution")),
        Read(resolution=100, options={"resolution": 100}),
    ],
    "size_17": Read(resolution=16, told=("17", "data.resolution")),
    "one_pixel_high": Read(24, resolution=16, told=("300x1",)),
    "huge": [
        No(("data.source", "disc/000.png", "data.on_bad_image skip")),
        Read(TWO - 1, options={"on_bad_image": "skip"}),
    ],
    "damaged": [
        No(("data.source", "disc/003.png", "data.on_bad_image skip")),
        Read(TWO - 3, resolution=64, options={"on_bad_image": "skip"}),
    ],
    "wrong_ending": Read(),
    # ------------------------------------------------------------------------------------------------------ folders
    "nested": Read(3 * COUNT),
    "numeric_classes": Read(24, tuple(sorted(str(i) for i in range(12)))),
    "imbalanced": Read(61, told=("1 to 60",), untold=("data.balance",)),
    "two_images": Read(2),
    "splits": [Read(), Read(options={"split": "test"})],
    "splits_capital": [Read(), Read(options={"split": "test"})],
    "splits_training": [Read(), Read(options={"split": "test"})],
    "splits_eval": [
        Read(),
        Read(options={"split": "dev"}),
        Read(options={"split": "eval"}),
        No(("data.split", "dev", "eval"), {"split": "validation"}),
    ],
    "splits_without_train": [No(("data.split", "validation", "test")), Read(options={"split": "val"})],
    "splits_class_missing": Read(3 * COUNT, ("disc", "hexagon", "square")),
    "splits_flat": Read(COUNT, (), told=NO_CLASSES),
    "splits_in_classes": [
        Read(ignored=0, told=("disc/train", "--data.split test")),
        Read(told=("disc/test",), options={"split": "test"}),
        Read(classes=(), options={"labels": "none"}),
        No(("data.split", "validation", "disc", "rename"), {"split": "validation"}),
    ],
    "splits_in_some_classes": [
        Read(3 * COUNT, told=("disc/test", "square", "move")),
        No(("data.split", "--data.split train"), {"split": "test"}),
    ],
    "split_in_each_class_but_one": [Read(), No(("data.split", "square", "train"), {"split": "test"})],
    "only_a_val_split": [
        No(("--data.split val",)),
        Read(COUNT, (), told=("one more folder",), untold=("one folder per class",), options={"split": "val"}),
    ],
    "only_the_test_split_has_classes": [
        Read(COUNT, (), told=("'broken' and 'good'", "--data.split test"), untold=("one folder per class",)),
        Read(classes=("broken", "good"), options={"split": "test"}),
    ],
    "empty_split": [No(("data.source", "--data.split test")), Read(options={"split": "test"})],
    "class_called_train": Read(3 * COUNT, ("plane", "ship", "train")),
    "wrapper": Read(told=("dataset",)),
    "wrapper_of_splits": [Read(told=("dataset",)), Read(options={"split": "validation"})],
    "one_class": Read(COUNT, (), told=NO_CLASSES),
    "class_called_none": No(("data.source", "'none'", "rename")),
    "classes_called_recycled": Read(classes=("recycled", "recycler")),
    "classes_called_test": No(("data.split", "test1", "rename")),
    "images_beside_masks": Read(classes=(), told=("/masks", "masks of images")),
    "images_beside_a_folder": Read(classes=(), told=("6 images", "/more")),
    "masks_in_classes": Read(4 * COUNT, told=("disc/masks", "masks of images")),
    "odd_names": Read(classes=("my disc (1)", "квадрат #2, ünïcode")),
    "flat": [
        Read(classes=(), told=NO_CLASSES),
        Read(options={"labels": "filename"}),
        Read(classes=(), options={"labels": "none"}),
        No(("data.labels", "filename", "PATH"), {"labels": "folders"}),
    ],
    "camera_names": Read(COUNT, (), told=NO_CLASSES),
    # five files in each of three folders, and eight folders
    "litter": Read(ignored=5 * 3 + 8),
    "links": Read(3 * COUNT),
    "broken_link": [
        No(("data.source", "disc/zz.png", "data.on_bad_image skip")),
        Read(options={"on_bad_image": "skip"}),
    ],
    "empty_class": No(("data.source", "zebra")),
    "empty_folder": No(("data.source",)),
    "loose_images": Read(ignored=3),
    "split_without_classes": [
        Read(ignored=1),
        No(("labels.csv", "data.labels none"), {"split": "test"}),
        Read(COUNT, (), ignored=1, options={"split": "test", "labels": "none"}),
    ],
    "class_folders_with_other_labels": [
        Read(8, ("dark", "light"), told=("/disc", "--data.labels folders"), ignored=4),
        Read(8, told=("selects", "'train'"), ignored=4, options={"labels": "folders"}),
        Read(4, ignored=8, options={"labels": "folders", "split": "test"}),
        No(("data.label_column",), {"labels": "folders", "label_column": "label"}),
    ],
    "class_folders_with_metadata": Read(told=("metadata.csv", "breed, count"), ignored=1),
    "class_folders_with_file_names": Read(told=("metadata.csv",), ignored=1),
    "class_folders_with_splits": [
        Read(8, told=("metadata.csv",), ignored=4),
        Read(4, told=("metadata.csv", "'test'"), ignored=8, options={"split": "test"}),
        No(("data.split", "metadata.csv", "test, train"), {"split": "validation"}),
    ],
    "class_folders_with_captions_and_splits": [
        Read(told=("metadata.csv", "data.label_column"), ignored=1),
        Read(8, ignored=4, options={"labels": "folders"}),
        Read(4, (), ignored=8, options={"labels": "none", "split": "test"}),
        No(("data.label_column", "data.labels"), {"labels": "folders", "label_column": "text"}),
    ],
    "class_folders_with_split_table": [
        Read(8, told=("parts.csv",), ignored=4),
        Read(8, (), told=("parts.csv",), ignored=4, options={"labels": "none"}),
        Read(4, ignored=8, options={"split": "test"}),
    ],
    "class_folders_with_numbered_splits": Read(told=("metadata.csv", "'split'", "'1', '0'", "validation"), ignored=1),
    "class_folders_with_unreadable_class": [
        No(("data.source", "zebra/000.png", "data.on_bad_image skip")),
        No(("data.on_bad_image", "'zebra'", "zebra/000.png", "data.labels none"), {"on_bad_image": "skip"}),
        Read(classes=(), options={"on_bad_image": "skip", "labels": "none"}),
    ],
    "class_folders_and_text_file": Read(told=("labels.txt", ".csv", "data.labels"), ignored=1),
    "class_folders_that_a_table_contradicts": [
        Read(classes=("even", "odd"), told=("metadata.csv", "/disc", "--data.labels folders")),
        Read(ignored=1, options={"labels": "folders"}),
    ],
    "tables_beside_splits": [
        Read(COUNT, told=("train.csv", "sample.csv", "--data.labels"), ignored=2),
        Read(COUNT, ("a", "b"), ignored=2, options={"split": "test"}),
    ],
    "table_of_another_split": [
        Read(COUNT, (), told=("test.csv", "--data.labels"), ignored=1),
        Read(COUNT, ignored=0, options={"split": "test"}),
    ],
    "part_of_a_table_of_another_split": Read(COUNT, (), told=("test.csv", "no row for 2 of 6"), ignored=1),
    "tables_of_splits": [
        No(("data.labels", "--data.source", "train.csv", "data.labels none")),
        No(("--data.source", "test.csv"), {"split": "test"}),
    ],
    "splits_with_odd_splits": [Read(COUNT), Read(COUNT, options={"split": "test"})],
    "class_folders_with_odd_splits": No(("data.split", "metadata.csv", "'public'", "rename the column")),
    "class_folders_with_bare_names": [
        Read(told=("labels.csv", "'000.png'", "disc/000.png"), ignored=1),
        No(("data.image_column", "'000.png'", "disc/000.png"), {"labels": "labels.csv"}),
    ],
    "hashes_in_parquet": Read(ignored=1),
    "images_in_parquet": Read(ignored=1),
    "images_and_images_in_parquet": No(("data.source", "parquet", "6 more")),
    "class_folders_with_parquet": Read(told=("features.parquet",), ignored=1),
    "names_not_utf_8": No(("data.source", "rename")),
    "names_with_control_characters": No(("data.source", "rename")),
    "videos": No(("data.source", "video", "ffmpeg")),
    "photos_of_a_phone": No(("data.source", "HEIC", "JPEG")),
    "some_photos_of_a_phone": Read(ignored=1),
    "medical_files": No(("data.source", ".npz", "data.intensity")),
    "segmentation": Read(classes=("images", "masks"), told=("masks", "--data.source", "/images")),
    "archive": No(("data.source", "unpack")),
    # ------------------------------------------------------------------------------------------------------- labels
    "metadata_csv": Read(),
    "metadata_jsonl": Read(),
    "labels_csv": Read(),
    "labels_csv_of_excel": Read(),
    "labels_csv_without_endings": Read(),
    "labels_csv_incomplete": No(("labels.csv", "no row for 2 of 12", "data.source")),
    "labels_csv_nan": No(("data.label_column", "003.png", "data.labels none")),
    "labels_csv_without_header": Read(),
    "labels_csv_of_splits": No(("data.split", "'split'", "labels.csv", "'public'", "validation")),
    "labels_csv_of_blank_splits": No(("data.split", "'split'", "labels.csv", "''", "validation")),
    "breeds_csv_incomplete": No(("data.labels", "breeds.csv", "no row for 2 of 12", "data.source")),
    "breeds_csv_of_others": Read(classes=(), told=("breeds.csv", "no row for 10 of 12"), ignored=1),
    "dataset_json_number": No(("data.labels", "dataset.json", "pairs")),
    "labels_csv_two_columns": [
        No(("data.label_column", "label, class", "data.label_column")),
        Read(classes=("0", "1", "2"), options={"label_column": "class"}),
        No(("data.label_column", "'id'", "label, class", "data.image_column"), {"label_column": "id"}),
        No(("data.label_column", "'id'", "label, class"), {"label_column": "id", "image_column": "id"}),
    ],
    "labels_csv_two_names": [
        Read(classes=NUMBERS, told=("'class'", "--data.label_column class_name")),
        Read(options={"label_column": "class_name"}),
    ],
    "labels_csv_and_measurement": Read(untold=("label_column",)),
    "labels_csv_same_header": No(("labels.csv", "'label'", "twice", "rename")),
    "labels_csv_open_quote": No(("labels.csv", "line 6", "quote")),
    "labels_csv_odd_quotes": No(("labels.csv", "line 6", "line 9", "quote")),
    "labels_csv_numbered_splits": [
        Read(told=("'split'", "'0', '1'", "validation")),
        No(("data.split", "--data.split train"), {"split": "test"}),
    ],
    "labels_csv_with_splits": [
        Read(8, ignored=4),
        Read(8, (), told=("labels.csv", "'train'"), ignored=4, options={"labels": "none"}),
        Read(4, (), ignored=8, options={"labels": "none", "split": "test"}),
        No(("data.split", "labels.csv", "test, train"), {"labels": "none", "split": "val"}),
    ],
    "labels_csv_in_both_splits": Read(told=("6 images", "'train'", "other splits", "000.png")),
    "labels_csv_name_with_space": Read(classes=NUMBERS, told=("--data.label_column 'class name'",)),
    "labels_csv_long_numbers": Read(classes=(str(10**19), str(10**19 + 1))),
    "labels_json_mixed": No(("data.label_column", "000.png", "001.png", "'1' (str)", "1 (int)", "data.labels none")),
    "labels_json_truth_mixed": No(("data.label_column", "001.png", "0 (int)", "True (bool)")),
    "labels_json_twice": No(("labels.json", "'000.png'", "twice")),
    "labels_jsonl_broken": No(("labels.jsonl", "line 15")),
    "labels_jsonl_number": No(("labels.jsonl", "line 2")),
    "labels_txt": [
        Read(classes=(), told=("labels.txt", ".csv"), ignored=1),
        No(("data.labels", "labels.txt", ".csv"), {"labels": "labels.txt"}),
    ],
    "tables_that_differ": [
        No(("data.labels", "--data.labels", "metadata.csv", "labels.csv")),
        Read(ignored=1, options={"labels": "labels.csv"}),
    ],
    "tables_that_agree": [
        Read(classes=NUMBERS, told=("metadata.csv", "--data.labels", "labels.csv"), ignored=1),
        Read(ignored=1, options={"labels": "labels.csv"}),
    ],
    "tables_of_labels_and_of_splits": [
        Read(8, told=("parts.csv",), ignored=4),
        Read(4, told=("parts.csv",), ignored=8, options={"split": "test"}),
        Read(8, (), ignored=5, options={"labels": "none"}),
    ],
    "labels_csv_too_long": Read(told=("labels.csv", "999.png")),
    "dataset_json": Read(classes=NUMBERS),
    "dataset_json_without_labels": Read(classes=(), told=NO_CLASSES),
    "table_csv": [Read(), No(("data.labels", "filename"), {"labels": "folders"})],
    "table_of_captions": [
        No(("data.label_column", "caption", "data.labels none")),
        No(("data.label_column", "data.labels none"), {"labels": "none", "label_column": "caption"}),
        Read(classes=(), options={"labels": "none"}),
        Read(options={"labels": "filename"}),
    ],
    "parquet_float": No(("data.label_column", "row 0", "float", "data.labels none")),
    "parquet_nan": No(("data.label_column", "row 1", "data.labels none")),
    "parquet_none": No(("data.label_column", "row 1")),
    "parquet_bool": Read(classes=("False", "True")),
    "parquet_text": Read(),
    "parquet_lists": No(("data.label_column", "list")),
    "parquet_digits": Read(classes=tuple(sorted(str(i) for i in range(TWO)))),
    "parquet_gap": No(("data.label_column", "0 is missing", "row 0", "data.labels none")),
    "parquet_empty_text": No(("data.source", "''", "row 0")),
    "parquet_capital": Read(),
    "parquet_odd_column": [
        No(("data.label_column", "breed")),
        Read(options={"label_column": "breed"}),
    ],
    "parquet_two_columns": [
        No(("data.label_column", "label, class")),
        Read(classes=("0", "1", "2"), options={"label_column": "class"}),
    ],
    "parquet_splits": Read(told=("'split'", "parquet")),
    "parquet_one_class": Read(classes=(), told=("data.label",)),
    "npz": Read(classes=NUMBERS),
    "npz_float_labels": No(("data.source", "row 0", "float", "data.labels none")),
    "npz_label_column": No(("labels", "(12, 1)")),
    "npz_one_hot": No(("labels", "argmax")),
    "npz_bool_labels": Read(classes=("False", "True")),
    "npz_gap": No(("data.source", "1 is missing", "row 1", "data.labels none")),
    "npz_one_based": No(("data.source", "0 is missing", "row 0", "data.labels none")),
    "npz_negative": No(("data.source", "row 0", "-1", "data.labels none")),
    "npz_text_labels": Read(),
    "npz_text_labels_and_names": Read(classes=("square", "disc")),
    "npz_text_labels_beyond_names": No(("data.source", "row 0", "'square'", "disc, hexagon", "data.labels none")),
    "npz_bytes_labels": No(("images.npz", "labels.astype(str)")),
    "npz_huge_labels": No(("data.source", "row 0", str(2**63), "data.labels none")),
    "npz_object_labels": No(("images.npz",)),
    "npz_without_labels": Read(classes=(), told=("labels",)),
    "npz_4_channels": Read(classes=NUMBERS, channels=4),
    "npz_5_channels": Read(classes=NUMBERS, channels=5),
    "npz_channels_first": No(("images.npz", "transpose(0, 2, 3, 1)")),
    "npz_last_of_2_channels": Read(classes=NUMBERS, channels=2, untold=("black",)),
    "npz_class_names_object": No(("class_names", "astype(str)")),
    "npz_int64": Read(classes=NUMBERS, untold=("data.intensity",)),
    "npz_spectral": No(("images.npz", "transpose(0, 2, 3, 1)", "if not", "16")),
    "npz_float": Read(classes=NUMBERS, told=("data.intensity",)),
    "npz_uint16": Read(classes=NUMBERS),
    "npz_of_keras": No(("images.npz", "x_train")),
    "npz_not_square": Read(classes=NUMBERS, resolution=8, told=("data.fit",)),
    "npz_1000_classes": Read(2000, tuple(map(str, range(1000))), resolution=8),
    "npy": Read(classes=(), told=("labels",)),
    "npy_each": No(("data.source", "12 arrays", "0000.npy", "python -c")),
    "npy_each_in_classes": No(("data.source", "12 arrays", "0000.npy", "python -c", "labels=")),
    "npy_each_float": No(("data.source", "12 arrays", "python -c", "labels=")),
    "npy_each_channels_first": No(("data.source", "6 arrays", "python -c", "moveaxis")),
    "npy_of_several_each": No(("data.source", "0000.npy", "name that file")),
    "npy_of_keras": No(("data.source", "x_train.npy")),
    "npz_each_with_label": No(("data.source", "12 arrays", "python -c", '["label"]')),
    "npz_each": No(("data.source", "6 arrays", "0000.npz", "python -c")),
    "npz_each_in_classes": No(("data.source", "12 arrays", "python -c", "labels=")),
    "npz_each_of_several_channels": No(("data.source", "12 arrays", "python -c", "labels=")),
    "npy_each_of_several_shapes": No(("data.source", "6 arrays", "shapes differ", "PNG")),
    "npy_beside_labels": No(("data.source", "--data.source '", "the images.npy")),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes an input once and returns its source."""
    sources: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in sources:
            sources[name] = INPUTS[name](tmp_path_factory.mktemp(name) / "images")
        return sources[name]

    return make


def cases() -> list[Any]:
    every = {name: case if isinstance(case, list) else [case] for name, case in EXPECTED.items()}
    return [
        pytest.param(name, case, id="-".join([name, *(f"{k}={v}" for k, v in case.options.items())]))
        for name, several in every.items()
        for case in several
    ]


@pytest.mark.parametrize(("name", "expected"), cases())
def test_source(name: str, expected: Read | No, made: Callable[[str], Path], refused: Refused) -> None:
    source = made(name)
    if isinstance(expected, No):
        with refused(*expected.told):
            load_data(str(source), **expected.options)
        return
    data = load_data(str(source), **expected.options)
    assert (len(data), data.class_names) == (expected.images, expected.classes)
    assert (data.channels, data.resolution) == (expected.channels, expected.resolution)
    told = " ".join(data.notes)
    assert not [words for words in expected.told if words not in told], told
    assert not [words for words in expected.untold if words in told], told
    assert sum(data.ignored.values()) == expected.ignored, data.ignored
    assert data.num_classes == len(expected.classes) and int(data.labels.max()) == max(0, data.num_classes - 1)
    assert_images_differ(data)


def assert_images_differ(data: ImageData) -> None:
    """Pictures of the inputs are bright shapes on dark backgrounds; none is lost in a wrong scale."""
    pixels, _ = data.__getitems__(range(min(len(data), 12)))
    assert (pixels.float().flatten(1).amax(1) - pixels.float().flatten(1).amin(1)).median() > 40


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_message_says_to_type_works(name: str, made: Callable[[str], Path]) -> None:
    source = made(name)
    try:
        told = " ".join(load_data(str(source)).notes)
    except ValueError as problem:
        told = str(problem)
    value = r"(?:'[^']*'|\"[^\"]*\"|[\w./-]+)"
    # not a guess about a table, nor a file that a printed command writes first
    certain = r"(?<!if it has labels: )(?<!and use )"
    for option, values in re.findall(rf"{certain}--data\.(\w+) ({value}(?: or {value})*)", told):
        for typed in values.split(" or "):
            (text,) = shlex.split(typed)
            if "LOW" not in text:       # a range for the reader to choose
                load_data(**{"source": str(source), option: yaml.safe_load(text)})


def test_every_input_has_an_expectation() -> None:
    special = {"link_cycle"}
    assert INPUTS.keys() == EXPECTED.keys() | special


def test_links_that_form_a_cycle_are_followed_once(made: Callable[[str], Path]) -> None:
    start = time.monotonic()
    data = load_data(str(made("link_cycle")))
    assert data.class_names == CLASSES and time.monotonic() - start < 10


def remedy_of(source: Path) -> str:
    with pytest.raises(ValueError, match=r"data\.source") as error:
        load_data(str(source))
    return str(error.value)


@pytest.mark.parametrize(("name", "classes", "channels"), [
    ("npy_each", (), 1), ("npy_each_in_classes", CLASSES, 3), ("npy_each_float", ('a "b"', "it's"), 1),
    ("npz_each", (), 1),
    ("npz_each_with_label", NUMBERS, 1),
    ("npy_each_channels_first", (), 3),
    ("npz_each_in_classes", CLASSES, 1), ("npz_each_of_several_channels", CLASSES, 7),
])
def test_arrays_of_one_image_each_are_joined_by_the_printed_command(
    name: str, classes: tuple[str, ...], channels: int, made: Callable[[str], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = made(name)
    monkeypatch.chdir(tmp_path)
    for existing in (0, 1):     # a file of the name is not overwritten
        command, joined = re.search(r"join them: (.*), and use --data\.source (\S*);", remedy_of(source)).groups()
        subprocess.run(command.replace("python", shlex.quote(sys.executable), 1), shell=True, check=True)
        data = load_data(joined)
        assert len([*tmp_path.iterdir()]) == existing + 1
        assert (data.class_names, data.channels) == (classes, channels)
        assert len(data) == len([*source.rglob("*.np[yz]")])
        assert_images_differ(data)


@pytest.mark.parametrize(("name", "images"), [
    ("npy_beside_labels", TWO), ("npy_of_several_each", 9), ("npy_of_keras", TWO),
])
def test_an_array_of_images_in_a_folder_is_named(name: str, images: int, made: Callable[[str], Path]) -> None:
    (named,) = shlex.split(re.search(r"--data\.source (.*?);", remedy_of(made(name)))[1])
    assert len(load_data(named)) == images


def test_options_that_name_what_is_found_anyway_do_not_count(made: Callable[[str], Path]) -> None:
    table, flat = made("metadata_csv"), made("flat")
    for options in ({"labels": str(table / "metadata.csv")}, {"image_column": "file_name", "label_column": "label"}):
        assert load_data(str(table), **options).fingerprint == load_data(str(table)).fingerprint
    assert load_data(str(flat), labels="none").fingerprint == load_data(str(flat)).fingerprint


def test_a_folder_with_the_name_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    INPUTS["splits_flat"](tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits")) == 1797 and any("--data.source ./digits" in note for note in load_data().notes)
    assert len(load_data("./digits")) == COUNT


def test_the_name_of_the_split_for_training_is_not_content(tmp_path: Path, made: Callable[[str], Path]) -> None:
    prints = {name: load_data(str(made(name))).fingerprint for name in ("splits", "splits_capital", "splits_training")}
    assert len(set(prints.values())) == 1, prints
