"""How the images in a folder get their labels; a new way is a function and an entry in LABELINGS."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from shlex import quote

from ddpm.data.folder_labels import FolderLabels, all_tables, apply_table
from ddpm.data.folders import TABLE_SUFFIXES, Folder, scan_folder
from ddpm.data.label_tables import IncompleteTable, UnusableSplits, class_values
from ddpm.data.labels import label_records, same_classes
from ddpm.data.layouts import Layout, describe_content, find_layout
from ddpm.data.masks import MASKS
from ddpm.data.records import FilePictures, Records, TablePictures
from ddpm.data.request import DataRequest
from ddpm.data.split_names import find_split, split_groups
from ddpm.data.tables import holds_images, load_tables
from ddpm.names import did_you_mean, did_you_mean_path

# Tables with these names label even images in class folders: `datasets` reads `metadata` so, and the folders that
# StyleGAN and EDM write next to dataset.json are not classes.
STANDARD_TABLES = ("metadata", "dataset")
USUAL_TABLES = ("labels", "label", "annotations")
OTHER_TABLES = (".txt", ".xlsx", ".xls", ".ods", ".xml", ".yaml", ".yml", ".npy", ".mat", ".pkl")  # that are not read
USUAL_RANKS = (0, 1)

FROM_TABLE_OR_NAMES = (
    "a table with data.labels PATH, or data.labels filename if the file names begin with the class and an underscore"
)

Attempts = Mapping[Path, FolderLabels | ValueError]     # what each table says, or why it does not fit the images


def load_folder(request: DataRequest) -> Records:
    """Return the images of a folder, with labels from class folders, a table or file names, or from parquet files.

    Class names are the sorted folder names. `datasets`' imagefolder is not used, because it treats a class or file
    whose name contains `train` or `test` as a split, and silently drops the labels of a single class.

    Raises:
        ValueError: if there are no images, no such split, a class has no images, or labels are missing or unusable.
    """
    try:
        root = scan_folder(Path(request.source))
    except OSError as problem:
        raise ValueError(f"data.source: {problem.filename!r}: {problem.strerror or problem}") from problem
    if _holds_images_in_tables(root):
        return _load_parquet_files(request, root)
    layout = find_layout(root, request)
    attempts = _try_tables(layout, request)
    labels = LABELINGS.get(request.labels, label_from_table)(layout, request, attempts)
    if layout.split is None and labels.split is None:
        labels = _select_split(labels, attempts)
    values, names = labels.values, labels.names
    if values is not None and names is None:        # of the images that are selected
        values, names = class_values(values)
    split = layout.split or labels.split or find_split(request.source, request.split, ["train"])
    records = label_records(
        request,
        FilePictures(tuple(map(str, labels.paths))),
        values,
        names,
        remedy=_how_to_have_classes(layout, labels),
        split=split,
        ignored=+(layout.ignored + labels.ignored),
        notes=layout.notes + labels.notes,
    )
    if request.labels not in ("auto", "none") and not records.class_names:
        raise ValueError(
            f"data.labels: {request.labels!r} gives all images of {request.source!r} the same class, or none; train "
            "without classes with data.labels none"
        )
    return replace(records, grouped=labels.grouped and bool(records.class_names))


def _holds_images_in_tables(root: Folder) -> bool:
    """Return whether parquet files contain the images; there may be a few files of images besides, as on the Hub."""
    if 1 < len(_filled(root)) == len(root.folders):
        return False
    files = [path for path in root.tables_below if path.suffix.lower() == ".parquet"]
    return any(holds_images(path, surely=bool(root.images_below)) for path in files)


def _load_parquet_files(request: DataRequest, root: Folder) -> Records:
    """Return the images in the parquet files of a folder, and count the files of images beside them."""
    request.restrict_labels("auto", "none")
    records, count = load_tables(request), len(root.images_below)
    if not count:
        return records
    if isinstance(records.pictures, TablePictures) and records.pictures.column.builder_name != "parquet":
        # `datasets` reads the kind of files of which there are most
        raise ValueError(
            f"data.source: {request.source!r} has images in parquet files and {count:,} more as files; move either "
            "elsewhere, or name the parquet file or its folder as data.source"
        )
    note = f"the images in parquet files are read; {count:,} image files beside them are not"
    ignored = {**records.ignored, "image files beside parquet files": count}
    return replace(records, notes=(*records.notes, note), ignored=ignored)


def infer_labels(layout: Layout, request: DataRequest, attempts: Attempts) -> FolderLabels:
    """Use class folders if there are two or more, otherwise a table that labels every image, if there is one.

    Tables with standard names that label every image come before class folders.
    """
    labels = _infer_labels(layout, request, attempts)
    return replace(labels, notes=(*labels.notes, *_note_other_files(layout)))


def _infer_labels(layout: Layout, request: DataRequest, attempts: Attempts) -> FolderLabels:
    folder, split = layout.folder, layout.split or request.split
    fitting = _fitting(attempts)
    of_others = {path for path in fitting if layout.split is not None and _is_named_after_split(path, split) < 0}
    telling = {
        path: labels
        for path, labels in fitting.items()
        if (labels.values is not None or labels.without_classes) and path not in of_others
    }
    filled = _filled(folder)
    if len(filled) > 1 and not any(_rank(path, split) == 0 for path in telling):
        return _note_unread(_from_class_folders(folder, request), layout, attempts)
    if telling:
        return _choose_table(telling, layout, split)
    failures = [(path, problem) for path, problem in attempts.items() if isinstance(problem, ValueError)]
    covered = frozenset[Path]().union(*(each.covered for _, each in failures if isinstance(each, IncompleteTable)))
    mostly = 2 * len(covered) >= len(folder.images_below)       # the tables are meant for the images
    for path, problem in sorted(failures, key=lambda failure: _rank(failure[0], split)):
        if isinstance(problem, UnusableSplits) or request.image_column or request.label_column:
            raise problem
        if _rank(path, split) in USUAL_RANKS or (mostly and isinstance(problem, IncompleteTable)):
            remedy = request.without_classes
            raise ValueError(str(problem) if remedy in str(problem) else f"{problem}; {remedy}")
    standard = next((path for path in fitting if _rank(path, split) == 0), None)
    if standard is not None:            # it says that there are no labels
        return fitting[standard]
    if filled and len(filled) < len(folder.folders):
        return _from_class_folders(folder, request)
    request.refuse_columns("has no table with columns")
    if filled and not folder.images:        # one class
        return _note_unread(_from_class_folders(folder, request), layout, attempts)
    mixture: tuple[str, ...] = ()
    if filled and filled[0].path.name.lower() not in MASKS:
        (inner,) = filled
        mixture = (
            f"{len(folder.images):,} images of {str(folder.path)!r} and {len(inner.images_below):,} of "
            f"{str(inner.path)!r} are read together; to leave these out, move them elsewhere, or for these alone: "
            f"--data.source {quote(str(inner.path))}",
        )
    return _note_unread(FolderLabels(folder.images_below, notes=mixture), layout, attempts)


def omit_labels(layout: Layout, request: DataRequest, attempts: Attempts) -> FolderLabels:
    """Return the images at any depth without labels."""
    request.refuse_columns("is read without labels, as data.labels none says")
    return FolderLabels(layout.folder.images_below)


def label_from_folders(layout: Layout, request: DataRequest, attempts: Attempts) -> FolderLabels:
    """Use class folders, whatever tables say; a column of splits still selects images."""
    if not _filled(layout.folder):
        raise ValueError(
            f"data.labels: folders needs one folder per class, and there is none in {str(layout.folder.path)!r}; use "
            f"{FROM_TABLE_OR_NAMES}"
        )
    return _from_class_folders(layout.folder, request)


def label_from_filenames(layout: Layout, request: DataRequest, attempts: Attempts) -> FolderLabels:
    """Use the part of each file name before the first underscore, as guided-diffusion does."""
    request.refuse_columns("has labels in its file names, as data.labels filename says")
    return FolderLabels(layout.folder.images_below, [filename_label(path) for path in layout.folder.images_below])


def filename_label(path: Path) -> str:
    """Return the part of a file name before the first underscore.

    Raises:
        ValueError: if there is no underscore, or nothing before it.
    """
    label, underscore, _ = path.name.partition("_")
    if not (label and underscore):
        raise ValueError(
            f"data.labels: the file name of {str(path)!r} has no class before an underscore, as in cat_001.png, which "
            "data.labels filename needs; rename it, or use a table with data.labels PATH"
        )
    return label


def label_from_table(layout: Layout, request: DataRequest, attempts: Attempts) -> FolderLabels:
    """Use the table that data.labels names: a path, relative to the working directory or to the source."""
    given = Path(request.labels).expanduser()
    places = (given, Path(request.source) / given)
    path = next((path for path in places if os.path.isfile(path)), None)
    if path is None:
        raise ValueError(
            f"data.labels: {request.labels!r} is neither {', '.join(LABELINGS)} nor the path of a table"
            f"{_nearest_table(request.labels, places)}"
        )
    return apply_table(path, layout, request)


def _nearest_table(given: str, places: Sequence[Path]) -> str:
    """Return a remedy for a name of a table that is none of the files in `places`."""
    folder = next((path for path in places if os.path.isdir(path)), None)
    if folder is None:
        near = (did_you_mean_path(path) for path in places)
        return did_you_mean(given, LABELINGS) or next(filter(None, near), "")
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
    if tables:
        return f"; it is a folder, in which there is {str(tables[0])!r}"
    return f", but a folder; for class folders: --data.source {quote(str(folder))} --data.labels auto"


def _from_class_folders(folder: Folder, request: DataRequest) -> FolderLabels:
    request.refuse_columns("is read as class folders, which have no columns (a table is read with data.labels PATH)")
    paths: list[Path] = []
    values: list[int] = []
    for label, inner in enumerate(folder.folders):
        if not inner.images_below:
            filled = [other.path for other in folder.folders if other.images_below]
            only = f", or name {str(filled[0])!r} as data.source" if len(filled) == 1 else ""
            raise ValueError(
                f"data.source: class folder {str(inner.path)!r} contains {describe_content(inner)}; move the folder "
                f"elsewhere if it is not a class{only}"
            )
        paths += inner.images_below
        values += [label] * len(inner.images_below)
    names, loose = [inner.path.name for inner in folder.folders], len(folder.images)
    notes = (f"{loose:,} images beside the class folders are not read",) if loose else ()
    ignored = Counter({"images beside the class folders": loose})
    return FolderLabels(paths, values, names, grouped=True, ignored=ignored, notes=notes)


def _choose_table(telling: Mapping[Path, FolderLabels], layout: Layout, split: str) -> FolderLabels:
    """Return the labels from the table whose name says most that it has them.

    Raises:
        ValueError: if another table gives the images other classes, and its name speaks for this split as much.
    """
    path = min(telling, key=lambda path: _rank(path, split))
    labels, filled = telling[path], _filled(layout.folder)
    notes, texts = labels.notes, _texts(labels)
    for other, rival in telling.items():
        option = f"--data.labels {quote(str(other))}"
        if _agree(labels, rival):
            if any(texts[image] != text for image, text in _texts(rival).items() if image in texts):
                notes += (f"classes have the names in {str(path)!r}; for others: {option}",)
        elif _is_named_after_split(path, split) > _is_named_after_split(other, split):
            notes += (f"{str(other)!r} has other labels, and is not used because of its name; to use it: {option}",)
        else:
            raise ValueError(
                f"data.labels: {str(path)!r} and {str(other)!r} both label the images, and differ; choose one: "
                f"--data.labels {quote(str(path))} or {quote(str(other))}"
            )
    if len(filled) > 1 and any(image.relative_to(layout.folder.path).parts[0] != text for image, text in texts.items()):
        why = f"folders such as {str(filled[0].path)!r} are no classes, because {str(path)!r} has the labels"
        notes += (f"{why}; to use the folders: --data.labels folders",)
    return replace(labels, notes=notes)


def _texts(labels: FolderLabels) -> dict[Path, str]:
    """Map images to their labels in a table as text."""
    return dict(zip(labels.paths, map(str, labels.values or [""] * len(labels.paths)), strict=True))


def _agree(first: FolderLabels, second: FolderLabels) -> bool:
    """Return whether two tables give the images that both read the same classes."""
    if first.values is None or second.values is None:
        return first.values is second.values
    others = dict(zip(second.paths, second.values, strict=True))
    pairs = [(value, others[path]) for path, value in zip(first.paths, first.values, strict=True) if path in others]
    return same_classes([one for one, _ in pairs], [other for _, other in pairs])


def _select_split(labels: FolderLabels, attempts: Attempts) -> FolderLabels:
    """Return the images in the split of a table that has no labels, or whose labels are not used."""
    for problem in attempts.values():
        if isinstance(problem, UnusableSplits):
            raise problem
    fitting = _fitting(attempts).values()
    divided = {path: each for path, each in _fitting(attempts).items() if each.split is not None}
    if not divided:
        unused = dict.fromkeys(each.unused_splits for each in (labels, *fitting) if each.unused_splits)
        partly = [f"the splits of {str(path)!r} are not used: {problem}" for path, problem in attempts.items()
                  if isinstance(problem, IncompleteTable) and problem.divides]
        return replace(labels, notes=(*labels.notes, *unused, *partly))
    path, first = next(iter(divided.items()))
    for other, each in divided.items():
        if set(each.paths) != set(first.paths):
            raise ValueError(
                f"data.split: {str(path)!r} and {str(other)!r} both divide the images into splits, and differ; remove "
                "the column of splits from one"
            )
    chosen = set(first.paths)
    rows = [row for row, image in enumerate(labels.paths) if image in chosen]
    if not rows:
        raise ValueError(f"data.split: no image that has a label is in the split {first.split!r} of {str(path)!r}")
    ignored = labels.ignored.copy()
    ignored.update(first.ignored)
    return replace(
        labels,
        paths=[labels.paths[row] for row in rows],
        values=None if labels.values is None else [labels.values[row] for row in rows],
        split=first.split,
        ignored=ignored,
        notes=(*labels.notes, f"{str(path)!r} selects the images of split {first.split!r}"),
    )


def _how_to_have_classes(layout: Layout, labels: FolderLabels) -> str:
    """Return the remedies for images without classes."""
    for split, folder in layout.beside.items():
        names = [inner.path.name for inner in _filled(folder)]
        if len(names) > 1:
            return f"split {split!r} has classes, such as {names[0]!r} and {names[1]!r}: --data.split {quote(split)}"
    if labels.grouped:
        return f"for classes, use one more folder for each other class, {FROM_TABLE_OR_NAMES}"
    return f"for classes, use one folder per class, {FROM_TABLE_OR_NAMES}"


def _fitting(attempts: Attempts) -> dict[Path, FolderLabels]:
    return {path: each for path, each in attempts.items() if isinstance(each, FolderLabels)}


def _filled(folder: Folder) -> list[Folder]:
    return [inner for inner in folder.folders if inner.images_below]


def _note_other_files(layout: Layout) -> tuple[str, ...]:
    """Return a note on files that may have labels by their name, and are no tables."""
    names = {*STANDARD_TABLES, *USUAL_TABLES}
    files = [path for folder in (layout.folder, *layout.outer) for path in sorted(folder.path.iterdir())]
    found = [path for path in files if path.stem.lower() in names and path.suffix.lower() in OTHER_TABLES]
    remedy = "if it has labels, save it as a .csv with one row per image, and name that as data.labels"
    return tuple(f"{str(path)!r} is not read; {remedy}" for path in found)


def _note_unread(labels: FolderLabels, layout: Layout, attempts: Attempts) -> FolderLabels:
    """Add a note if there are tables, none of which is read."""
    tables = [path for path in all_tables(layout) if getattr(attempts.get(path), "split", None) is None]
    if not tables:
        return labels
    telling = (path for path, each in _fitting(attempts).items() if each.values is not None)
    failing = (path for path in tables if isinstance(attempts.get(path), ValueError))
    named = next(chain(telling, failing, tables))
    more = f" and {len(tables) - 1} more tables are" if len(tables) > 1 else " is"
    problem, option = attempts.get(named), f"--data.labels {quote(str(named))}"
    if isinstance(problem, FolderLabels):
        reason = f": {problem.notes[0]}" if problem.values is None else f"; for its labels: {option}"
    else:
        reason = f"; if it has labels: {option}" if problem is None else f": {problem}"
    return replace(labels, notes=(*labels.notes, f"{str(named)!r}{more} not used{reason}"))


def _try_tables(layout: Layout, request: DataRequest) -> Attempts:
    """Return the labels from each table beside the images or further out, or why it does not label every image."""
    attempts: dict[Path, FolderLabels | ValueError] = {}
    for path in (path for folder in (layout.folder, *layout.outer) for path in folder.tables):
        if path.suffix.lower() == ".parquet" and path.stem.lower() not in STANDARD_TABLES:
            continue        # it may be large, and more often holds features than labels
        try:
            attempts[path] = apply_table(path, layout, request)
        except ValueError as problem:
            attempts[path] = problem
    return attempts


def _rank(path: Path, split: str) -> int:
    """Return how much the name of a table says that it has the labels of the images of a split; 0 says the most."""
    stem = path.stem.lower()
    if stem in STANDARD_TABLES:
        return 0
    if stem in USUAL_TABLES:
        return 1
    return 3 - _is_named_after_split(path, split)


def _is_named_after_split(path: Path, split: str) -> int:
    """Return 1 if a table has the name of a split, -1 if it has that of another, and 0 if it has neither."""
    (named,) = split_groups([path.stem.lower().replace("labels", "")]).values()
    if named is None:
        return 0
    return 1 if named in split_groups([split]).values() else -1


LABELINGS: dict[str, Callable[[Layout, DataRequest, Attempts], FolderLabels]] = {
    "auto": infer_labels,
    "folders": label_from_folders,
    "none": omit_labels,
    "filename": label_from_filenames,
}
