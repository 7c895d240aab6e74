"""Folders as people have them: which images are found, which labels they get, and what is said about the rest.

Every image has a color of its own, so that the tests compare pixels with the path under which they were saved.
"""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ddpm.data import load_data
from ddpm.data.folders import folder_labels
from ddpm.data.folders.scan import BESIDE_CLASSES, CYCLES
from ddpm.data.folders.split_names import COMPANIONS, SPLITS, split_groups
from ddpm.data.labels import image_index
from ddpm.data.labels.image_index import index_images
from ddpm.data.records import FilePictures, Records
from ddpm.data.request import DataRequest
from ddpm.data.sources.kinds import load_records

CLASSES = ("disc", "square")


def save(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (number, 40, 90)).save(path)
    return path


def save_classes(root: Path, classes: tuple[str, ...] = CLASSES, count: int = 3) -> Path:
    for label, name in enumerate(classes):
        for i in range(count):
            save(root / name / f"{i}.png", 10 * label + i)
    return root


def save_flat(root: Path, names: tuple[str, ...] = CLASSES, count: int = 3) -> Path:
    for label, name in enumerate(names):
        for i in range(count):
            save(root / f"{name}_{i}.png", 10 * label + i)
    return root


def read(source: Path, **options: str) -> Records:
    return load_records(DataRequest(str(source), **options))


def found(records: Records) -> dict[str, str | None]:
    """Map paths to class names."""
    assert isinstance(records.pictures, FilePictures)
    names = [records.class_names[i] if records.class_names else None for i in records.labels.tolist()]
    return dict(zip(records.pictures.paths, names, strict=True))


def expected(root: Path, pattern: str = "*/*.png") -> dict[str, str | None]:
    """Map the images of class folders to the names of the folders."""
    return {str(path): path.parent.name for path in sorted(root.glob(pattern))}


def said(records: Records, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in records.notes)


# Splits


@pytest.mark.parametrize(("group", "word"), [(group, word) for group, words in SPLITS.items() for word in words])
def test_every_usual_name_of_a_split_in_any_letter_case(group: str, word: str, tmp_path: Path) -> None:
    other = "train" if group == "test" else "test"
    for number, name in enumerate((word, word.upper(), word.capitalize(), f"{word}_set", f"{word}-2017", f"my_{word}")):
        root = tmp_path / str(number)
        beside = f"my_{other}" if name.startswith("my") else other
        save_classes(root / name)
        save_classes(root / beside, count=1)
        for asked in (name, group, group.upper(), SPLITS[group][-1]):
            records = read(root, split=asked)
            assert found(records) == expected(root / name) and records.split == name
            assert (name == asked) != said(records, repr(asked), repr(name))


def test_names_that_are_no_splits() -> None:
    words = ["cat", "trainer", "testament", "valley", "devil", "rain", "dress_train_blue", "", "12", "protest"]
    assert set(split_groups(words).values()) == {None}
    assert not set(SPLITS) & set(COMPANIONS)


def test_folders_that_all_look_like_splits_are_no_classes_even_if_they_hold_images(tmp_path: Path) -> None:
    for name in ("Train", "Test"):
        save(tmp_path / name / "0.png")
    records = read(tmp_path)
    assert found(records) == {str(tmp_path / "Train/0.png"): None}
    assert found(read(tmp_path, split="test")) == {str(tmp_path / "Test/0.png"): None}


def test_the_exact_name_wins_and_two_synonyms_are_ambiguous(refused: Callable, tmp_path: Path) -> None:
    for number, name in enumerate(("train", "val", "valid", "Test", "TEST")):
        save_classes(tmp_path / name, count=number + 1)
    for name in ("val", "valid", "Test", "TEST"):
        assert read(tmp_path, split=name).split == name
    assert read(tmp_path, split="VAL").split == "val"
    with refused("data.split", "'dev'", "'val'", "'valid'"):
        read(tmp_path, split="dev")
    with refused("data.split", "'test'", "'Test'", "'TEST'"):
        read(tmp_path, split="test")
    with refused("data.split", "did you mean valid?", "train"):
        read(tmp_path, split="valdi")


def test_a_split_that_is_not_there_is_not_replaced(refused: Callable, tmp_path: Path) -> None:
    save_classes(tmp_path / "validation")
    save_classes(tmp_path / "test")
    with refused("data.split", "'train'", "test, validation"):
        read(tmp_path)


def test_slices_and_fingerprints_do_not_depend_on_the_synonym_that_was_asked_for(tmp_path: Path) -> None:
    save_classes(tmp_path / "Training", count=4)
    save_classes(tmp_path / "Testing")
    by_name = {split: load_data(str(tmp_path), split=f"{split}[2:6]") for split in ("Training", "train", "TRAINING")}
    assert len({data.fingerprint for data in by_name.values()}) == 1
    assert {str(data.part) for data in by_name.values()} == {"Training[2:6]"}
    assert by_name["train"].part.shared(by_name["Training"].part) == 4


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_fingerprints_do_not_depend_on_the_synonym_of_the_source(split: str, tmp_path: Path) -> None:
    for name in SPLITS[split]:
        save_classes(tmp_path / name / name)
        save_classes(tmp_path / name / ("test" if split == "train" else "train"), count=1)
    assert len({load_data(str(tmp_path / name), split=split).fingerprint for name in SPLITS[split]}) == 1


def test_a_train_among_cars_is_a_class_and_a_third_folder_beside_two_splits_is_one(tmp_path: Path) -> None:
    save_classes(tmp_path / "vehicles", ("car", "bus", "train"))
    records = read(tmp_path / "vehicles")
    assert records.class_names == ("bus", "car", "train") and said(records, "'train'", "class")
    for name in ("train", "test", "more"):
        save_classes(tmp_path / "three" / name)
    records = read(tmp_path / "three")
    assert found(records) == expected(tmp_path / "three/train") and not said(records, "class")
    assert found(read(tmp_path / "three", split="more")) == expected(tmp_path / "three/more")


