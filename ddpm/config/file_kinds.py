"""What a file is that is given as a configuration or as a study but is something else, and where it belongs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.config.sections import OPTIONS, SECTIONS
from ddpm.config.values import field_types
from ddpm.names import did_you_mean_path


class FileKind(NamedTuple):
    """A kind of file.

    Attributes:
        recognize: returns whether the content of a file is of this kind.
        remedy: what the file is and what to do with it. In it, {path} stands for the file, and {folder} for the folder
            of the model that the file belongs to.
    """

    recognize: Callable[[Mapping[str, Any]], bool]
    remedy: str


FILE_KINDS: dict[str, FileKind] = {
    "study": FileKind(
        lambda content: bool({"question", "arms", "seeds"} & content.keys()),
        "is a study; run it with scripts/ablate.py --study {path}",
    ),
    "configuration": FileKind(
        lambda content: any(str(key).partition(".")[0] in SECTIONS for key in content),
        "is a configuration; train with it by scripts/train.py --config {path}, or name it as the base of a study",
    ),
    "run": FileKind(
        lambda content: {"id", "versions", "data"} <= content.keys(),
        "describes a run; give its config.yaml",
    ),
    "model": FileKind(
        lambda content: bool({"_class_name", "_diffusers_version"} & content.keys()),
        "describes a model; give a configuration, and start from a model's weights with --model.pretrained {folder}",
    ),
    "launch": FileKind(
        lambda content: "compute_environment" in content or "num_machines" in content,
        "is a configuration of accelerate; give it as accelerate launch --config_file {path}",
    ),
}


def check_is_file(path: Path) -> None:
    """Check that a path names a file.

    Raises:
        ValueError: if it does not; says which file is probably meant.
    """
    if path.is_dir():
        file = next((path / name for name in ("config.yaml", "study.yaml") if (path / name).is_file()), "a YAML file")
        remedy = f"give {file}"
        if (path / "run.json").is_file():
            remedy += f", or continue the run with --run-dir {path}"
        elif (path / "model_index.json").is_file():
            remedy = f"start from the weights of a model with --model.pretrained {path}"
        raise ValueError(f"{path} is not a file but a directory; {remedy}")
    if not path.is_file():
        problem = "does not exist" if not path.exists() else "is not a file"
        raise ValueError(f"{path} {problem}{did_you_mean_path(path) or '; give a YAML file'}")


def check_is_options(content: Mapping[str, Any], path: Path, section: str | None = None) -> None:
    """Check that the content of a file may be a configuration, or the options of one section.

    Raises:
        ValueError: if it is a file of another kind; says what to do with it.
    """
    if section is None:
        _refuse(content, path, "study", "run", "model", "launch")
        return
    _refuse(content, path, "study", "launch")
    known = field_types(SECTIONS[section])
    for key in content:
        prefix, dot, name = key.partition(".")
        if (key in SECTIONS and key not in known) or (dot and f"{prefix}.{name}" in OPTIONS):
            raise ValueError(
                f"names its sections, such as {prefix}; give it as --config {path}"
                + (f", or remove the section's name {section} from it" if prefix == section else "")
            )
        elsewhere = [name for name, kind in SECTIONS.items() if key in field_types(kind)]
        if key not in known and elsewhere:
            named = " and ".join(elsewhere)
            raise ValueError(f"{key} is an option of {named}; give the file as --{elsewhere[0]} {path}")


def check_is_study(content: Mapping[str, Any], path: Path) -> None:
    """Check that the content of a file may be a study.

    Raises:
        ValueError: if it is a file of another kind; says what to do with it.
    """
    if not FILE_KINDS["study"].recognize(content):
        _refuse(content, path, "run", "model", "launch", "configuration")


def _refuse(content: Mapping[str, Any], path: Path, *kinds: str) -> None:
    for kind in kinds:
        recognize, remedy = FILE_KINDS[kind]
        if recognize(content):
            # A model has its parts in folders.
            folder = next((folder for folder in path.parents if (folder / "model_index.json").is_file()), path.parent)
            raise ValueError(remedy.format(path=path, folder=folder))
