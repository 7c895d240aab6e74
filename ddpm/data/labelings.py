"""How the images in a folder get their labels; a new way is a function and an entry in LABELINGS."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddpm.data.folders import TABLES, Folder, scan_folder
from ddpm.data.label_tables import LabelTable, class_values, image_finders, label_files, read_table
from ddpm.data.labels import label_records
from ddpm.data.layouts import Layout, describe_content, find_layout
from ddpm.data.records import FilePictures, Records
from ddpm.data.request import DataRequest
from ddpm.data.split_names import find_split, split_groups
from ddpm.data.tables import holds_images, load_tables
from ddpm.names import did_you_mean, did_you_mean_path

# Tables with these names label even images in class folders: `datasets` reads `metadata` so, and the folders that
# StyleGAN and EDM write next to dataset.json are not classes.
STANDARD_TABLES = ("metadata", "dataset")
USUAL_TABLES = ("labels", "label", "annotations")

# Names of the two folders of a data set for segmentation, in lower case.
PICTURES = {"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "rgb"}
MASKS = {
    "annotation", "annotations", "ground_truth", "gt", "label", "labels", "mask", "masks", "segmentation",
    "segmentationclass", "segmentations", "trimaps",
}

TO_HAVE_CLASSES = (
    "for classes, use one folder per class, a table with data.labels PATH, or data.labels filename if the file names "
    "begin with the class and an underscore"
)


@dataclass(frozen=True)
class FolderLabels:
    """The images of a folder and their labels.

    Attributes:
        paths: of N images.
        values: N raw labels; None without labels.
        names: the names of the ids in `values`; None if they are to be inferred.
        split: the split that the table of the labels names; None if it names none.
        ignored: see `Records`.
        notes: see `Records`.
    """

    paths: Sequence[Path]
    values: list[Any] | None = None
    names: list[str] | None = None
    split: str | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


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
        request.restrict_labels("auto", "none")
        return load_tables(request)
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
    return records


def _holds_images_in_tables(root: Folder) -> bool:
    """Return whether parquet files contain the images; there may be a few files of images besides, as on the Hub."""
    filled = [inner for inner in root.folders if inner.images_below]
    if len(filled) > 1 and len(filled) == len(root.folders):
        return False
    return any(holds_images(path) for path in root.tables_below if path.suffix.lower() == ".parquet")


def infer_labels(layout: Layout, request: DataRequest) -> FolderLabels:
    """Use class folders if there are two or more, otherwise a table that labels every image, if there is one."""
    folder, attempts = layout.folder, _try_tables(layout, request)
    fitting = {path: labels for path, labels in attempts.items() if isinstance(labels, FolderLabels)}
    standard = [path for path in fitting if _rank(path, layout) == 0]
    filled = [inner for inner in folder.folders if inner.images_below]
    if len(filled) > 1 and not standard:
        return _note_unread(_from_class_folders(folder, request), layout)
    if fitting:
        best = min(_rank(path, layout) for path in fitting)
        chosen = [path for path in fitting if _rank(path, layout) == best]
        if len(chosen) > 1:
            both = " and ".join(repr(str(path)) for path in chosen[:2])
            raise ValueError(f"data.labels: {both} both label the images; name one of them as data.labels PATH")
        return fitting[chosen[0]]
    wanted = request.image_column or request.label_column
    failed = next((path for path in attempts if wanted or _rank(path, layout) < 2), None)
    if failed is not None:
        raise ValueError(f"{attempts[failed]}; or train without classes with data.labels none")
    if filled and len(filled) < len(folder.folders):
        return _from_class_folders(folder, request)
    request.refuse_columns("has no table with columns")
    if filled and not folder.images:        # one class
        return _note_unread(_from_class_folders(folder, request), layout)
    return _note_unread(FolderLabels(folder.images_below), layout)


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
    path = next((path for path in (given, Path(request.source) / given) if path.is_file()), None)
    if path is None:
        near = did_you_mean(request.labels, LABELINGS) or did_you_mean_path(given)
        raise ValueError(
            f"data.labels: {request.labels!r} is neither {', '.join(LABELINGS)} nor the path of a table{near}"
        )
    return _apply_table(_read(path), layout, request)


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
    notes = [f"{loose:,} images beside the class folders are not read"] if loose else []
    pictures = next((inner for inner in folder.folders if inner.path.name.lower() in PICTURES), None)
    if pictures and len(names) == 2 and {name.lower() for name in names} & MASKS:
        notes.append(
            f"{names[0]!r} and {names[1]!r} are read as two classes, but look like images and their masks; to train on "
            f"the images alone: --data.source {pictures.path}"
        )
    ignored = Counter({"images beside the class folders": loose})
    return FolderLabels(paths, values, names, ignored=ignored, notes=tuple(notes))


def _note_unread(labels: FolderLabels, layout: Layout) -> FolderLabels:
    """Add a note if there are tables, none of which is read."""
    tables = _all_tables(layout)
    if not tables:
        return labels
    more = f" and {len(tables) - 1} more tables are" if len(tables) > 1 else " is"
    note = f"{str(tables[0])!r}{more} not read; if it has labels, name it as data.labels PATH"
    return replace(labels, notes=(*labels.notes, note))


def _try_tables(layout: Layout, request: DataRequest) -> dict[Path, FolderLabels | ValueError]:
    """Return the labels from each table beside the images or further out, or why it does not label every image."""
    attempts: dict[Path, FolderLabels | ValueError] = {}
    for path in (path for folder in (layout.folder, *layout.outer) for path in folder.tables):
        if path.suffix.lower() == ".parquet" and path.stem.lower() not in STANDARD_TABLES:
            continue        # it may be large, and more often holds features than labels
        try:
            labels = _apply_table(_read(path), layout, request)
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


def _read(path: Path) -> LabelTable:
    try:
        return read_table(path)
    except ValueError as problem:
        raise ValueError(f"data.labels: {problem}") from problem


def _apply_table(table: LabelTable, layout: Layout, request: DataRequest) -> FolderLabels:
    """Return the images of a folder with the labels in a table.

    Raises:
        ValueError: if an image has no row, or rows with different labels, or the columns cannot be inferred.
    """
    images, name = layout.folder.images_below, str(table.path)
    ignored = Counter({TABLES: -1}) if table.path in _all_tables(layout) else Counter()
    if not table.columns:
        return FolderLabels(images, ignored=ignored, notes=(f"{name!r} says that the images have no labels",))
    bases = [*(folder.path for folder in (layout.folder, *layout.outer)), table.path.parent]
    rows = label_files(table, image_finders(images, bases), request)
    labels: dict[Path, Any] = {}
    for image, label in zip(rows.images, rows.labels or [None] * len(rows.names), strict=True):
        if image is not None and labels.setdefault(image, label) != label:
            raise ValueError(
                f"data.labels: {name!r} has several labels for {str(image)!r} (multi-label), and a class-conditional "
                "model needs one class per image; keep one row per image"
            )
    split = None
    if rows.splits is not None and layout.split is None:
        split = find_split(name, request.split, sorted(set(rows.splits)))
        here = {image for image, of in zip(rows.images, rows.splits, strict=True) if of == split}
        others = len(labels) - len(here & set(labels))
        ignored["images of other splits"] += others
        images = tuple(image for image in images if image in here or image not in labels)
    missing = [image for image in images if image not in labels]
    if missing:
        raise ValueError(
            f"data.labels: {name!r} has no row for {len(missing):,} of {len(images):,} images, such as "
            f"{str(missing[0])!r}; add rows, or move these images elsewhere"
        )
    notes = [f"labels are read from {name!r}" if rows.labels is not None else f"{name!r} has no column of labels"]
    lost = [text for text, image in zip(rows.names, rows.images, strict=True) if image is None]
    if lost:
        notes.append(f"{len(lost):,} of {len(rows.names):,} rows of {name!r} name no image here, such as {lost[0]!r}")
    values, names = (None, None) if rows.labels is None else class_values([labels[image] for image in images])
    return FolderLabels(images, values, names, split, ignored, tuple(notes))


def _all_tables(layout: Layout) -> list[Path]:
    return [*layout.folder.tables_below, *(path for outer in layout.outer for path in outer.tables)]


LABELINGS: dict[str, Callable[[Layout, DataRequest], FolderLabels]] = {
    "auto": infer_labels,
    "none": omit_labels,
    "filename": label_from_filenames,
}