def test_valid_and_invalid_are_classes_however_deep_their_images_lie(tmp_path: Path) -> None:
    for name in ("valid", "invalid"):
        save_classes(tmp_path / name)
    records = read(tmp_path)
    assert records.class_names == ("invalid", "valid") and said(records, "'valid'", "class")


@pytest.mark.parametrize("name", ["training_set", "seg_train", "Train"])
def test_a_split_in_a_folder_of_its_own_name(name: str, tmp_path: Path) -> None:
    other = name.lower().replace("training", "test").replace("train", "test")
    for split in (name, other):
        save_classes(tmp_path / split / split)
    records = read(tmp_path)
    assert found(records) == expected(tmp_path / name / name) and said(records, str(tmp_path / name / name))
    assert found(read(tmp_path, split="test")) == expected(tmp_path / other / other)


def test_folders_of_folders_beside_a_test_split_are_not_taken_for_classes(refused: Callable, tmp_path: Path) -> None:
    for name in ("fitting", "test"):
        save_classes(tmp_path / name)
    with refused("data.split", "'train'", "fitting, test"):
        read(tmp_path)


def test_folders_without_images_do_not_turn_splits_into_classes(tmp_path: Path) -> None:
    save_classes(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/0.xml").write_text("<a/>")
    assert found(read(tmp_path)) == expected(tmp_path / "train")


# Wrappers, litter, links


LITTER_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden.png", "~$notes.docx", "0.png@SynoEAStream")
LITTER_FOLDERS = (
    ".ipynb_checkpoints", ".git", ".thumbnails", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found",
    "System Volume Information", "__pycache__", ".@__thumb", "@Recycle", ".dropbox.cache", "old.ipynb_checkpoints",
)


@pytest.mark.parametrize("wrappers", [(), ("dataset",), ("archive", "data")], ids=str)
@pytest.mark.parametrize(
    "splits", [(), ("train", "test"), ("Training", "Validation", "Testing"), ("seg_train", "seg_test")], ids=str
)
@pytest.mark.parametrize("depth", [0, 2])
def test_the_same_images_in_every_layout(wrappers: tuple, splits: tuple, depth: int, tmp_path: Path) -> None:
    top = tmp_path.joinpath(*wrappers)
    for split in splits or ("",):
        save_classes(top / split)
    read_from = top / (splits[0] if splits else "")
    if depth:
        for image in list(read_from.glob("*/*.png")):
            target = image.parent / f"batch_{image.stem}" / "deep" / image.name
            target.parent.mkdir(parents=True)
            image.rename(target)
    clean = read(tmp_path)
    names = {str(path): path.relative_to(read_from).parts[0] for path in read_from.rglob("*.png")}
    assert found(clean) == names and list(found(clean)) == sorted(names) and not clean.ignored
    assert bool(wrappers) == said(clean, repr(str(top)))

    places = {tmp_path, top, read_from, *(Path(path).parent for path in names)}
    for place in places:
        for name in LITTER_FILES:
            (place / name).write_bytes(b"\0")
        for name in LITTER_FOLDERS:
            save(place / name / "0.png")
        (place / "notes.txt").write_text("text")
        (place / "clip.mp4").write_bytes(b"\0")
    littered = read(tmp_path)
    assert found(littered) == names and littered.class_names == clean.class_names
    per_place = {"hidden files": 3, "system files": 4, "hidden folders": 5, "system folders": 9}
    per_place |= {"other files": 1, "videos": 1}
    assert littered.ignored == {reason: count * len(places) for reason, count in per_place.items()}


def test_linked_files_and_folders_are_data_at_any_depth(tmp_path: Path) -> None:
    save_classes(tmp_path / "elsewhere")
    root = tmp_path / "data"
    (root / "disc/more").mkdir(parents=True)
    (root / "square").symlink_to(tmp_path / "elsewhere/square", target_is_directory=True)
    (root / "disc/more/linked").symlink_to(tmp_path / "elsewhere/disc", target_is_directory=True)
    (root / "disc/one.png").symlink_to(tmp_path / "elsewhere/disc/0.png")
    records = read(root)
    assert sorted(map(Path, found(records))) == sorted([
        root / "disc/one.png", *(root / f"disc/more/linked/{i}.png" for i in range(3)),
        *(root / f"square/{i}.png" for i in range(3)),
    ])
    assert set(found(records).values()) == set(CLASSES) and not records.ignored


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    root = save_classes(tmp_path / "once")
    (root / "disc/again").symlink_to(root, target_is_directory=True)
    records = read(root)
    assert found(records) == expected(root) and records.ignored == {CYCLES: 1}
    root = save_classes(tmp_path / "several")
    for number, target in enumerate((".", "..", "../square")):
        (root / "disc" / f"link{number}").symlink_to(target, target_is_directory=True)
    (root / "square" / "loop").symlink_to("../disc", target_is_directory=True)
    records = read(root)
    assert set(expected(root)) <= set(found(records)) and len(records.labels) < 30
    assert records.ignored.keys() == {CYCLES} and records.ignored[CYCLES] >= 3


def test_broken_links(refused: Callable, tmp_path: Path) -> None:
    save_classes(tmp_path)
    (tmp_path / "disc/9.png").symlink_to("/nonexistent/9.png")
    with refused("data.source", "disc/9.png", "data.on_bad_image"):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path), on_bad_image="skip").skipped == 1
    (tmp_path / "zebra").symlink_to("/nonexistent/zebra")
    with refused("data.source", "zebra", "/nonexistent/zebra", "remove the link"):
        load_data(str(tmp_path))
    (tmp_path / "root").symlink_to("/nonexistent/root")
    with refused("data.source", "/nonexistent/root"):
        load_data(str(tmp_path / "root"))


