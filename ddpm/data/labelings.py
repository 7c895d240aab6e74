"""How the images in a folder get their labels; a new way is a function and an entry in LABELINGS."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ddpm.data.folder_labels import FolderLabels, all_tables, apply_table
from ddpm.data.folders import Folder, scan_folder
from ddpm.data.label_tables import UnusableSplits, UnusableTable
from ddpm.data.labels import label_records
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

TO_HAVE_CLASSES = (
    "for classes, use one folder per class, a table with data.labels PATH, or data.labels filename if the file names "
    "begin with the class and an underscore"
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
    labels = LABELINGS.get(request.labels, label_from_table)(layout, request)
    split = layout.split or labels.split or find_split(request.source, request.split, ["train"])
    records = label_records(
        request,
        FilePictures(tuple(map(str, labels.paths))),
        labels.values,
        labels.names,
        remedy=TO_HAVE_CLASSES,
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
    filled = [inner for inner in root.folders if inner.images_below]
    if len(filled) > 1 and len(filled) == len(root.folders):
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


def infer_labels(layout: Layout, request: DataRequest) -> FolderLabels:
    """Use class folders if there are two or more, otherwise a table that labels every image, if there is one."""
    folder, attempts = layout.folder, _try_tables(layout, request)
    fitting = {path: labels for path, labels in attempts.items() if isinstance(labels, FolderLabels)}
    telling = {path: labels for path, labels in fitting.items() if labels.values is not None or labels.without_classes}
    filled = [inner for inner in folder.folders if inner.images_below]
    for path, problem in attempts.items():
        if isinstance(problem, UnusableSplits) and _rank(path, layout) == 0:
            raise problem
    if len(filled) > 1 and not any(_rank(path, layout) == 0 for path in telling):
        classes = _from_class_folders(folder, request)
        divided = next((labels for labels in fitting.values() if labels.values is None and labels.split), None)
        return _note_unread(classes, layout, attempts) if divided is None else _select(classes, divided)
    if telling:
        best = min(_rank(path, layout) for path in telling)
        chosen = [path for path in telling if _rank(path, layout) == best]
        if len(chosen) > 1:
            both = " and ".join(repr(str(path)) for path in chosen[:2])
            raise ValueError(f"data.labels: {both} both label the images; name one of them as data.labels PATH")
        return telling[chosen[0]]
    wanted = request.image_column or request.label_column
    failures = ((path, problem) for path, problem in attempts.items() if isinstance(problem, ValueError))
    for path, problem in failures:
        if wanted or _rank(path, layout) < 2 or isinstance(problem, UnusableTable):
            raise ValueError(f"{problem}; or train without classes with data.labels none")
    if fitting:
        return next(iter(fitting.values()))
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
            f"--data.source {inner.path}",
        )
    return _note_unread(FolderLabels(folder.images_below, notes=mixture), layout, attempts)


def omit_labels(layout: Layout, request: DataRequest) -> FolderLabels:
    """Return the images at any depth without labels."""
    request.refuse_columns("is read without labels, as data.labels none says")
    return FolderLabels(layout.folder.images_below)


def label_from_filenames(layout: Layout, request: DataRequest) -> FolderLabels:
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


def label_from_table(layout: Layout, request: DataRequest) -> FolderLabels:
    """Use the table that data.labels names: a path, relative to the working directory or to the source."""
    given = Path(request.labels).expanduser()
    path = next((path for path in (given, Path(request.source) / given) if os.path.isfile(path)), None)
    if path is None:
        near = did_you_mean(request.labels, LABELINGS) or did_you_mean_path(given)
        raise ValueError(
            f"data.labels: {request.labels!r} is neither {', '.join(LABELINGS)} nor the path of a table{near}"
        )
    return apply_table(path, layout, request)


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


def _select(classes: FolderLabels, divided: FolderLabels) -> FolderLabels:
    """Return the images of class folders that are in the split of a table without labels."""
    assert classes.values is not None
    chosen = set(divided.paths)
    pairs = [(path, value) for path, value in zip(classes.paths, classes.values, strict=True) if path in chosen]
    if not pairs:
        raise ValueError(f"data.split: no image of the class folders is in the split {divided.split!r}")
    ignored = classes.ignored.copy()
    ignored.update(divided.ignored)
    return replace(
        classes,
        paths=[path for path, _ in pairs],
        values=[value for _, value in pairs],
        split=divided.split,
        ignored=ignored,
        notes=(*classes.notes, f"{divided.notes[0]}; its split {divided.split!r} selects images of the class folders"),
    )


def _note_unread(
    labels: FolderLabels, layout: Layout, attempts: Mapping[Path, FolderLabels | ValueError]
) -> FolderLabels:
    """Add a note if there are tables, none of which is read."""
    tables = all_tables(layout)
    if not tables:
        return labels
    failed, problem = next(
        ((path, problem) for path, problem in attempts.items() if isinstance(problem, ValueError)), (tables[0], None)
    )
    more = f" and {len(tables) - 1} more tables are" if len(tables) > 1 else " is"
    reason = "; if it has labels, name it as data.labels PATH" if problem is None else f": {problem}"
    return replace(labels, notes=(*labels.notes, f"{str(failed)!r}{more} not used{reason}"))


def _try_tables(layout: Layout, request: DataRequest) -> dict[Path, FolderLabels | ValueError]:
    """Return the labels from each table beside the images or further out, or why it does not label every image."""
    attempts: dict[Path, FolderLabels | ValueError] = {}
    for path in (path for folder in (layout.folder, *layout.outer) for path in folder.tables):
        if path.suffix.lower() == ".parquet" and path.stem.lower() not in STANDARD_TABLES:
            continue        # it may be large, and more often holds features than labels
        try:
            labels = apply_table(path, layout, request)
        except ValueError as problem:
            attempts[path] = problem
        else:
            if labels.values is not None or _rank(path, layout) == 0:
                attempts[path] = labels
    return attempts


def _rank(path: Path, layout: Layout) -> int:
    """Return how much the name of a table says that it has the labels of these images; 0 is the most."""
    stem = path.stem.lower()
    if stem in STANDARD_TABLES:
        return 0
    if stem in USUAL_TABLES:
        return 1
    group = split_groups([layout.split])[layout.split] if layout.split else None
    return 2 if group and group in split_groups([stem.replace("labels", "")]).values() else 3


LABELINGS: dict[str, Callable[[Layout, DataRequest], FolderLabels]] = {
    "auto": infer_labels,
    "none": omit_labels,
    "filename": label_from_filenames,
}
