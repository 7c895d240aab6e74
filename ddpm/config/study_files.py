"""Files of studies."""

import dataclasses
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from ddpm.cli.parser import Parser, add_sections, to_config
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SECTIONS, Config, SampleConfig
from ddpm.config.study import Arm, Study
from ddpm.config.yaml_files import with_options
from ddpm.names import did_you_mean

NEEDED = ("question", "arms", "seeds", "metric")
TYPED = {"question": str, "seeds": list[int], "metric": str, "learning_rates": list[float]}
KEYS = ("question", "base", "arms", "seeds", "metric", "learning_rates", "evaluation")


def read_study(path: Path) -> Study:
    """Reads the file of a study; a path in `base` is relative to it.

    Raises:
        ValueError: if it is not one; one line that names the file and the key.
        OSError: if it cannot be read.
    """
    with _of_file(path):
        return _study(_mapping(path.read_text(encoding="utf-8"), "the file"), path.parent)


def study_text(path: Path) -> str:
    """The text of a study's file that reads alike wherever it is kept: a base in another file is written into it.

    Raises:
        ValueError: if it is none; one line that names the file.
        OSError: if it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    with _of_file(path):
        content = _mapping(text, "the file")
        if not isinstance(content.get("base"), str):
            return text
        name = content["base"]
        within = _file_of_base(name, path.parent).read_text(encoding="utf-8")
        content["base"] = _mapping(within, f"base: {name}")
        edited = _with_base(text, name, within)
        # What could not be put in its place as it is, as a file with marks of documents, loses its comments.
        return edited if _reads_as(edited, content) else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _with_base(text: str, name: str, within: str) -> str:
    """The text with the content of the base's file in place of its name."""
    root = yaml.compose(text, yaml.SafeLoader)
    value = next(value for key, value in root.value if key.value == "base")
    before, after = text[: value.start_mark.index].rstrip(" "), text[value.end_mark.index :]
    return f"{before} # of {Path(name).name}\n{textwrap.indent(within.rstrip(), '  ')}\n{after.lstrip()}"


def _reads_as(text: str, content: dict[str, Any]) -> bool:
    try:
        return _mapping(text, "") == content
    except (ValueError, yaml.YAMLError):
        return False


def _study(content: dict[str, Any], folder: Path) -> Study:
    for key in content:
        if key not in KEYS:
            raise ValueError(f"{key} is not an option{did_you_mean(key, KEYS)}")
    given = {key: value for key, value in content.items() if value is not None}
    for key in NEEDED:
        if key not in given:
            raise ValueError(f"{key}: is missing; a study has {', '.join(NEEDED)}, and may have more")
    parser = Parser(exit_on_error=False)
    for key, kind in TYPED.items():
        parser.add_argument(f"--{key}", type=kind)
    read = parser.parse_object({key: given[key] for key in TYPED if key in given})
    base = _base(given.get("base", {}), folder)
    arms = given["arms"]
    if not isinstance(arms, dict):
        raise ValueError("arms: give names and what each overrides, as adagn: {model.norm: adagn}")
    return Study(
        question=read.question,
        arms=tuple(_arm(name, overrides, base) for name, overrides in arms.items()),
        seeds=tuple(read.seeds),
        metric=read.metric,
        learning_rates=tuple(read.learning_rates or ()),
        evaluation=_evaluation_options(given.get("evaluation", {})),
    )


def _base(given: Any, folder: Path) -> Config:
    if isinstance(given, str):
        file = _file_of_base(given, folder)
        given = _mapping(file.read_text(encoding="utf-8"), f"base: {file}")
    with _named("base"):
        options = _flat(given)
        if "train.seed" in options:
            raise ValueError("train.seed comes from seeds; remove it")
        return _configured({}, options)


def _file_of_base(name: str, folder: Path) -> Path:
    file = folder / name
    if not file.is_file():
        raise ValueError(f"base: there is no file {file}; give a configuration file, or sections and options")
    return file