# Names in Unicode

COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"     # as most systems write it, and as HFS+ and some archives do


@pytest.mark.parametrize("labels", ["auto", "filename"])
def test_the_unicode_form_of_names_changes_nothing(labels: str, tmp_path: Path) -> None:
    loaded = []
    for number, letter in enumerate((COMPOSED, DECOMPOSED)):
        for label, name in enumerate((letter, "ez", "f")):
            for i, beginning in enumerate((letter, "f")):
                file = f"{beginning}.png" if labels == "auto" else f"{name}/{name}_{beginning}.png"
                save(tmp_path / str(number) / name / file, 10 * label + i)
        loaded.append(load_data(str(tmp_path / str(number)), labels=labels))
    assert loaded[0].fingerprint == loaded[1].fingerprint
    assert loaded[0].class_names == loaded[1].class_names == ("ez", "f", COMPOSED)


def test_a_name_in_two_unicode_forms_is_refused(refused: Callable, tmp_path: Path) -> None:
    save_classes(tmp_path / "folders", (COMPOSED, DECOMPOSED))
    with refused("data.source", "\\xe9", "e\\u0301", "rename"):
        load_data(str(tmp_path / "folders"))
    save_flat(tmp_path / "files", (COMPOSED, DECOMPOSED))
    with refused("data.source", "\\xe9", "e\\u0301", "rename"):
        load_data(str(tmp_path / "files"), labels="filename")


def test_a_table_tells_names_in_two_unicode_forms_apart(tmp_path: Path) -> None:
    root = tmp_path / "images"
    names = {COMPOSED: "disc", DECOMPOSED: "square", "other": "disc"}
    for name in names:
        save(root / f"{name}.png")
    for suffix in (".png", ""):
        table = write_csv(root / "labels.csv", [(name + suffix, label) for name, label in names.items()])
        assert {Path(path).stem: label for path, label in found(read(root)).items()} == names
        assert {Path(path).stem: label for path, label in found(read(table)).items()} == names


# Class folders


def test_class_folders_win_over_loose_images_which_are_counted(tmp_path: Path) -> None:
    save_classes(tmp_path)
    save(tmp_path / "preview.png")
    records = read(tmp_path)
    assert found(records) == expected(tmp_path)
    assert records.ignored == {BESIDE_CLASSES: 1}
    without = read(tmp_path, labels="none")
    assert len(without.labels) == 7 and not without.ignored


def test_an_empty_class_is_named(refused: Callable, tmp_path: Path) -> None:
    save_classes(tmp_path)
    (tmp_path / "zebra").mkdir()
    with refused("data.source", str(tmp_path / "zebra"), ".png", "move the folder"):
        read(tmp_path)
    (tmp_path / "zebra/clip.MOV").write_bytes(b"\0")
    (tmp_path / "zebra/._clip.MOV").write_bytes(b"\0")
    with refused("data.source", "(1)", "'clip.MOV'", "ffmpeg"):
        read(tmp_path)


@pytest.mark.parametrize(("files", "remedy"), [
    ((), "one folder of images per class"),
    (("a/clip.mp4", "b/clip.mp4"), "ffmpeg"),
    (("images.zip",), "unpack"),
    (("x/images.tar.gz",), "unpack"),
    (("images.npz",), "'images.npz'"),
    (("rows.csv",), "'rows.csv'"),
    (("train/clip.mp4", "test/clip.mp4"), "ffmpeg"),
])
def test_a_folder_without_images(files: tuple[str, ...], remedy: str, refused: Callable, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a,b\n")
    with refused("data.source", str(tmp_path), remedy):
        read(tmp_path)


@pytest.mark.parametrize(("name", "reason"), [
    ("none", "null class"), (" ", "empty"), ("a\nb", "control characters"), ("a\x7fb", "control characters"),
    ("caf\udce9", "UTF-8"),
])
def test_unusable_class_names(name: str, reason: str, refused: Callable, tmp_path: Path) -> None:
    save_classes(tmp_path, ("disc", name))
    with refused("data.source", repr(name), reason, "rename"):
        read(tmp_path)


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("cat", "cat "), ("ﬁsh", "fish")])
def test_class_names_that_look_alike_are_told(pair: tuple[str, str], tmp_path: Path) -> None:
    records = read(save_classes(tmp_path, pair))
    assert len(records.class_names) == 2 and said(records, ascii(pair[0]), ascii(pair[1]))


def test_numeric_names_keep_the_ids_of_text_order(tmp_path: Path) -> None:
    names = tuple(str(i) for i in range(12))        # pytorch/vision#714
    assert read(save_classes(tmp_path, names, 1)).class_names == tuple(sorted(names))


def test_columns_of_class_folders(refused: Callable, tmp_path: Path) -> None:
    for option in ("image_column", "label_column"):
        with refused(f"data.{option}", "omit"):
            read(save_classes(tmp_path), **{option: "label"})


# Without classes


def test_without_classes(refused: Callable, tmp_path: Path) -> None:
    flat = save_flat(tmp_path / "flat")
    one = save_classes(tmp_path / "one", ("disc",))
    for source, remedies in ((flat, ("filename", "PATH")), (one, ("'disc'", "filename", "PATH"))):
        records = read(source)
        assert records.class_names == () and records.labels.tolist() == [0] * len(records.pictures)
        assert said(records, "without classes", "data.labels", *remedies)
        data = load_data(str(source), split="train[:2]")
        assert data.num_classes == 0 and len(data) == 2
    folders = read(save_classes(tmp_path / "two"), labels="none")
    assert folders.class_names == () and list(found(folders)) == list(expected(tmp_path / "two"))
    with refused("data.split", "'disc'", "data.labels none"):
        load_data(str(tmp_path / "two"), split="train[:1]")
    assert load_data("digits", labels="none").num_classes == 0


