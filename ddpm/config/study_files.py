"""Reading of study files, and the copies of them that a study keeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import SECTIONS, Config, SampleConfig, option_names
from ddpm.config.study import Arm, Study
from ddpm.config.values import check_known, convert_mapping, convert_value, field_types
from ddpm.config.yaml_files import read_yaml, with_options

NEEDED = ("question", "arms", "seeds", "metric")
TYPES = {"question": str, "seeds": list[int], "metric": str, "learning_rates": list[float]}
KEYS = ("question", "base", "arms", "seeds", "metric", "learning_rates", "evaluation")


def read_study(path: Path) -> Study:
    """Read a study file; a path in `base` is relative to the file.

    Raises:
        ValueError: if it is not a valid study; one line that names the file and the key.
        OSError: if it cannot be read.
    """
    with _prefixed(path):
        return _study(read_yaml(path), path.parent)


def study_documents(path: Path) -> dict[str, str]:
    """Return the files that a study keeps, as names and texts.

    They are study.yaml and, if the base is a file, base.yaml, both as given, and resolved.yaml, which has the values of
    all options and can be read on its own.

    Raises:
        ValueError, OSError: as `read_study`.
    """
    study = read_study(path)
    documents = {"study.yaml": path.read_text(encoding="utf-8")}
    content = read_yaml(path)
    base = content.get("base")
    if isinstance(base, str):
        documents["base.yaml"] = (path.parent / base).read_text(encoding="utf-8")
    options = _base(base or {}, path.parent).to_dict()
    del options["train"]["seed"]
    resolved = {
        "question": study.question,
        "base": options,
        "arms": {arm.name: arm.overrides | {"seed_shift": arm.seed_shift} for arm in study.arms},
        "seeds": list(study.seeds),
        "metric": study.metric,
        "learning_rates": list(study.learning_rates),
        "evaluation": study.evaluation,
    }
    return documents | {"resolved.yaml": yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)}


def _study(content: dict[Any, Any], folder: Path) -> Study:
    for key in content:
        check_known(key, KEYS)
    given = {key: value for key, value in content.items() if value is not None}
    for key in NEEDED:
        if key not in given:
            raise ValueError(f"{key}: is missing; a study needs {', '.join(NEEDED)}")
    plain = convert_mapping({key: given[key] for key in TYPES if key in given}, TYPES)
    base = _base(given.get("base", {}), folder)
    arms = given["arms"]
    if not isinstance(arms, dict):
        raise ValueError("arms: give names and their overrides, such as adagn: {model.norm: adagn}")
    return Study(
        question=plain["question"],
        arms=tuple(_arm(name, overrides, base) for name, overrides in arms.items()),
        seeds=tuple(plain["seeds"]),
        metric=plain["metric"],
        learning_rates=tuple(plain.get("learning_rates", ())),
        evaluation=_evaluation_options(given.get("evaluation", {})),
    )


def _base(given: Any, folder: Path) -> Config:
    with _prefixed("base"):
        if isinstance(given, str):
            file = folder / given
            if not file.is_file():
                raise ValueError(f"there is no file {file}; give a configuration file, or sections and options")
            with _prefixed(file):
                given = read_yaml(file)
        options = _flat(given)
        if "train.seed" in options:
            raise ValueError("train.seed is set by seeds; remove it")
        return _with_overrides(Config(), options)


def _arm(name: Any, given: Any, base: Config) -> Arm:
    if not isinstance(name, str):
        raise ValueError(f"arms: YAML reads {name!r} as {type(name).__name__} instead of a name; put it in quotes")
    with _prefixed(f"arms.{name}"):
        options = _flat({} if given is None else given)
        shift = convert_value(options.pop("seed_shift", 0), int, "seed_shift")
        config = _with_overrides(base, options, "seed_shift")
    values = config.to_dict()           # the converted values: YAML reads 1e-3 as text
    return Arm(name, {key: values[key.split(".")[0]][key.split(".", 1)[1]] for key in options}, config, shift)


def _with_overrides(base: Config, options: dict[str, Any], *others: str) -> Config:
    """Return `base` with other values of some options; `others` are suggested too if an option is not known."""
    sections = base.to_dict()
    for key, value in options.items():
        if key not in option_names():
            check_known(key, [*SECTIONS, *others, *option_names()])
        section, _, name = key.partition(".")
        sections[section][name] = value
    return Config.from_dict(sections)


def _evaluation_options(given: Any) -> dict[str, Any]:
    """Return options of scripts/evaluate.py with their types; the study itself sets the model and the output folder."""
    kinds = field_types(EvaluateCommand, "model", "out")
    with _prefixed("evaluation"):
        if not isinstance(given, dict):
            raise ValueError("give options of scripts/evaluate.py and their values, such as {count: 1000, steps: 10}")
        if isinstance(given.get("metrics"), list):
            names = ", ".join(map(str, given["metrics"]))
            raise ValueError(f'metrics: a list is not supported; type metrics: "{names}"')
        options = convert_mapping(given, kinds)
        with_options(SampleConfig(), EvaluateCommand(model=Path(), **options))
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _flat(given: Any) -> dict[str, Any]:
    """Return options by their full names, such as `model.norm`, whether they are given in sections or not."""
    if not isinstance(given, dict):
        raise ValueError(f"{given!r} is not a mapping; give options and values, such as {{model.norm: adagn}}")
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise ValueError(f"{key}: {value!r} is not a section; give options and values, as {{{key}: {{...}}}}")
        within = {f"{key}.{name}": v for name, v in value.items()} if key in SECTIONS else {str(key): value}
        for name in within:
            if name in options:
                raise ValueError(f"{name}: occurs twice; remove one")
        options |= within
    return options


@contextmanager
def _prefixed(prefix: str | Path) -> Iterator[None]:
    """Prefix the message of a ValueError with the file or key that it is about."""
    try:
        yield
    except ValueError as problem:
        raise ValueError(f"{prefix}: {problem}") from problem
