"""A folder of class folders."""

from pathlib import Path

from ddpm.data.labels import encode_labels
from ddpm.data.records import FilePictures, Records, check_split

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tga", ".tif", ".tiff", ".webp",
))
# fmt: on
SPLITS = ("train", "training", "validation", "valid", "val", "test")


def load_folder(source: str, split: str, image_column: str | None, label_column: str | None) -> Records:
    """Return the images under `source/CLASS/` or `source/SPLIT/CLASS/`, at any depth below the class.

    Class names are the sorted folder names. `datasets`' imagefolder is not used, because it treats a class or file
    whose name contains `train` or `test` as a split, and silently drops the labels of a single class.

    Raises:
        ValueError: if there is no such split, there are no class folders, or a class has no images.
    """
    root = Path(source)
    splits = _splits(root)
    check_split(source, split, splits)
    classes = folders_in(splits[split])
    if not classes:
        found = "images, but no class folders" if images_below(splits[split]) else "neither images nor class folders"
        raise ValueError(f"data.source: {str(splits[split])!r} contains {found}; use one folder of images per class")
    paths: list[str] = []
    values: list[int] = []
    for label, folder in enumerate(classes):
        images = images_below(folder)
        if not images:
            raise ValueError(
                f"data.source: class folder {str(folder)!r} contains no images; add images with suffix "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}, or move the folder elsewhere if it is not a class"
            )
        paths += map(str, images)
        values += [label] * len(images)
    pictures = FilePictures(tuple(paths))
    labels, class_names = encode_labels(values, [folder.name for folder in classes], pictures.where)
    return Records(pictures, labels, class_names)


def _splits(root: Path) -> dict[str, Path]:
    """Map split names to folders of class folders.

    Subfolders are splits only if one has a usual name and all contain folders but no images; otherwise they are
    classes, even one called `train` (the vehicle).
    """
    folders = folders_in(root)
    named = any(folder.name in SPLITS for folder in folders)
    if named and all(folders_in(folder) and not images_in(folder) for folder in folders):
        return {folder.name: folder for folder in folders}
    return {"train": root}


def folders_in(root: Path) -> list[Path]:
    """Return the subfolders of a folder, sorted, without hidden ones."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if is_image(path))


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if is_image(path))


def is_image(path: Path) -> bool:
    """Return whether a file name is that of an image."""
    # file managers create hidden companions of images (`._cat.jpg`)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