def _arm(name: Any, given: Any, base: Config) -> Arm:
    if not isinstance(name, str):
        raise ValueError(f"arms: {name!r} is read as {type(name).__name__} and not as a name; put it in quotes")
    with _named(f"arms.{name}"):
        options = _flat({} if given is None else given)
        shift = options.pop("seed_shift", 0)
        if type(shift) is not int:
            raise ValueError(f"seed_shift: {shift!r} is no whole number")
        config = _configured(base.to_dict(), options, "seed_shift")
    # As the configuration has them: 1e-3 is text in YAML, and a number there.
    values = config.to_dict()
    return Arm(name, {key: values[key.split(".")[0]][key.split(".", 1)[1]] for key in options}, config, shift)


def _configured(base: dict[str, Any], options: dict[str, Any], *beside: str) -> Config:
    """A configuration with other values of some options; `beside` are keys that may stand beside them."""
    sections = {name: dict(base.get(name, {})) for name in SECTIONS}
    parser = Parser(exit_on_error=False)
    add_sections(parser)
    known = [f"{name}.{f.name}" for name, section in SECTIONS.items() for f in dataclasses.fields(section)]
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"{key} is not an option{did_you_mean(key, [*SECTIONS, *beside, *known])}")
        section, _, name = key.partition(".")
        sections[section][name] = value
    return to_config(parser.instantiate(parser.parse_object(sections)))


def _evaluation_options(given: Any) -> dict[str, Any]:
    """Options of scripts/evaluate.py with their types; the model and where it is written are the study's."""
    parser = Parser(exit_on_error=False)
    kinds = {f.name: f.type for f in dataclasses.fields(EvaluateCommand) if f.name not in ("model", "out")}
    for name, kind in kinds.items():
        parser.add_argument(f"--{name}", type=kind)
    with _named("evaluation"):
        if not isinstance(given, dict):
            raise ValueError("give options of scripts/evaluate.py and their values, as {count: 1000, steps: 10}")
        for name in given:
            if name not in kinds:
                raise ValueError(f"{name} is not an option{did_you_mean(name, kinds)}")
        if not isinstance(given.get("metrics", ""), str | None):
            raise ValueError(f"metrics: {given['metrics']} is no text; {_listed(given['metrics'])}")
        read = parser.parse_object(given)
        options = {name: read[name] for name in given}
        command = EvaluateCommand(model=Path(), **options)
        with_options(SampleConfig(), command)
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _listed(metrics: Any) -> str:
    """What to type for a list of metrics."""
    if isinstance(metrics, list) and all(isinstance(name, str) for name in metrics):
        names = ", ".join(metrics)
        return f'type metrics: "{names}"'
    return 'give names with commas between, as metrics: "denoising, accuracy"'


def _flat(given: Any) -> dict[str, Any]:
    """Options by their whole names, whether they stand in sections or not."""
    if not isinstance(given, dict):
        raise ValueError(f"{given!r} is no list of options and values; give them as {{model.norm: adagn}}")
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise ValueError(f"{key}: {value!r} is not a section; give its options, as {{{key}: {{option: value}}}}")
        within = {f"{key}.{name}": v for name, v in value.items()} if key in SECTIONS else {str(key): value}
        for name in within:
            if name in options:
                raise ValueError(f"{name}: is there twice; remove one")
        options |= within
    return options


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a name that stands twice is refused: of two arms of one name the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":       # <<: *anchor
                continue
            key = self.construct_object(key_node, deep=True)
            if key in found:
                raise ValueError(f"{key!r} is there twice, again in line {key_node.start_mark.line + 1}")
            found.append(key)
        return super().construct_mapping(node, deep)


def _mapping(text: str, what: str) -> dict[Any, Any]:
    try:
        content = yaml.load(text, _UniqueKeys)
    except RecursionError:
        raise ValueError(f"{what} holds lists or sections in one another too deeply to be read") from None
    if not isinstance(content, dict):
        raise ValueError(f"{what} holds no names and values")
    return content


@contextmanager
def _of_file(path: Path) -> Iterator[None]:
    """Puts the file before a message, in one line."""
    try:
        yield
    except (ValueError, yaml.YAMLError, jsonargparse.ArgumentError) as problem:
        raise ValueError(f"{path}: {' '.join(str(problem).split())}") from problem


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Puts the place before a message."""
    try:
        yield
    except (ValueError, jsonargparse.ArgumentError) as problem:
        raise ValueError(f"{key}: {problem}") from problem
