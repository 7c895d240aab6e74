"""Reading of study files, and the copies of them that a study keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.config.commands import EvaluateCommand
from ddpm.config.file_kinds import check_is_file, check_is_study
from ddpm.config.sections import OPTIONS, Config, flatten
from ddpm.config.study import Arm, Study
from ddpm.config.values import accepts_list, check_known, convert_mapping, field_types
from ddpm.config.yaml_files import prefixed_errors, read_options, read_yaml
from ddpm.config.yaml_syntax import dump_yaml
from ddpm.text_encoding import decode_text

NEEDED = ("question", "arms", "seeds", "metric")
TYPES = {"question": str, "seeds": list[int], "metric": str, "learning_rates": list[float]}
LISTS = {"seeds": "[0, 1, 2, 3, 4]", "learning_rates": "[1e-3, 3e-3]"}
STUDY_KEYS = (*NEEDED, "base", "learning_rates", "evaluation")


def read_study(path: Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study file; a path in `base` is relative to the file.

    Args:
        path: the file.
        overrides: options that replace those of the base, by names such as `data.source`.

    Raises:
        ValueError: if it is not a valid study; one line that names the file and the key.
        OSError: if it cannot be read.
    """
    check_is_file(path)
    with prefixed_errors(path):
        content = read_yaml(path, "question: Is AdaGN better?")
        check_is_study(content, path)
        for key in content:
            check_known(key, STUDY_KEYS)
        given = {key: value for key, value in content.items() if value is not None}
        for key in NEEDED:
            if key not in given:
                raise ValueError(f"{key}: is missing; a study needs {', '.join(NEEDED)}")
        plain = convert_mapping({key: _checked(key, given[key]) for key in TYPES if key in given}, TYPES)
        base = _base(given.get("base", {}), path.parent, overrides or {})
        if not isinstance(given["arms"], dict):
            raise ValueError("arms: give names and their overrides, such as adagn: {model.norm: adagn}")
        plain |= {key: tuple(value) for key, value in plain.items() if isinstance(value, list)}
        arms = tuple(_arm(name, overrides, base) for name, overrides in given["arms"].items())
        return Study(**plain, arms=arms, evaluation=_evaluation_options(given.get("evaluation", {})), base=base)


def describe_ineffective_overrides(study: Study, overrides: Mapping[str, Any]) -> list[str]:
    """Return one line on each option of the command line that changes nothing in any arm.

    Args:
        study: the study.
        overrides: as for `read_study`.
    """
    lines = []
    for key in overrides:
        section, _, name = key.partition(".")
        if all(key in arm.overrides for arm in study.arms):
            lines.append(f"{key}: has no effect, because every arm sets it; change it in the study file")
        elif key == "train.learning_rate" and study.learning_rates:
            lines.append(f"{key}: has no effect, because learning_rates of the study file are tried")
        elif section == "evaluation" and all(arm.config.evaluation.every == 0 for arm in study.arms):
            own = f"set {name} in evaluation in its file, or " if name in field_types(EvaluateCommand) else ""
            lines.append(f"{key}: has no effect on the evaluation of a study; {own}set evaluation.every, such as 200")
    return lines


def study_documents(path: Path) -> dict[str, str]:
    """Return the files that a study keeps as they were given: study.yaml and, if the base is a file, base.yaml.

    Raises:
        ValueError, OSError: as `read_study`.
    """
    documents = {"study.yaml": decode_text(path.read_bytes())}
    base = read_yaml(path).get("base")
    if isinstance(base, str):
        documents["base.yaml"] = decode_text((path.parent / base).read_bytes())
    return documents


def study_to_yaml(study: Study) -> str:
    """Return the text of a study file with the values of all options, which can be read on its own."""
    resolved, options = study.to_dict(), study.base.to_dict()
    del options["train"]["seed"]
    arms = {arm["name"]: _own_options(arm, options) | {"seed_shift": arm["seed_shift"]} for arm in resolved["arms"]}
    resolved = {"question": resolved["question"], "base": options, **resolved, "arms": arms}
    return dump_yaml(resolved)


def _checked(key: str, value: Any) -> Any:
    """Return a value, unless it is a single entry for a list: `seeds: 3` is more likely a number of seeds."""
    if accepts_list(TYPES[key]) and isinstance(value, str) and "," not in value and not value.startswith("["):
        raise ValueError(f"{key}: {value} is not a list; give all of them, such as {LISTS[key]}")
    return value


def _own_options(arm: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides of an arm, and the options that were derived for it and differ from the base."""
    own, shared = flatten(arm["config"]), flatten(base)
    return arm["overrides"] | {key: value for key, value in own.items() if value != shared[key]}


def _base(given: Any, folder: Path, overrides: Mapping[str, Any]) -> Config:
    with prefixed_errors("base"):
        if isinstance(given, str):
            options = read_options(folder / given)
        else:
            options = flatten(given)
        options = {**options, **overrides}
        if "train.seed" in options:
            raise ValueError("train.seed is set by seeds; remove it")
        return Config().with_options(options)


def _arm(name: str, given: Any, base: Config) -> Arm:
    with prefixed_errors(f"arms.{name}"):
        options = convert_mapping(flatten({} if given is None else given), OPTIONS | {"seed_shift": int})
        shift = options.pop("seed_shift", 0)
        config = base.with_options(options)
    return Arm(name, options, config, shift)


def _evaluation_options(given: Any) -> dict[str, Any]:
    """Return options of scripts/evaluate.py with their types; the study itself sets the model and the output folder."""
    with prefixed_errors("evaluation"):
        if not isinstance(given, dict):
            raise ValueError("give options of scripts/evaluate.py and their values, such as {count: 1000, steps: 10}")
        if isinstance(given.get("metrics"), list):
            names = ", ".join(map(str, given["metrics"]))
            raise ValueError(f'metrics: a list is not supported; type metrics: "{names}"')
        options = convert_mapping(given, field_types(EvaluateCommand, "model", "out"))
        EvaluateCommand(model=Path(), **options)        # checks the ranges
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
