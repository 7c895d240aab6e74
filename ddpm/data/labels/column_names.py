"""Usual names of columns, in order of preference, and the comparison of names with them."""

import re
from collections.abc import Iterable, Sequence

from ddpm.data.folders.masks import MASKS

SHOWN = 10      # most columns that a message lists

# in lower case and without punctuation
VAGUE_FILE_COLUMNS = ("name", "id", "key", "idx", "index")      # which often have something else than names of files
FILE_COLUMNS = (
    "filename", "filepath", "file", "fname", "imagepath", "imagefile", "imagefilename", "imagename", "path",
    "image", "img", "imageid", "imgid", "imgpath", "imgfile", "imgname", "imagenumber", "picture", "photo",
    "filenames", "filepaths", "files", "paths", "images", "imagenames", "imagepaths", "imagefilepath", "imgfilename",
    *VAGUE_FILE_COLUMNS,
)
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixels")
# Words in the names of columns that have names of other pictures, which belong to the images.
OTHER_PICTURES = MASKS - {"label", "labels"} | {
    "depth", "thumb", "thumbnail", "thumbnails", "prev", "previous", "next", "similar", "duplicate",
}
LABEL_COLUMNS = (
    "label", "labels", "class", "classlabel", "finelabel", "target", "targets", "category", "y",
    "classname", "labelname", "categoryname", "classid", "labelid", "categoryid", "choice",
    "classes",
)
SPLIT_COLUMNS = (
    "split", "subset", "partition", "set", "dataset", "datasplit", "fold", "folds", "foldid", "kfold",
    "istrain", "istraining", "istest", "isval", "isvalid", "isvalidation",
)


def is_usual(name: str, usual: Sequence[str]) -> bool:
    """Return whether a name is one of the usual names, in any letter case and with any punctuation."""
    return _plain(name) in usual


def find_all_usual(names: Iterable[str], usual: Sequence[str]) -> list[str]:
    """Return the names that are usual, in the order of preference."""
    return sorted((name for name in names if is_usual(name, usual)), key=lambda name: usual.index(_plain(name)))


def find_usual(names: Iterable[str], usual: Sequence[str]) -> str | None:
    """Return the name that is the first of the usual names; None if none is usual."""
    return next(iter(find_all_usual(names, usual)), None)


def list_columns(names: Iterable[str]) -> str:
    """Return the names of columns for a message: all, or the first ones and the last of many."""
    names = list(names)
    if len(names) <= SHOWN:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:SHOWN - 1])}, ..., {names[-1]}, {len(names):,} in all"


def has_other_pictures(name: str) -> bool:
    """Return whether a column is called like one with names of masks or other pictures that belong to the images."""
    return not OTHER_PICTURES.isdisjoint(re.findall(r"[a-z]+", name.lower()))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