def test_labels_from_file_names(refused: Callable, tmp_path: Path) -> None:
    """The rule of guided-diffusion's image_datasets.py: sorted set of basename.split("_")[0]."""
    for number, name in enumerate(("dog_1_a.png", "cat_1.png", "dog_2.png", "sub/ant_0.png")):
        save(tmp_path / name, number)
    records = read(tmp_path, labels="filename")
    paths = [Path(path) for path in found(records)]
    assert records.class_names == tuple(sorted({path.name.split("_")[0] for path in paths}))
    assert all(label == Path(path).name.split("_")[0] for path, label in found(records).items())
    save(tmp_path / "zebra.png")
    with refused("data.labels", "zebra.png", "_"):
        read(tmp_path, labels="filename")
    with refused("data.labels", "filename", "none"):
        read(save_flat(tmp_path / "same", ("IMG",)), labels="filename")
    with refused("data.labels", "auto, none"):
        load_data("digits", labels="filename")


# Tables


def write_csv(path: Path, rows: list[tuple], header: tuple[str, ...] = ("id", "label"), delimiter: str = ",") -> Path:
    lines = [delimiter.join(map(str, row)) for row in [*([header] if header else []), *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def write_jsonl(path: Path, rows: list[tuple]) -> Path:
    path.write_text("".join(json.dumps({"file_name": name, "label": label}) + "\n" for name, label in rows))
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_parquet(path: Path, rows: list[tuple]) -> Path:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    names, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"file_name": names, "label": labels}), path)
    return path


TABLES: dict[str, Callable[[Path, list[tuple]], Path]] = {
    "metadata.csv": lambda path, rows: write_csv(path, rows, ("file_name", "label")),
    "metadata.jsonl": write_jsonl,
    "metadata.parquet": write_parquet,
    "labels.csv": write_csv,
    "labels.tsv": lambda path, rows: write_csv(path, rows, delimiter="\t"),
    "breeds.csv": lambda path, rows: write_csv(path, rows, ("image", "breed"), ";"),
    "index.csv": lambda path, rows: write_csv(path, [(i, *row) for i, row in enumerate(rows)], ("", "fname", "class")),
    "Id.csv": lambda path, rows: write_csv(path, rows, ("Image", "Id")),
    "list.csv": lambda path, rows: write_csv(path, rows, ()),
    "dataset.json": lambda path, rows: write_json(path, {"labels": [list(row) for row in rows]}),
    "labels.json": lambda path, rows: write_json(path, dict(rows)),
    "annotations.json": lambda path, rows: write_json(path, [{"file": name, "y": label} for name, label in rows]),
}


def write_in_utf_16(write: Callable[[Path, list[tuple]], Path]) -> Callable[[Path, list[tuple]], Path]:
    """Return a writer of tables in UTF-16 with a byte order mark, as Excel's "Unicode text" and PowerShell write."""

    def write_again(path: Path, rows: list[tuple]) -> Path:
        text = write(path, rows).read_text(encoding="utf-8-sig")
        path.write_text(text.replace("\n", "\r\n"), encoding="utf-16")
        return path

    return write_again


TABLES |= {f"utf_16_{name}": write_in_utf_16(TABLES[name]) for name in ("labels.tsv", "metadata.jsonl", "labels.json")}


@pytest.mark.parametrize("name", TABLES)
def test_tables_beside_the_images(name: str, refused: Callable, tmp_path: Path) -> None:
    root, table = save_flat(tmp_path / "data"), tmp_path / "data" / name
    labels = {str(path): path.name.split("_")[0] for path in sorted(root.glob("*.png"))}
    rows = [(Path(path).name, label) for path, label in reversed(labels.items())]
    TABLES[name](table, rows)
    records = read(root)
    assert found(records) == labels and said(records, str(table)) and not records.ignored
    assert found(read(root, labels=name)) == found(read(root, labels=str(table))) == labels
    assert read(root, labels="none").class_names == ()
    if table.suffix != ".parquet":      # as a source, a parquet file contains images
        listed = found(read(table))
        assert listed == labels and list(listed) == [str(root / file) for file, _ in rows]
    with refused("data.labels", "1 of 6", str(root / rows[-1][0])):
        read(root, labels=str(TABLES[name](table, rows[:-1])))
    records = read(root, labels=str(TABLES[name](table, [*rows, ("missing.png", "disc")])))
    assert found(records) == labels and said(records, "1 of 7", "'missing.png'")


def test_a_table_is_read_once_and_only_if_it_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read_files = []
    read_one = folder_labels.read_table
    monkeypatch.setattr(folder_labels, "read_table", lambda *given: read_files.append(given[0]) or read_one(*given))
    monkeypatch.chdir(tmp_path)
    rows = [(f"{name}_{i}.png", name) for name in CLASSES for i in range(3)]
    flat = write_csv(save_flat(tmp_path / "flat") / "labels.csv", rows).parent
    for labels in ("auto", "none", "labels.csv", "flat/labels.csv", str(flat / "labels.csv")):
        records = read(Path("flat"), labels=labels)
        assert bool(records.ignored) == (labels == "none") and len(read_files) == 1, labels
        read_files.clear()
    save_flat(tmp_path / "splits/train")
    write_csv(tmp_path / "splits/labels.csv", rows)
    for labels in ("none", "filename"):         # of which no split is to be selected
        assert read(tmp_path / "splits", labels=labels).ignored == {"tables": 1} and not read_files


