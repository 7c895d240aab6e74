"""What becomes of sources as people have them: which are read, as what, and what their owners are told."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from inputs import CLASSES, COUNT, INPUTS, NUMBERS, TWO, Accepted, Refused

from ddpm.data import ImageData, load_data
from ddpm.data.folders import loose_arrays
from ddpm.data.overview import describe_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes an input once and returns its source."""
    sources: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in sources:
            sources[name] = INPUTS[name][0](tmp_path_factory.mktemp(name) / "images")
        return sources[name]

    return make


@pytest.mark.parametrize(("name", "expected"), [
    pytest.param(name, case, id="-".join([name, *(f"{option}={value}" for option, value in case.options.items())]))
    for name, (_, *cases) in INPUTS.items()
    for case in cases
])
def test_source(name: str, expected: Accepted | Refused, made: Callable[[str], Path]) -> None:
    arguments = {"source": str(made(name)), **expected.options}
    if isinstance(expected, Refused):
        with pytest.raises(ValueError, match=rf"^data\.{expected.option}: .*\Z") as error:
            load_data(**arguments)
        told = str(error.value)
    else:
        data = load_data(**arguments)
        assert (len(data), data.class_names) == (expected.images, expected.classes)
        assert (data.channels, data.resolution) == (expected.channels, expected.resolution)
        assert sum(data.ignored.values()) == expected.ignored, data.ignored
        assert data.num_classes == len(expected.classes) and int(data.labels.max()) == max(0, data.num_classes - 1)
        assert_contrast(data)
        told = " ".join(data.notes)
    assert_plurals(told if isinstance(expected, Refused) else describe_data(data))
    assert not [words for words in expected.told if words not in told], told
    assert not [words for words in expected.suggested if f"--data.{words}" not in told], told
    assert set(re.findall(r"--data\.(\w+)", told)) == {words.split()[0] for words in expected.suggested}, told
    for options in suggestions(told):
        load_data(**arguments | options)


def assert_plurals(told: str) -> None:
    """Assert that one thing is not called by its plural, unless it is one of several."""
    assert not re.search(r"(?<![\d.,:'])1 (more )?(images|classes|files|rows|tables|folders|labels)\b", told), told


def suggestions(told: str) -> Iterator[dict[str, Any]]:
    """Yield the options that messages say to type.

    Guesses about a table are left out, files that a printed command writes first, and ranges for the reader to choose.
    """
    value = r"(?:'[^']*'|\"[^\"]*\"|[\w./-]+)"
    option = rf"--data\.(\w+) ({value}(?: or {value})*)"
    assert len(re.findall(option, told)) == told.count("--data."), told
    for typed in re.finditer(rf"(?<!if it has labels: )(?<!and use ){option}(?: {option})*", told):
        names, values = zip(*re.findall(option, typed[0]), strict=True)
        for texts in product(*(each.split(" or ") for each in values)):
            if not any("LOW" in text for text in texts):
                yield {name: yaml.safe_load(*shlex.split(text)) for name, text in zip(names, texts, strict=True)}


def assert_contrast(data: ImageData) -> None:
    """Assert that pictures are bright shapes on dark backgrounds, as they were made, and not in a wrong scale."""
    pixels, _ = data.__getitems__(range(min(len(data), 12)))
    assert (pixels.float().flatten(1).amax(1) - pixels.float().flatten(1).amin(1)).median() > 40


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
        assert_contrast(data)


def test_labels_of_arrays_are_the_folders_of_all_of_them(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loose_arrays, "EXAMINED", COUNT)        # as many as the first class has
    assert "labels=" in remedy_of(made("npy_each_in_classes"))


def test_folders_that_are_a_column_are_made_one_by_the_printed_command(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made("parquet_in_partitions")
    monkeypatch.chdir(tmp_path)
    told = " ".join(load_data(str(source)).notes)
    command, joined = re.search(r"column of them: (.*), and use --data.source (\S*)", told).groups()
    subprocess.run(command.replace("python", shlex.quote(sys.executable), 1), shell=True, check=True)
    data = load_data(joined)
    assert (len(data), data.class_names) == (TWO, CLASSES)


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
    INPUTS["splits_flat"][0](tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits")) == 1797 and any("--data.source ./digits" in note for note in load_data().notes)
    assert len(load_data("./digits")) == COUNT


def test_the_name_of_the_split_for_training_is_not_content(tmp_path: Path, made: Callable[[str], Path]) -> None:
    prints = {name: load_data(str(made(name))).fingerprint for name in ("splits", "splits_capital", "splits_training")}
    assert len(set(prints.values())) == 1, prints
