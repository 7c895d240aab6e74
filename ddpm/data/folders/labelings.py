"""How the images in a folder get their labels; a new way is a function and an entry in LABELINGS."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ddpm.data.counts import format_count
from ddpm.data.folders.folder_labels import FolderLabels, FolderSource, TableName, TableResult
from ddpm.data.folders.layouts import Layout, describe_content, find_layout
from ddpm.data.folders.masks import MASKS, PICTURES
from ddpm.data.folders.scan import BESIDE_CLASSES, BESIDE_PARQUET, OTHERS, TABLE_SUFFIXES, TABLES, Folder, scan_folder
from ddpm.data.folders.split_names import find_split
from ddpm.data.labels.class_ids import label_records, same_classes
from ddpm.data.labels.image_columns import NoImageNames
from ddpm.data.labels.label_tables import IncompleteTable, UnusableSplits, class_values
from ddpm.data.records import FilePictures, Records, TablePictures
from ddpm.data.request import DataRequest
from ddpm.data.sources.tables import check_rows, holds_images, load_tables
from ddpm.names import did_you_mean, did_you_mean_path

OTHER_TABLES = (".txt", ".xlsx", ".xls", ".ods", ".xml", ".yaml", ".yml", ".npy", ".mat", ".pkl")  # that are not read

FROM_TABLE_OR_NAMES = (
    "a table with data.labels PATH, or data.labels filename if the file names begin with the class and an underscore"
)


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
    source = FolderSource(layout, request)
    labels = LABELINGS.get(request.labels, label_from_table)(source)
    if layout.split is None and labels.split is None:
        labels = _select_split(labels, source)
    values, names = labels.values, labels.names
    if values is not None and names is None:        # of the images that are selected
        values, names = class_values(values)
    used = set(map(os.path.abspath, labels.tables)).intersection(map(os.path.abspath, source.all_tables))
    records = label_records(
        request,
        FilePictures(tuple(map(str, labels.paths))),
        values,
        names,
        remedy=_how_to_have_classes(layout, labels),
        split=layout.split or labels.split or find_split(request.source, request.split, ["train"]),
        ignored=layout.ignored + labels.ignored - Counter({TABLES: len(used)}),
        notes=layout.notes + labels.notes + labels.split_notes,
    )
    if request.labels not in ("auto", "none") and not records.class_names:
        raise ValueError(
            f"data.labels: {request.labels!r} gives all images of {request.source!r} the same class, or none; train "
            "without classes with data.labels none"
        )
    return replace(records, stratified=bool(records.class_names))


def _holds_images_in_tables(root: Folder) -> bool:
    """Return whether parquet files contain the images; there may be a few files of images besides, as on the Hub."""
    if 1 < len(_filled(root)) == len(root.folders):
        return False
    files = [path for path in root.others_below(TABLES) if path.suffix.lower() == ".parquet"]
    return any(holds_images(path, strict=bool(root.images_below)) for path in files)


def _load_parquet_files(request: DataRequest, root: Folder) -> Records:
    """Return the images in the parquet files of a folder, and count the files of images beside them."""
    request.restrict_labels("has its images in parquet files", "auto", "none")
    check_rows(path for path in root.others_below(TABLES) if path.suffix.lower() == ".parquet")
    records, count = load_tables(request), len(root.images_below)
    records = replace(records, notes=(*records.notes, *_note_partitions(root)))
    if not count:
        return records
    if isinstance(records.pictures, TablePictures) and records.pictures.column.builder_name != "parquet":
        # `datasets` reads the kind of files of which there are most
        raise ValueError(
            f"data.source: {request.source!r} has images in parquet files and {count:,} more as files; move either "
            "elsewhere, or name the parquet file or its folder as data.source"
        )
    return replace(records, ignored={**records.ignored, BESIDE_PARQUET: count})


def _note_partitions(root: Folder) -> tuple[str, ...]:
    """Return a note on folders such as `label=cat`, in whose names Hive and Spark store a column of parquet files."""
    found = [folder.path for folder in root.walk() if "=" in folder.path.name and folder.tables]
    if not found:
        return ()
    target = f"{root.path.absolute().name}.parquet"
    code = (
        "import pyarrow.dataset as ds, pyarrow.parquet as pq; "
        f"pq.write_table(ds.dataset({json.dumps(str(root.path), ensure_ascii=False)}, partitioning=\"hive\")"
        f".to_table(), {json.dumps(target, ensure_ascii=False)})"
    )
    return (
        f"names of folders such as {found[0].name!r} are not used; to make a column of them: python -c {quote(code)}, "
        f"and use --data.source {quote(target)}",
    )


def infer_labels(source: FolderSource) -> FolderLabels:
    """Use the first of these that there is, and no labels if there is none.

    1. A table with a standard name that labels every image, or says that there are no labels.
    2. Another such table, if the options name a column.
    3. Two or more class folders.
    4. Another such table, by what its name says.
    5. One class folder without images beside it.

    Raises:
        ValueError: if two tables label the images differently, or the images are in no two class folders, and a table
            that is meant for them does not label all of them.
    """
    layout, folder = source.layout, source.layout.folder
    # a table of bare names may also fit the images of a split that it is not meant for
    tables = [table for table in source.read_tables() if not (layout.split and table.name is TableName.OTHER_SPLIT)]
    tables.sort(key=lambda table: (isinstance(table.problem, NoImageNames), table.name))
    telling = [table for table in tables if table.labels.values is not None or table.labels.says_unlabeled]
    filled = _filled(folder)
    from_table = len(filled) < 2 or source.request.names_columns
    if telling and (from_table or telling[0].name is TableName.STANDARD):
        return _choose_table(telling, source)
    if from_table:
        _refuse_failures(tables, source)
    if filled and (len(folder.folders) > 1 or not folder.images):
        return _note_unused(label_from_folders(source), source)
    if not any(table.labels.paths for table in tables):
        source.request.refuse_columns("has no table with columns")
    return _note_unused(FolderLabels(folder.images_below, notes=_note_mixture(folder)), source)


def _refuse_failures(tables: Sequence[TableResult], source: FolderSource) -> None:
    """Raise ValueError if a table does not label every image, but is meant to by its name, its rows or the options."""
    request = source.request
    incomplete = [table.problem for table in tables if isinstance(table.problem, IncompleteTable)]
    covered = frozenset[Path]().union(*(problem.covered for problem in incomplete))
    covers_half = 2 * len(covered) >= len(source.layout.folder.images_below)
    for name, problem in ((table.name, table.problem) for table in tables if table.problem is not None):
        if isinstance(problem, UnusableSplits) or request.names_columns:
            raise problem
        # without it, images of other splits would be read, too
        divides = name is TableName.THIS_SPLIT and not isinstance(problem, NoImageNames) and source.layout.split is None
        if divides or name <= TableName.USUAL or (covers_half and problem in incomplete):
            remedy = request.classless_remedy
            raise ValueError(str(problem) if remedy in str(problem) else f"{problem}; {remedy}") from problem


def _note_mixture(folder: Folder) -> tuple[str, ...]:
    """Return a note on a folder of images beside images, unless it has masks."""
    return tuple(
        f"{format_count(len(folder.images), 'image')} of {str(folder.path)!r} and {len(inner.images_below):,} of "
        f"{str(inner.path)!r} are read together; to leave these out, move them elsewhere, or for these alone: "
        f"--data.source {quote(str(inner.path))}"
        for inner in _filled(folder)
        if inner.path.name.lower() not in MASKS
    )


def omit_labels(source: FolderSource) -> FolderLabels:
    """Return the images at any depth without labels."""
    source.request.refuse_columns("is read without labels, as data.labels none says")
    return FolderLabels(source.layout.folder.images_below)


def label_from_folders(source: FolderSource) -> FolderLabels:
    """Use class folders, whatever tables say; a column of splits still selects images."""
    folder = source.layout.folder
    source.request.refuse_columns(
        "is read as class folders, which have no columns (a table is read with data.labels PATH)"
    )
    filled = _filled(folder)
    if not filled:
        raise ValueError(
            f"data.labels: folders needs one folder per class, and there is none in {str(folder.path)!r}; use "
            f"{FROM_TABLE_OR_NAMES}"
        )
    empty = next((inner for inner in folder.folders if not inner.images_below), None)
    if empty is not None:
        only = f", or name {str(filled[0].path)!r} as data.source" if len(filled) == 1 else ""
        raise ValueError(
            f"data.source: class folder {str(empty.path)!r} contains {describe_content(empty)}; move the folder "
            f"elsewhere if it is not a class{only}"
        )
    return FolderLabels(
        [path for inner in filled for path in inner.images_below],
        [label for label, inner in enumerate(filled) for _ in inner.images_below],
        [inner.name for inner in filled],
        class_folders=True,
        ignored=Counter({BESIDE_CLASSES: len(folder.images)}),
        notes=_note_same_folders(filled),
    )


def _note_same_folders(classes: Sequence[Folder]) -> tuple[str, ...]:
    """Return a note if class folders contain the same two folders or more, which may be the classes."""
    reached = [_enter_only(folder) for folder in classes]
    inside = {tuple(inner.path.name for inner in _filled(folder)) for folder in reached}
    names = next(iter(inside))
    if len(classes) < 2 or len(inside) > 1 or len(names) < 2 or any(folder.images for folder in reached):
        return ()
    if {name.lower() for name in names} <= MASKS | PICTURES:      # `note_masks` reports it
        return ()
    first = str(classes[0].path)
    return (
        f"folders such as {first!r} are the classes, but each has the folders {names[0]!r} and {names[1]!r}; if these "
        f"are the classes, merge the outer folders, or for one of them: --data.source {quote(first)}",
    )


def _enter_only(folder: Folder) -> Folder:
    """Return the first folder that does not contain just one folder."""
    while len(folder.folders) == 1 and not folder.images:
        (folder,) = folder.folders
    return folder


def label_from_filenames(source: FolderSource) -> FolderLabels:
    """Use the part of each file name before the first underscore, as guided-diffusion does."""
    source.request.refuse_columns("has labels in its file names, as data.labels filename says")
    images = source.layout.folder.images_below
    return FolderLabels(images, [filename_label(path) for path in images])


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


def label_from_table(source: FolderSource) -> FolderLabels:
    """Use the table that data.labels names: a path, relative to the working directory or to the source."""
    request = source.request
    given = Path(os.path.expanduser(request.labels))
    places = (given, Path(request.source) / given)
    path = next((path for path in places if os.path.isfile(path)), None)
    if path is None:
        raise ValueError(
            f"data.labels: {request.labels!r} is neither {', '.join(LABELINGS)} nor the path of a table"
            f"{_nearest_table(request.labels, places)}"
        )
    table = source.read_table(path)
    if table.problem is not None:
        raise table.problem
    return table.labels


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


def _choose_table(tables: Sequence[TableResult], source: FolderSource) -> FolderLabels:
    """Return the labels from the first table.

    Raises:
        ValueError: if another gives the images other classes, and the names do not say which is meant.
    """
    (path, name, labels, _), *others = tables
    texts, notes = _texts(labels), labels.notes
    for other in others:
        option, told = f"--data.labels {quote(str(other.path))}", _texts(other.labels)
        if _agree(labels, other.labels):
            if any(texts[image] != told[image] for image in texts.keys() & told):
                notes += (f"classes have the names in {str(path)!r}; for others: {option}",)
        elif name != other.name and (name is TableName.THIS_SPLIT or other.name is TableName.OTHER_SPLIT):
            why = "has other labels, and is not used because of its name"
            notes += (f"{str(other.path)!r} {why}; to use it: {option}",)
        else:
            raise ValueError(
                f"data.labels: {str(path)!r} and {str(other.path)!r} both label the images, and differ; choose one: "
                f"--data.labels {quote(str(path))} or {quote(str(other.path))}"
            )
    filled = _filled(source.layout.folder)
    classes = {image: inner.name for inner in filled for image in inner.images_below}
    differ = any(classes.get(image) != text for image, text in texts.items())
    if len(filled) > 1 and differ and not source.request.names_columns:
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


def _select_split(labels: FolderLabels, source: FolderSource) -> FolderLabels:
    """Return the images in the split of a table that has no labels, or whose labels are not used."""
    tables = source.read_tables()
    for table in tables:
        if isinstance(table.problem, UnusableSplits):
            raise table.problem
    divided = [table for table in tables if table.labels.split is not None]
    partly = [f"the splits of {str(t.path)!r} are not used: {t.problem}" for t in tables if _divides_some(t)]
    if not divided:
        unused = dict.fromkeys(note for each in (labels, *(t.labels for t in tables)) for note in each.split_notes)
        return replace(labels, split_notes=(*unused, *partly, *_note_lists(source)))
    path, selected = divided[0].path, divided[0].labels
    chosen = set(selected.paths)
    for table in divided:
        if set(table.labels.paths) != chosen:
            raise ValueError(
                f"data.split: {str(path)!r} and {str(table.path)!r} both divide the images into splits, and differ; "
                "remove the column of splits from one"
            )
    rows = [row for row, image in enumerate(labels.paths) if image in chosen]
    if not rows:
        raise ValueError(f"data.split: no image that has a label is in the split {selected.split!r} of {str(path)!r}")
    return replace(
        labels,
        paths=[labels.paths[row] for row in rows],
        values=None if labels.values is None else [labels.values[row] for row in rows],
        split=selected.split,
        tables=(*labels.tables, path),
        ignored=labels.ignored + selected.ignored,
        split_notes=(f"{str(path)!r} selects the images of split {selected.split!r}", *selected.split_notes, *partly),
    )


def _divides_some(table: TableResult) -> bool:
    """Return whether a table divides the images into splits, but not all of them."""
    return isinstance(table.problem, IncompleteTable) and table.problem.divides


def _how_to_have_classes(layout: Layout, labels: FolderLabels) -> str:
    """Return the remedies for images without classes."""
    for split, folder in layout.other_splits.items():
        names = [inner.name for inner in _filled(folder)]
        if len(names) > 1:
            return f"split {split!r} has classes, such as {names[0]!r} and {names[1]!r}: --data.split {quote(split)}"
    if labels.class_folders:
        return f"for classes, use one more folder for each other class, {FROM_TABLE_OR_NAMES}"
    return f"for classes, use one folder per class, {FROM_TABLE_OR_NAMES}"


def _filled(folder: Folder) -> list[Folder]:
    return [inner for inner in folder.folders if inner.images_below]


def _note_unused(labels: FolderLabels, source: FolderSource) -> FolderLabels:
    """Note tables, none of which is used, and files that may be tables by their name."""
    remedy = "if it has labels, save it as a .csv with one row per image, and name that as data.labels"
    unread = _unread_tables(source, TableName.STANDARD, TableName.USUAL)
    notes = [f"{str(path)!r} is not read; {remedy}" for path in unread]
    tables = [table for table in source.read_tables() if table.labels.split is None and not _divides_some(table)]
    if tables:      # one with labels, or else one that names images and does not fit
        path, _, found, problem = min(tables, key=lambda table: (
            table.labels.values is None, isinstance(table.problem, NoImageNames),
            table.name is TableName.OTHER_SPLIT, table.problem is None,
        ))
        option = f"--data.labels {quote(str(path))}"
        if problem is not None:
            reason = f": {problem}"
        elif found.values is not None:
            reason = f"; for its labels: {option}"
        else:
            reason = f": {found.notes[0]}" if found.notes else f"; if it has labels: {option}"
        more = f" and {format_count(len(tables) - 1, 'more table')} are" if len(tables) > 1 else " is"
        notes.insert(0, f"{str(path)!r}{more} not used{reason}")
    return replace(labels, notes=(*labels.notes, *notes))


def _note_lists(source: FolderSource) -> tuple[str, ...]:
    """Return a note on files that may list the images of splits by their names, such as `train.txt`."""
    unread = _unread_tables(source, TableName.THIS_SPLIT, TableName.OTHER_SPLIT)
    if not unread:
        return ()
    files = f"{str(unread[0])!r} {f'and {len(unread) - 1} more are' if len(unread) > 1 else 'is'} not read"
    remedy = "save all splits as one .csv there, with the columns `file_name` and `split`, one row per image"
    return (f"{files}; to select images as listed: {remedy}",)


def _unread_tables(source: FolderSource, *names: TableName) -> list[Path]:
    """Return files beside or around the images that are no tables, but may be meant as such by what they are called."""
    folders = (source.layout.folder, *source.layout.outer)
    files = [path for folder in folders for path in folder.others.get(OTHERS, ())]
    return [path for path in files if path.suffix.lower() in OTHER_TABLES and source.name_of(path) in names]


LABELINGS: dict[str, Callable[[FolderSource], FolderLabels]] = {
    "auto": infer_labels,
    "folders": label_from_folders,
    "none": omit_labels,
    "filename": label_from_filenames,
}