def test_images_are_indexed_once_for_all_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many tools write one small table per image."""
    indexed = []
    monkeypatch.setattr(image_index, "index_images", lambda named: indexed.append(1) or index_images(named))
    for name in save_flat(tmp_path).glob("*.png"):
        name.with_suffix(".json").write_text(json.dumps({"title": name.name}))
        name.with_suffix(".csv").write_text(f"file_name,label\n{name.name},disc\nlost.png,disc\n")
    with pytest.raises(ValueError, match="no row for 5 of 6"):
        read(tmp_path)
    assert len(indexed) == 2        # by path, and as those of a list; by name only if no path is found


@pytest.mark.parametrize(
    "written",
    ["{stem}", "{stem}.png", "images/{stem}.png", "images/{stem}", "./{stem}.png", "{root}/images/{stem}.png",
     "C:\\data\\images\\{stem}.png", "/content/data/{stem}.png"],
)
def test_ways_to_write_a_file_name(written: str, tmp_path: Path) -> None:
    root = save_flat(tmp_path / "data/images").parent
    labels = {str(path): path.name.split("_")[0] for path in sorted(root.glob("images/*.png"))}
    rows = [(written.format(stem=Path(path).stem, root=root), label) for path, label in labels.items()]
    write_csv(root / "labels.csv", rows)
    assert found(read(root)) == labels


def test_integers_in_a_csv(tmp_path: Path) -> None:
    """Ids 0..K-1 are ids in every table; other integers are names, in the order of the numbers."""
    save_flat(tmp_path, tuple("abc"), 4)
    for values, names in (([0, 1, 2], "0 1 2"), ([2, 10, 1], "1 2 10"), (["02", "10", "1"], "02 1 10")):
        rows = [(f"{letter}_{i}", value) for letter, value in zip("abc", values, strict=True) for i in range(4)]
        write_csv(tmp_path / "labels.csv", rows)
        records = read(tmp_path)
        assert records.class_names == tuple(names.split())
        assert found(records) == {str(tmp_path / f"{name}.png"): str(value) for name, value in rows}


def test_labels_that_could_be_names_of_images(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / f"{i}.png", i)
    write_csv(tmp_path / "labels.csv", [(i, i % 2) for i in range(6)] + [(6, 0), (7, 1)], ("number", "kind"))
    assert found(read(tmp_path)) == {str(tmp_path / f"{i}.png"): str(i % 2) for i in range(6)}


def test_a_stray_table_among_class_folders_changes_nothing(tmp_path: Path) -> None:
    plain = load_data(str(save_classes(tmp_path / "plain"))).fingerprint
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    strays: dict[str, Callable[[Path], object]] = {
        "metadata.csv": lambda path: path.write_text("breed,count\ndisc,12\n"),
        "metadata.jsonl": lambda path: path.write_text('{"file_name": "disc/0.png", "text": "a disc"}\n'),
        "labels.csv": lambda path: write_csv(path, [(f"{c}/{i}.png", i) for c in CLASSES for i in range(3)]),
        "features.parquet": lambda path: pq.write_table(pa.table({"a": [1, 2]}), path),
        "broken.json": lambda path: path.write_text("{"),
        "disc/metadata.csv": lambda path: path.write_text("a,b\n1,2\n"),
    }
    for number, (name, write) in enumerate(strays.items()):
        root = save_classes(tmp_path / str(number))
        write(root / name)
        records = read(root)
        assert found(records) == expected(root) and records.ignored == {"tables": 1}
        assert said(records, str(root / name), "data.")
        assert load_data(str(root)).fingerprint == plain


def test_standard_tables_that_label_every_image_win_over_folders(tmp_path: Path) -> None:
    """The folders that EDM and StyleGAN write are not classes; dataset.json says which classes there are, if any."""
    root = save_classes(tmp_path, ("00000", "00001"))
    rows = [(f"{folder}/{i}.png", i) for folder in ("00000", "00001") for i in range(3)]
    write_json(root / "dataset.json", {"labels": rows})
    records = read(root)
    assert found(records) == {str(root / name): str(label) for name, label in rows} and said(records, "dataset.json")
    (root / "dataset.json").write_text('{"labels": null}')
    records = read(root)
    assert records.class_names == () and len(records.labels) == 6 and said(records, "dataset.json")


def test_a_table_further_out_labels_a_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_flat(tmp_path / split)
    rows = [(f"{name}_{i}", name) for name in CLASSES for i in range(3)]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", [(name, "disc") for name, _ in rows])
    labels = {str(path): path.name.split("_")[0] for path in sorted((tmp_path / "train").glob("*.png"))}
    assert found(read(tmp_path)) == labels
    # Equal file names in both splits are told apart by their folder.
    (tmp_path / "train.csv").unlink()
    (tmp_path / "test.csv").unlink()
    of_test = [(f"test/{name}.png", "disc") for name, _ in rows]
    write_csv(tmp_path / "all.csv", [*of_test, *((f"train/{name}.png", label) for name, label in rows)])
    assert found(read(tmp_path)) == labels


def test_a_column_of_splits(refused: Callable, tmp_path: Path) -> None:
    save_flat(tmp_path)
    rows = [(f"{name}_{i}.png", name, ("train", "train", "test")[i]) for name in CLASSES for i in range(3)]
    table = write_csv(tmp_path / "labels.csv", rows, ("file", "label", "split"))
    for source in (tmp_path, table):
        for asked, split in (("train", "train"), ("test", "test"), ("Testing", "test")):
            wanted = {str(tmp_path / file): label for file, label, of in rows if of == split}
            assert found(read(source, split=asked)) == wanted
        with refused("data.split", "'validation'", "train", "test"):
            read(source, split="validation")


def test_mistakes_in_tables(refused: Callable, tmp_path: Path) -> None:
    root, table = save_flat(tmp_path / "data"), tmp_path / "data/labels.csv"
    rows = [(f"{name}_{i}.png", name) for name in CLASSES for i in range(3)]
    cases: list[tuple[str, tuple[str, ...]]] = [
        ("", ("data.labels", "empty", "data.labels none")),
        ("file,label\na.png\n", ("data.labels", "line 2", "data.labels none")),
        ("a,b\n1,2\n", ("data.image_column", "a, b", "data.labels none")),
        ("file,text,score\n" + "".join(f"{n},{n},1.5\n" for n, _ in rows), ("data.label_column", "text, score")),
        ("file,text\n" + "".join(f"{n},{n}!\n" for n, _ in rows), ("data.label_column", "text", "data.labels none")),
        ("file,y\n" + "".join(f"{n},{i}.5\n" for i, (n, _) in enumerate(rows)), ("data.label_column", "0.5 (float)")),
        ("file,label\n" + "".join(f"{n},\n{n},{y}\n" for n, y in rows), ("data.label_column", "multi-label")),
        ("file,label\n" + "".join(f"{n},{y if i else ''}\n" for i, (n, y) in enumerate(rows)), ("None", "disc_0.png")),
        ("file,label\n" + "".join(f"{n},none\n" for n, _ in rows[:3]) + "".join(f"{n},{y}\n" for n, y in rows[3:]),
         ("class 'none'", "disc_0.png", "rename")),
    ]
    for text, parts in cases:
        table.write_text(text)
        with refused(*parts):
            read(root)
    table.write_bytes("file,label\ncaf\u00e9.png,x\n".encode("latin-1"))
    with refused("data.labels", "UTF-8"):
        read(root)
    write_csv(table, rows, ("file", "breed"))
    with refused("data.label_column", "did you mean breed?"):
        read(root, label_column="bred")
    with refused("data.image_column", "did you mean file?"):
        read(root, image_column="fiel")
    with refused("data.labels", "'nonee'", "did you mean none?"):
        read(root, labels="nonee")
    with refused("data.labels", "labels.tsv", "filename"):
        read(root, labels=str(root / "labels.tsv"))
    table.unlink()
    write_csv(root / "breeds.csv", rows)
    write_csv(root / "kinds.csv", [(name, name[-5]) for name, _ in rows])
    with refused("data.labels", "--data.labels", "breeds.csv", "kinds.csv"):
        read(root)
    assert found(read(root, labels="kinds.csv"))


def test_the_column_of_file_names_is_the_one_with_endings(refused: Callable, tmp_path: Path) -> None:
    """Numbers may be names without endings, but not beside names with endings."""
    wanted = {str(save(tmp_path / f"{i}.jpg", i)): CLASSES[i % 2] for i in range(10)}
    rows = [((3 * i + 1) % 10, f"{i}.jpg", CLASSES[i % 2]) for i in range(10)]
    table = write_csv(tmp_path / "labels.csv", rows, ("id", "img_name", "label"))
    for source in (tmp_path, table):
        records = read(source)
        assert found(records) == wanted and said(records, "column 'img_name'", "--data.image_column id")
        assert not said(read(source, image_column="img_name"), "--data.image_column")
    write_csv(table, [row if i != 7 else (row[0], "7.JPEG", row[2]) for i, row in enumerate(rows)],
              ("id", "filename", "label"))
    with refused("data.labels", "no row for 1 of 10", "7.jpg"):
        read(tmp_path)
    write_csv(table, [(f"img_{i}.png", name, (3 * i + 1) % 10) for i, (_, _, name) in enumerate(rows)],
              ("image", "label", "n"))
    for source in (tmp_path, table):
        with refused("data.image_column", "'image'", "'img_0.png'", "--data.image_column n"):
            read(source)
    assert len(found(read(tmp_path, image_column="n"))) == 10
    urls = [(i, f"https://example.org/{99 - i}.jpg", name) for i, (_, _, name) in enumerate(rows)]
    write_csv(table, urls, ("id", "url", "label"))
    assert found(read(tmp_path)) == wanted
    write_csv(table, [(i, name, 0.5 * i) for i, (_, _, name) in enumerate(rows)], ("image", "label", "n"))
    assert found(read(tmp_path)) == wanted
    write_csv(table, [(f"{9 - i}x", name, i // 5) for i, (_, _, name) in enumerate(rows)], ("image", "kind", "label"))
    with refused("data.image_column", "no column"):
        read(tmp_path)                          # labels are no names of images


def test_columns_that_name_different_images(refused: Callable, tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"images/{i}.png", i)
        save(tmp_path / f"others/{i}.png", 20 + i)

    def write(first: str, second: str, endings: str = ".png") -> Path:
        rows = [(f"images/{i}{endings}", f"others/{9 - i}{endings}", CLASSES[i % 2]) for i in range(10)]
        return write_csv(tmp_path / "labels.csv", rows, (first, second, "label"))

    wanted = {str(tmp_path / f"images/{i}.png"): CLASSES[i % 2] for i in range(10)}
    for endings in (".png", ""):
        for pair in (("image", "mask"), ("image", "id"), ("id", "mask")):
            records = read(write(*pair, endings))
            assert found(records) == wanted and said(records, f"'{pair[0]}'", f"--data.image_column {pair[1]}")
        for pair in (("file", "image"), ("before", "after")):
            with refused("data.image_column", *map(repr, pair), f"--data.image_column {pair[0]} or {pair[1]}"):
                read(write(*pair, endings))
            assert found(read(write(*pair, endings), image_column=pair[0])) == wanted
    rows = [(f"images/{i}.png", f"{i}", CLASSES[i % 2]) for i in range(10)]
    table = write_csv(tmp_path / "labels.csv", rows, ("path", "id", "label"))
    assert found(read(table)) == wanted and not said(read(table), "data.image_column")


# Columns beside the names of images, the first, that have names of images or numbers for another reason.
OTHER_COLUMNS: dict[str, tuple[tuple[str, str], Callable[[int], tuple[object, object]], str]] = {
    "masks": (("image_id", "mask"), lambda i: (f"im{i}", f"masks/im{i}.png"), "mask"),
    "thumbnails": (("id", "thumbnail"), lambda i: (f"im{i}", f"masks/im{i}.png"), "thumbnail"),
    "similar images": (("image_id", "similar"), lambda i: (f"im{i}", f"im{(i + 1) % 10}.png"), "similar"),
    "sources": (("filename", "source_file"), lambda i: (f"im{i}.png", f"im{i % 6}.png"), "source_file"),
    "duplicates": (("id", "duplicate_of"), lambda i: (f"im{i}", "im0.png" if i == 3 else ""), ""),
    "addresses": (("id", "image"), lambda i: (f"im{i}", f"https://example.org/{i}.png"), ""),
    "original names": (("image_id", "filename"), lambda i: (f"im{i}", f"DSC_{i}.png"), ""),
    "a stale name": (("id", "image"), lambda i: (f"im{i}", "im0.png" if i == 3 else f"old{i}.png"), ""),
    "few numbers": (("name", "image"), lambda i: (f"im{i}.png", i % 3), ""),
    "ranks": (("image_number", "rank"), lambda i: (i, (3 * i + 1) % 10), "rank"),
    "depths": (("rgb", "depth"), lambda i: (f"im{i}.png", f"masks/im{i}.png"), "depth"),
    "masks in the plural": (("images", "masks"), lambda i: (f"im{i}.png", f"masks/im{i}.png"), "masks"),
    "addresses beside names": (("asin", "image"), lambda i: (f"im{i}", f"https://example.org/{9 - i}z.png"), "'asin'"),
    "crops": (("crop_name", "filename"), lambda i: (f"im{i}.png", f"DSC_{i}.png"), "'crop_name'"),
    "widths": (("idx", "width"), lambda i: (i, (3 * i + 1) % 10), "width"),
    "a usual name of labels": (("y", "x"), lambda i: (f"im{i}.png", 0.5 * i), "'y'"),
}


@pytest.mark.parametrize("case", OTHER_COLUMNS)
def test_other_columns_are_no_names_of_the_images(case: str, tmp_path: Path) -> None:
    (first, second), values, told = OTHER_COLUMNS[case]
    numbers = "im" not in str(values(0)[0])
    for i in range(10):
        save(tmp_path / (f"{i}.png" if numbers else f"im{i}.png"), i)
        save(tmp_path / f"masks/im{i}.png", 20 + i)
    rows = [(*values(i), CLASSES[i % 2]) for i in range(10)]
    table = write_csv(tmp_path / "list.csv", rows, (first, second, "kind"))
    wanted = {str(tmp_path / (f"{i}.png" if numbers else f"im{i}.png")): CLASSES[i % 2] for i in range(10)}
    records = read(table, label_column="kind")
    assert found(records) == wanted
    assert said(records, told) if told else not said(records, "--data.image_column")


@pytest.mark.parametrize(("path", "number"), [("filepath", "id"), ("path_img", "Unnamed"), ("file", "age")])
@pytest.mark.parametrize("base", ["/mnt/d/", "C:\\data\\"])
def test_paths_of_another_machine_come_before_numbers(
    base: str, path: str, number: str, tmp_path: Path, refused: Callable
) -> None:
    """Beside the images, the last part of a path finds its image; a list of images has to have the whole path."""
    wanted = {str(save(tmp_path / f"{i}.png", i)): CLASSES[i % 2] for i in range(10)}
    rows = [((3 * i + 1) % 10, f"{base}{i}.png", CLASSES[i % 2]) for i in range(10)]
    table = write_csv(tmp_path / "labels.csv", rows, (number, path, "kind"))
    assert found(read(tmp_path, label_column="kind")) == wanted
    with refused("data.image_column", repr(path), f"--data.image_column {number}"):
        read(table, label_column="kind")


def test_an_incomplete_table_of_splits_is_told_of_once(tmp_path: Path) -> None:
    save_classes(tmp_path)
    write_csv(tmp_path / "parts.csv", [(f"{name}/0.png", split) for name, split in zip(CLASSES, ("train", "test"),
                                                                                     strict=True)], ("file", "split"))
    for labels in ("auto", "folders", "none"):
        (note,) = (note for note in read(tmp_path, labels=labels).notes if "parts.csv" in note)
        assert "splits" in note and "no row for 4 of 6" in note
    write_csv(tmp_path / "kinds.csv", [(f"{name}/0.png", name) for name in CLASSES], ("file", "label"))
    assert said(read(tmp_path), "kinds.csv", "not used") and said(read(tmp_path), "parts.csv", "not used")


def test_a_folder_in_place_of_a_table(refused: Callable, tmp_path: Path) -> None:
    """The remedy is a table in the folder, or the folder as a source, and never the folder itself again."""
    root = save_classes(tmp_path / "birds")
    with refused("data.labels", f"--data.source {root} --data.labels auto"):
        read(root, labels=str(root))
    rows = [(f"{name}/{i}.png", name) for name in CLASSES for i in range(3)]
    (tmp_path / "tables").mkdir()
    table = write_csv(tmp_path / "tables/classes.csv", rows)
    with refused("data.labels", repr(str(table))):
        read(root, labels=str(table.parent))
    assert found(read(root, labels=str(table))) == expected(root)
    write_csv(root / "labels.csv", rows)
    with refused("data.labels", f"did you mean {root / 'labels.csv'}?"):
        read(root, labels="label.csv")


def test_the_last_remedy_is_named_once_and_where_it_helps(tmp_path: Path) -> None:
    """`data.labels none` is of no use beside a column of labels, which contradicts it."""
    def message(**options: str) -> str:
        with pytest.raises(ValueError) as problem:
            read(tmp_path, **options)
        return str(problem.value)

    save_flat(tmp_path)
    rows = [(f"{name}_{i}.png", f"{name}!{i}", i / 3) for name in CLASSES for i in range(3)]
    write_csv(tmp_path / "labels.csv", rows, ("file", "text", "score"))
    assert message().count("data.labels none") == 1
    assert read(tmp_path, labels="none").class_names == ()
    assert message(label_column="score").endswith("data.labels none in place of data.label_column")
    assert "none" not in message(label_column="scores") and "none" not in message(image_column="files")
    header = ("file", "label", "split")
    write_csv(tmp_path / "labels.csv", [(*row[:2], "ab"[i % 2]) for i, row in enumerate(rows)], header)
    assert read(tmp_path).class_names           # the column has other values than names of splits
    write_csv(tmp_path / "labels.csv", [(*row[:2], ("train", "b")[i % 2]) for i, row in enumerate(rows)], header)
    assert "remove the column" in message() == message(labels="none") and "none" not in message()


def test_a_list_of_images_in_a_folder_beside_it(refused: Callable, tmp_path: Path) -> None:
    """Names without a folder are those of images in one folder; the remedy of an incomplete table works."""
    save_flat(tmp_path / "images")
    table = write_csv(tmp_path / "some.csv", [(f"{name}_{i}", name) for name in CLASSES for i in range(2)])
    with refused("data.labels", "no row for 2 of 6", f"--data.source {table}"):
        read(tmp_path)
    assert found(read(table)) == {str(tmp_path / f"images/{name}_{i}.png"): name for name in CLASSES for i in range(2)}
    save(tmp_path / "more/disc_0.png")
    with refused("data.image_column", "'disc_0'", "images/disc_0.png", "more/disc_0.png"):
        read(table)


def test_splits_in_a_table_select_the_images_however_they_are_labeled(tmp_path: Path) -> None:
    save_flat(tmp_path)
    rows = [(f"{name}_{i}", ("train", "train", "test")[i]) for name in CLASSES for i in range(3)]
    table = write_csv(tmp_path / "parts.csv", rows, ("file", "split"))
    for labels in ("none", "filename"):
        for split in ("train", "test"):
            records = read(tmp_path, labels=labels, split=split)
            wanted = [str(tmp_path / f"{name}.png") for name, of in rows if of == split]
            assert list(found(records)) == wanted and said(records, str(table), repr(split))
    # ids of which the split lacks one are names, in the table of the splits or in another
    for columns in (("file", "label"), ("file", "label", "split")):
        ids = [(name, 1 if of == "test" else 2 * (i % 2), of)[: len(columns)] for i, (name, of) in enumerate(rows)]
        labels = write_csv(tmp_path / "labels.csv", ids, columns)
        assert read(tmp_path, labels=str(labels)).class_names == ("0", "2"), columns
    write_csv(table, rows[:-1], ("file", "split"))
    (tmp_path / "labels.csv").unlink()
    assert said(read(tmp_path, labels="none"), "splits", str(table), "no row for 1 of")


def test_lists_of_labels(refused: Callable, tmp_path: Path) -> None:
    save_flat(tmp_path)
    rows = [(f"{name}_{i}.png", [0, i]) for name in CLASSES for i in range(3)]
    for name in ("metadata.jsonl", "dataset.json"):
        TABLES[name](tmp_path / name, rows)
        with refused("data.label_column", "multi-label", "one class per image", "data.labels none"):
            read(tmp_path)
        (tmp_path / name).unlink()


def test_a_list_of_images(refused: Callable, tmp_path: Path) -> None:
    save_flat(tmp_path / "images")
    rows = [(f"images/{name}_{i}.png", name) for name in CLASSES for i in range(3)]
    table = write_csv(tmp_path / "table.csv", [*rows, rows[0]], ("image", "label"))
    data = load_data(str(table))
    assert data.class_names == CLASSES and len(data) == 7
    assert np.array_equal(data.pixels[0], data.pixels[6])
    assert said(data, "7 rows", "6 images", rows[0][0], "2 times")
    assert read(table, labels="none").class_names == () and found(read(table, labels="filename")) == found(read(table))
    write_csv(table, [*rows, (rows[0][0], "square")], ("image", "label"))
    with refused("data.label_column", rows[0][0], "one row per image"):
        read(table)
    assert len(found(read(table, labels="filename"))) == 6
    for header, cells in ((("image",), ()), (("image", "label"), ("",)), (("image", "breed"), ("",))):
        write_csv(table, [(file, *cells) for file, _ in rows], header)
        assert said(read(table), "without classes", "fill a column `label`")
    write_csv(table, [*rows, ("images/lost.png", "disc")], ("image", "label"))
    with refused("data.source", "1 of 7", "images/lost.png", str(tmp_path)):
        read(table)
    with refused("data.labels", "auto, none, filename"):
        read(table, labels=str(table))
    with refused("data.source", "table.cvs", "did you mean"):
        read(table.with_suffix(".cvs"))


def test_parquet_files_with_images_beside_a_few_pictures_are_the_data(tmp_path: Path) -> None:
    """A clone of a dataset of the Hub has pictures for its card."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    files = [path.read_bytes() for path in sorted(save_flat(tmp_path / "files").glob("*.png"))]
    root = tmp_path / "clone"
    save(root / "assets/banner.png")
    (root / "data").mkdir()
    images = [{"bytes": file, "path": None} for file in files]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 0, 1, 1, 1]}), root / "data/train-00000.parquet")
    records = read(root)
    assert len(records.labels) == 6 and records.class_names == ("0", "1")
    with pytest.raises(ValueError, match=r"data\.labels.*auto, none"):
        read(root, labels="filename")


# The Hub


@pytest.mark.parametrize("name", ["no-such-dataset", "owner/no-such-dataset"])
def test_a_hub_that_does_not_answer_is_asked_once(
    name: str, refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked = []

    def fail(*_: object, **options: object) -> None:
        asked.append(options["timeout"])
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no-such-datasets").mkdir()
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    with refused("data.source", repr(name), "Hub does not answer", "connect", "local path"):
        load_data(name)
    assert len(asked) == 1 and asked[0] <= 10
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    if "/" not in name:
        with refused("data.source", "did you mean no-such-datasets?"):
            load_data(name)
