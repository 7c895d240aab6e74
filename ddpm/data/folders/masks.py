"""Folders of masks, which data sets for segmentation have beside their images."""

from collections.abc import Iterator
from shlex import quote

from ddpm.data.counts import format_count
from ddpm.data.folders.scan import Folder

# in lower case
PICTURES = {"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "rgb"}
MASKS = {
    "annotation", "annotations", "ground_truth", "gt", "label", "labels", "mask", "masks", "segmentation",
    "segmentationclass", "segmentations", "trimaps",
}


def note_masks(root: Folder) -> list[str]:
    """Return a note if folders at any depth look like masks of the images beside them."""
    found = list(_masks(root))
    if not found:
        return []
    masks, pictures = found[0]
    more = f" and {format_count(len(found) - 1, 'more folder')} look" if len(found) > 1 else " looks"
    note = f"{str(masks.path)!r}{more} like masks of images, and all of them are read as images"
    alone = len(found) == 1 and pictures is not None and len(root.folders) == 2 and masks in root.folders
    remedy = "move the masks elsewhere"
    if alone and pictures is not None:
        remedy = f"--data.source {quote(str(pictures.path))}"
    return [f"{note}; to train on the images alone: {remedy}"]


def _masks(root: Folder) -> Iterator[tuple[Folder, Folder | None]]:
    """Yield each folder of masks, with the folder of their images; None for images directly beside it."""
    for outer in root.walk():
        filled = {inner.path.name.lower(): inner for inner in outer.folders if inner.images_below}
        pictures = next((inner for name, inner in filled.items() if name in PICTURES), None)
        if pictures is None and not outer.images:
            continue
        yield from ((inner, pictures) for name, inner in filled.items() if name in MASKS)
