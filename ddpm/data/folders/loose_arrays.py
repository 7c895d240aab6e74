"""Folders of arrays, one per image, which are not read: what to do to train on them."""

import json
import os
import shlex
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from ddpm.data.labels.column_names import LABEL_COLUMNS, find_usual
from ddpm.data.sources.arrays import has_channels_first, member_header, read_header, refuse_if_it_fails

EXAMINED = 100      # arrays whose shapes are looked at
FEW_CHANNELS = 4    # in an array of three dimensions, a first or last one of at most this size is that of channels

Shape = tuple[int, ...]


def describe_arrays(folder: Path, files: Sequence[Path]) -> str:
    """Return what the arrays in a folder without images are, and what to do to train on them.

    Args:
        folder: contains them at any depth.
        files: one or more .npy or .npz.
    """
    stored = {file: found for file in files[:EXAMINED] if (found := _stored_shapes(file))}
    largest = {file: found[_largest(found)] for file, found in stored.items()}
    shapes = {file: shape for file, shape in largest.items() if len(shape) > 1}     # others may be labels
    one_shape = len({*shapes.values()}) == 1
    single = [file for file, shape in shapes.items() if _is_one_image(shape, one_shape)]
    if len(single) < 2:
        named = max((file for file in shapes if file not in single), key=lambda file: prod(shapes[file]), default=None)
        named = named or [*single, *files][0]
        return f"{named.name!r}; name that file: --data.source {shlex.quote(str(named))}"
    ((suffix, _),) = Counter(file.suffix for file in single).most_common(1)
    single = [file for file in single if file.suffix == suffix]
    alike = [file for file in files if file.suffix == suffix]
    about = f"{len(alike):,} arrays of one image each, such as {single[0].name!r}"
    if len({shapes[file] for file in single}) > 1:
        return f"{about}, whose shapes differ; save them as PNG or other image files, or in one shape"
    return f"{about}; join them: {_joining(folder, alike, suffix, stored[single[0]])}"


def _is_one_image(shape: Shape, one_shape: bool) -> bool:
    """Return whether an array seems to be one image, and not several.

    Args:
        shape: of the array, with two dimensions or more.
        one_shape: whether the arrays beside it have the same shape, so that their last dimension may be many channels.
    """
    if len(shape) != 3:
        return len(shape) == 2
    return min(shape[0], shape[2]) <= FEW_CHANNELS or (one_shape and shape[2] < min(shape[:2]))


def _joining(folder: Path, files: Sequence[Path], suffix: str, shapes: Mapping[str, Shape]) -> str:
    """Return the command that joins files of one image each in an .npz, with labels.

    Labels are the class folders, or else a single value beside the image in each .npz, if it is called as labels are.

    Args:
        folder: contains the files at any depth.
        files: all of them.
        suffix: of all of them.
        shapes: of the arrays in each of them by name.
    """
    classes = {file.relative_to(folder).parts[0] for file in files if file.parent != folder}
    name = folder.absolute().name or "images"
    target = f"{name}_images.npz" if os.path.exists(f"{name}.npz") else f"{name}.npz"
    image = _largest(shapes)
    shape, load = shapes[image], _loading(image)
    if len(shape) == 3 and has_channels_first(shape):
        load = f"np.moveaxis({load}, 0, 2)"
    label = find_usual([member for member, own in shapes.items() if prod(own) == 1], LABEL_COLUMNS)
    labels = ""
    if len(classes) > 1:
        labels = ", labels=[file.relative_to(root).parts[0] for file in files]"
    elif label is not None:
        labels = f", labels=[{_loading(label)}.item() for file in files]"
    code = (
        f"import numpy as np, pathlib; root = pathlib.Path({_python_text(str(folder))}); "
        f"files = sorted(root.rglob({_python_text(f'*{suffix}')})); "
        f"np.savez({_python_text(target)}, images=[{load} for file in files]{labels})"
    )
    return f"python -c {shlex.quote(code)}, and use --data.source {shlex.quote(target)}"


def _loading(member: str) -> str:
    """Return the expression for an array of `file` by its name, which is empty in an .npy."""
    return f"np.load(file)[{_python_text(member)}]" if member else "np.load(file)"


def _python_text(text: str) -> str:
    """Return a text as a literal of Python in double quotes, which a shell does not read between single quotes."""
    return json.dumps(text, ensure_ascii=False)


def _largest(shapes: Mapping[str, Shape]) -> str:
    return max(shapes, key=lambda member: prod(shapes[member]))


def _stored_shapes(file: Path) -> dict[str, Shape]:
    """Return the shapes of the arrays of a file by their names, empty in an .npy; nothing if it is damaged."""
    try:
        with refuse_if_it_fails(str(file)):
            if file.suffix.lower() == ".npy":
                with file.open("rb") as stream:
                    return {"": read_header(stream).shape}
            with zipfile.ZipFile(file) as archive:
                return {name.removesuffix(".npy"): member_header(archive, name).shape for name in archive.namelist()}
    except ValueError:
        return {}
