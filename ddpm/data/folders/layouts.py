"""Where the splits and the images of a folder are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shlex import quote
from typing import NamedTuple

from ddpm.data.counts import format_count
from ddpm.data.folders.loose_arrays import describe_arrays
from ddpm.data.folders.masks import MASKS, note_masks
from ddpm.data.folders.scan import (
    ARRAY_SUFFIXES,
    BESIDE_CLASSES,
    BESIDE_SPLITS,
    IMAGE_SUFFIXES,
    OTHER_KINDS,
    OTHERS,
    TABLES,
    Folder,
)
from ddpm.data.folders.split_names import SPLITS, divide_name, find_split, split_groups
from ddpm.data.request import DataRequest

PER_CLASS = "allowed are images in one folder, or in one folder of images per class"


class Layout(NamedTuple):
    """Where one split of a folder is.

    Attributes:
        folder: contains the images of the split, at any depth.
        split: the folder name of the split; None if the source has no folders of splits.
        other_splits: the other splits by the names of their folders.
        outer: the folders between the source and `folder`, from the innermost; tables in them can hold the labels.
        ignored: see `Records`.
        notes: see `Records`.
    """

    folder: Folder
    split: str | None
    other_splits: Mapping[str, Folder]
    outer: tuple[Folder, ...]
    ignored: Counter[str]
    notes: tuple[str, ...]


def find_layout(root: Folder, request: DataRequest) -> Layout:
    """Find the requested split in the folder of a source.

    Folders of splits are recognized by their names: if all look like splits, or two or more different splits are among
    them, or one is `train` or `test` and all contain folders but no images. Otherwise a folder called `train` (the
    vehicle) is a class. The splits can also be inside of every class. The only folder in a folder, as archives have it,
    is entered.

    Raises:
        ValueError: if there is no such split, or it contains no images; names the option.
    """
    passed, folder = _enter(root)
    notes = _note_entered(passed, folder)
    splits, mixture = _splits(folder)
    notes += mixture
    name, other_splits = None, dict[str, Folder]()
    if splits:
        name = find_split(request.source, request.split, splits, "; if these folders are classes, rename them")
        if name != request.split and splits[name].path != folder.path:
            notes.append(f"split {request.split!r} is the folder {name!r}")
        inside, inner = _enter(splits[name], split_groups([name])[name])
        notes += _note_entered(inside, inner)
        passed, folder = [*passed, folder, *inside], inner
        other_splits = {other: inner for other, inner in splits.items() if other != name and inner.images_below}
        notes += _note_unread({other: len(inner.images_below) for other, inner in other_splits.items()}, [*splits])
    else:
        folder, name, inside_classes = _split_in_classes(folder, request)
        notes += inside_classes
    if not folder.images_below:
        others = " or ".join(map(quote, other_splits))
        remedy = f"for a split with images: --data.split {others}" if others else PER_CLASS
        raise ValueError(f"data.source: {str(folder.path)!r} contains {describe_content(folder)}; {remedy}")
    notes += note_masks(folder)
    ignored = sum((outer.ignored for outer in passed), folder.ignored_below)
    ignored[BESIDE_SPLITS if splits else BESIDE_CLASSES] += sum(len(outer.images) for outer in passed)
    return Layout(folder, name, other_splits, tuple(reversed(passed)), ignored, tuple(notes))


def describe_content(folder: Folder) -> str:
    """Return what a folder without images contains instead, and what to do about it."""
    for kind, other in OTHER_KINDS.items():
        files = folder.others_below(kind)
        if files:
            return f"{kind} ({len(files):,}), such as {files[0].name!r}, and no images; {other.remedy}"
    arrays = sorted(path for path in folder.others_below(OTHERS) if path.suffix.lower() in ARRAY_SUFFIXES)
    if arrays:
        return f"no images, but {describe_arrays(folder.path, arrays)}"
    tables = folder.others_below(TABLES)
    if tables:
        remedy = "if it lists paths of images, name that file as data.source"
        return f"no images, but the table {tables[0].name!r}; {remedy}"
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return f"no images, that is, no files with suffix {suffixes}"


def _enter(folder: Folder, split: str | None = None) -> tuple[list[Folder], Folder]:
    """Return the folders that contain nothing but one folder of folders of images, and the first that is not so.

    Another split is not entered, but `training_set/training_set` is, for the group `split` of the outer folder. Images
    beside the only folder, such as a preview, do not count if there are more in it, in class folders or in splits.
    """
    if len(folder.folders) != 1:
        return [], folder
    (inner,) = folder.folders
    group = split_groups([inner.path.name])[inner.path.name]
    if (group in SPLITS and group != split) or not any(below.images_below for below in inner.folders):
        return [], folder
    passed, reached = _enter(inner, split)
    divided = sum(bool(below.images_below) for below in reached.folders) > 1 or bool(_splits(reached)[0])
    if folder.images and not (divided and len(folder.images) < len(reached.images_below)):
        return [], folder
    return [folder, *passed], reached


def _note_entered(passed: Sequence[Folder], inner: Folder) -> list[str]:
    if not passed:
        return []
    beside = sum(len(outer.images) for outer in passed)
    without = f", without the images beside it ({beside:,})" if beside else ""
    return [f"{str(inner.path)!r} is read, the only folder of images in {str(passed[0].path)!r}{without}"]


def _splits(folder: Folder) -> tuple[dict[str, Folder], list[str]]:
    """Return the splits in a folder by name, none if its folders are not splits, and a note if one may look so."""
    crossed = _splits_of_classes(folder)
    if crossed is not None:
        return crossed
    groups = split_groups([inner.path.name for inner in folder.folders])
    if not set(groups.values()) & set(SPLITS):
        return {}, []
    # Without images are, for example, folders of annotations.
    images = [inner for inner in folder.folders if inner.images_below]
    masks = [inner for inner in images if inner.path.name.lower() in MASKS]
    filled = [inner for inner in images if inner not in masks] or list(folder.folders)
    found = {group for inner in filled if (group := groups[inner.path.name]) is not None}
    named = all(groups[inner.path.name] for inner in filled)
    nested = all(inner.folders and not inner.images for inner in filled)
    # `valid` may be the opposite of `invalid`
    if named or len(found) > 1 or (found & {"train", "test"} and nested):
        splits = {f.path.name: f for f in folder.folders if f in filled or groups[f.path.name]}
        return splits, _note_unread_masks(masks)
    name = next((inner.path.name for inner in filled if groups[inner.path.name]), None)
    other = next(inner.path.name for inner in filled if not groups[inner.path.name])
    if name is None:
        return {}, []
    return {}, [f"folder {name!r} is a class and no split, because it is next to folders such as {other!r}"]


def _splits_of_classes(folder: Folder) -> tuple[dict[str, Folder], list[str]] | None:
    """Return the splits of folders that each have the name of a split and of a class, and notes; None for others.

    `trainA`, `trainB`, `testA` and `testB`, as CycleGAN reads them, are the splits `train` and `test` of `A` and `B`.
    """
    divided = {inner.path: pair for inner in folder.folders if (pair := divide_name(inner.path.name)) is not None}
    masks = [inner for inner in folder.folders if inner.path in divided and divided[inner.path][1].lower() in MASKS]
    filled = [inner for inner in folder.folders if inner.images_below and inner not in masks]
    found = [divided[inner.path] for inner in filled if inner.path in divided]
    splits, classes = (dict.fromkeys(pair[part] for pair in found) for part in (0, 1))
    plain = set(split_groups([inner.path.name for inner in (*filled, *masks)]).values()) & set(SPLITS)
    if plain or len(splits) < 2 or len(classes) == len(found):
        return None
    first = next(inner.path.name for inner in filled if inner.path in divided)
    other = next((inner.path.name for inner in filled if inner.path not in divided), None)
    if other is not None:
        beside = f"because they are next to folders such as {other!r}; move these elsewhere if they are none"
        return {}, [f"folders such as {first!r} are classes and no splits of classes, {beside}"]
    parts = f"splits ({', '.join(splits)}) and classes ({', '.join(classes)})"
    notes = [f"folders such as {first!r} have the names of {parts}, and are read so; if each is a class, rename them"]
    return {
        split: replace(
            folder,
            folders=tuple(
                replace(inner, name=divided[inner.path][1])
                for inner in folder.folders
                if inner not in masks and inner.path in divided and divided[inner.path][0] == split
            ),
            images=(),
            others={},
        )
        for split in splits
    }, notes + _note_unread_masks(masks)


def _note_unread(images: Mapping[str, int], beside: Sequence[str]) -> list[str]:
    """Return a note on folders beside splits whose names are not those of splits.

    Args:
        images: folders that are not read -> the number of images in them.
        beside: all folders.
    """
    groups = split_groups(beside)
    others = {name: count for name, count in images.items() if groups[name] is None}
    if not others:
        return []
    listed = ", ".join(f"{name!r} ({format_count(count, 'image')})" for name, count in others.items())
    first = quote(next(iter(others)))
    return [f"folders beside the splits, whose names are not those of splits, are not read: {listed}; to read one in "
            f"place of the split: --data.split {first}"]


def _note_unread_masks(masks: Sequence[Folder]) -> list[str]:
    return [f"{str(inner.path)!r} looks like masks of images, and is not read" for inner in masks]


def _split_in_classes(folder: Folder, request: DataRequest) -> tuple[Folder, str | None, list[str]]:
    """Return a folder with the requested split of each folder in it, if all of these contain splits; and notes."""
    filled = [inner for inner in folder.folders if inner.images_below]
    divided = {inner.path: splits for inner in filled if (splits := _splits(inner)[0])}
    if len(filled) < 2 or not divided:
        return folder, None, []
    whole = next((inner.path for inner in filled if inner.path not in divided), None)
    if whole is not None:
        first = next(iter(next(iter(divided.values())).values())).path
        why = f"because there are none in {str(whole)!r}; to leave images out, move them elsewhere"
        return folder, None, [f"folders such as {str(first)!r} are not read as splits of a class, {why}"]
    remedy = "; move a class without this split elsewhere, or rename the folders if they are no splits"
    names = {path: find_split(str(path), request.split, splits, remedy) for path, splits in divided.items()}
    name = next(iter(names.values()))
    classes = [
        replace(
            inner,
            folders=(divided[inner.path][names[inner.path]],),
            images=(),
            others={**inner.others, BESIDE_SPLITS: inner.images},
        )
        if inner.path in divided
        else inner
        for inner in folder.folders
    ]
    groups = [split_groups([*splits]) for splits in divided.values()]
    shared = set.intersection(*(set(each.values()) for each in groups)) - {None, groups[0][name]}
    others = [quote(other) for other, group in groups[0].items() if group in shared]
    more = f"; others: --data.split {' or '.join(others)}" if others else ""
    count = Counter[str]()
    for path, splits in divided.items():
        count.update({other: len(inner.images_below) for other, inner in splits.items() if other != names[path]})
    example = divided[filled[0].path][name].path
    note = f"split {name!r} inside of each folder is read, such as {str(example)!r}{more}"
    unread = _note_unread(count, [*{other: None for splits in divided.values() for other in splits}])
    return replace(folder, folders=tuple(classes)), name, [note, *unread]
