"""YAML files: configurations, and the flags that a model of another code base was trained with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddpm.config.file_kinds import FILE_KINDS, check_is_file, check_is_options
from ddpm.config.sections import Config, flatten
from ddpm.config.values import show
from ddpm.config.yaml_syntax import parse_yaml


def read_yaml(path: Path, example: str = "train: {steps: 100}") -> dict[Any, Any]:
    """Read a YAML file that holds names and values.

    Args:
        path: the file.
        example: valid content, used in the message only.

    Raises:
        ValueError: if it is not valid YAML, a name occurs twice, or it holds something else; one line, without the
            name of the file.
        OSError: if it cannot be read.
    """
    content = parse_yaml(path.read_bytes())
    if content is None:
        raise ValueError(f"is empty; give names and values, such as {example}")
    if isinstance(content, str) and ":" in content:
        raise ValueError(f"holds {show(content)}; write names and values with a space after the colon, as {example}")
    if not isinstance(content, dict):
        raise ValueError(f"holds {show(content)} instead of names and values, such as {example}")
    return content


def read_options(path: Path, section: str | None = None) -> dict[str, Any]:
    """Read the options of a configuration file or of run.json, by names such as `model.norm`; they are not converted.

    Args:
        path: the file.
        section: the section that the options of the file belong to; None if the file names sections.

    Raises:
        ValueError: if it is not such a file; one line that names the file, and says what to do with it instead.
        OSError: if it cannot be read.
    """
    check_is_file(path)
    with prefixed_errors(path):
        content = read_yaml(path)
        if FILE_KINDS["run"].recognize(content) and isinstance(content.get("config"), dict):
            content = content["config"]     # run.json also has the options of its run
        check_is_options(content, path, section)
        return flatten(content if section is None else {section: content})


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ValueError: if it is not a configuration; one line that names the file and the option.
        OSError: if it cannot be read.
    """
    options = read_options(path)
    with prefixed_errors(path):
        return Config().with_options(options)


def read_flags(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file of the flags that a model of another code base was trained with.

    Raises:
        ValueError: if it holds something other than names and values.
        OSError: if it cannot be read.
    """
    with prefixed_errors("flags"):
        check_is_file(path)
    with prefixed_errors(f"flags: {path}"):
        return {str(name): value for name, value in read_yaml(path, "image_size: 64").items()}


@contextmanager
def prefixed_errors(prefix: str | Path) -> Iterator[None]:
    """Prefix the message of a ValueError with the file or key that it is about."""
    try:
        yield
    except ValueError as problem:
        raise ValueError(f"{prefix}: {problem}") from None
