"""YAML files: configurations, and the flags that a model of another code base was trained with."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from ddpm.config.commands import ModelSamplingOptions
from ddpm.config.sections import Config, SampleConfig, flatten
from ddpm.config.values import accepts_list, field_types, members


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
    try:
        content = yaml.load(path.read_bytes(), _UniqueKeys)
    except yaml.YAMLError as problem:
        raise ValueError(" ".join(str(problem).split()).replace('in "<byte string>", line', "in line")) from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(content, dict):
        held = "nothing" if content is None else repr(content)
        raise ValueError(f"holds {held[:60]} instead of names and values, such as {example}")
    return content


def value_from_text(text: str, kind: Any) -> Any:
    """Return the plain value of a string from the command line, for an option of the type `kind`.

    A list is read as YAML, and `null` as None if the option may be None. Other strings are returned as they are.
    """
    if text in ("null", "~") and NoneType in members(kind):
        return None
    if text.startswith("[") and accepts_list(kind):
        with suppress(yaml.YAMLError):
            return yaml.safe_load(text)
    return text


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ValueError: if it is not a configuration; one line that names the file and the option.
        OSError: if it cannot be read.
    """
    with prefixed_errors(path):
        return Config().with_options(flatten(read_yaml(path)))


def read_flags(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file of the flags that a model of another code base was trained with.

    Raises:
        ValueError: if it holds something other than names and values.
        OSError: if it cannot be read.
    """
    with prefixed_errors(f"flags: {path}"):
        return {str(name): value for name, value in read_yaml(path, "image_size: 64").items()}


def run_of(path: Path) -> Path | None:
    """Return the run directory that `path` is or lies in, as a checkpoint does; None if there is none."""
    near = (path, *path.absolute().parents[:3])
    return next((f for f in near if (f / "config.yaml").is_file() and (f / "run.json").is_file()), None)


def sample_settings(options: ModelSamplingOptions) -> SampleConfig:
    """Return the `sample` section of the run that the model belongs to, if any, with the given options replaced.

    Raises:
        ValueError: if a value is out of range.
    """
    run = run_of(options.model)
    defaults = SampleConfig() if run is None else read_config(run / "config.yaml").sample
    names = field_types(SampleConfig)
    given = {key: value for key, value in vars(options).items() if key in names and value is not None}
    return dataclasses.replace(defaults, **given)


@contextmanager
def prefixed_errors(prefix: str | Path) -> Iterator[None]:
    """Prefix the message of a ValueError with the file or key that it is about."""
    try:
        yield
    except ValueError as problem:
        raise ValueError(f"{prefix}: {problem}") from None


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which each name may occur once; PyYAML would silently keep the last of several."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":       # <<: *anchor
                continue
            key = self.construct_object(key_node, deep=True)
            if key in found:
                raise ValueError(f"{key!r} occurs twice, again in line {key_node.start_mark.line + 1}; remove one")
            found.append(key)
        return super().construct_mapping(node, deep)
