"""Command lines and configuration files -> dataclasses. Nothing else reads argv or the YAML of a configuration."""

import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import docstring_parser
import jsonargparse
import yaml

from ddpm.commands import (
    AblateCommand,
    CompareCommand,
    ConvertCommand,
    Drawing,
    EvaluateCommand,
    ProbeCommand,
    PushCommand,
    SampleCommand,
    TrainCommand,
)
from ddpm.config import SECTIONS, Config, SampleConfig
from ddpm.names import did_you_mean

Command = TypeVar("Command")


def read_config(path: Path) -> Config:
    """Reads a configuration file.

    Raises:
        ValueError: if it is not one.
    """
    parser = _Parser(exit_on_error=False)
    _add_sections(parser)
    try:
        return _to_config(parser.instantiate(parser.parse_path(str(path))))
    except (ValueError, jsonargparse.ArgumentError) as problem:
        raise ValueError(f"{path}: cannot be read as a configuration: {' '.join(str(problem).split())}") from problem


def run_of(path: Path) -> Path | None:
    """The run directory that a path is, or is in, such as that of a checkpoint; None if it is in none."""
    near = (path, *path.absolute().parents[:3])
    return next((f for f in near if (f / "config.yaml").is_file() and (f / "run.json").is_file()), None)


def sample_settings(drawing: Drawing) -> SampleConfig:
    """The `sample` section of the run that the model is from, if any, with what the command line gives.

    Raises:
        ValueError: if a value is out of range.
    """
    run = run_of(drawing.model)
    defaults = SampleConfig() if run is None else read_config(run / "config.yaml").sample
    names = {f.name for f in dataclasses.fields(SampleConfig)}
    given = {key: value for key, value in vars(drawing).items() if key in names and value is not None}
    return dataclasses.replace(defaults, **given)


def read_flags(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file of the flags that a foreign model was trained with.

    Raises:
        ValueError: if it holds something else than names and values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ValueError(f"flags: {path} cannot be read: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"flags: {path} holds no names and values, as image_size: 64")
    return {str(name): value for name, value in content.items()}


def parse_train(argv: list[str] | None = None) -> TrainCommand:
    """Reads the command line of scripts/train.py; prints one line and exits with code 2 on a mistake."""
    parser = _Parser(
        prog="train.py",
        usage="train.py [--config FILE] [--run DIR] [--dry-run] [--print_config] [--section.key VALUE ...]",
        description="Train a class-conditional diffusion model. Without arguments: on scikit-learn's digits.",
        print_config="--print_config",
    )
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file; what follows overrides it")
    parser.add_argument("--run", type=Path | None, help="run directory; the same command again resumes it")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and stop")
    _add_sections(parser)
    args = parser.parse_args(argv)
    config = _to_config(parser.instantiate(args))
    run = args.run or Path("runs") / (re.sub(r"\W+", "-", Path(config.data.source).name) or "run")
    return TrainCommand(config, Path(run), args.dry_run)


def parse_sample(argv: list[str] | None = None) -> SampleCommand:
    """Reads the command line of scripts/sample.py; prints one line and exits with code 2 on a mistake."""
    return parse(SampleCommand, "sample.py", argv)


def parse_evaluate(argv: list[str] | None = None) -> EvaluateCommand:
    """Reads the command line of scripts/evaluate.py; prints one line and exits with code 2 on a mistake."""
    return parse(EvaluateCommand, "evaluate.py", argv)


def parse_compare(argv: list[str] | None = None) -> CompareCommand:
    """Reads the command line of scripts/compare.py; prints one line and exits with code 2 on a mistake."""
    return parse(CompareCommand, "compare.py", argv)


def parse_convert(argv: list[str] | None = None) -> ConvertCommand:
    """Reads the command line of scripts/convert.py; prints one line and exits with code 2 on a mistake."""
    return parse(ConvertCommand, "convert.py", argv)


def parse_push(argv: list[str] | None = None) -> PushCommand:
    """Reads the command line of scripts/push.py; prints one line and exits with code 2 on a mistake."""
    return parse(PushCommand, "push.py", argv)


def parse_ablate(argv: list[str] | None = None) -> AblateCommand:
    """Reads the command line of scripts/ablate.py; prints one line and exits with code 2 on a mistake."""
    return parse(AblateCommand, "ablate.py", argv)


def parse_probe(argv: list[str] | None = None) -> ProbeCommand:
    """Reads the command line of scripts/probe.py; prints one line and exits with code 2 on a mistake."""
    return parse(ProbeCommand, "probe.py", argv)


def parse(command: type[Command], prog: str, argv: list[str] | None) -> Command:
    """Reads a command line into a dataclass, whose docstring is the help; `model` and `runs` have no option's name."""
    described = [docstring_parser.parse(kind.__doc__) for kind in reversed(command.__mro__[:-1])]
    parser = _Parser(prog=prog, description=described[-1].short_description)
    helps = {p.arg_name: " ".join(p.description.split()) for document in described for p in document.params}
    fields = dataclasses.fields(command)
    for f in fields:
        option = f"--{f.name.replace('_', '-')}"
        if f.name == "model":
            parser.add_argument("model", type=f.type, help=helps[f.name])
        elif f.name == "runs":
            parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=helps[f.name])
        elif f.type is bool:
            parser.add_argument(option, action="store_true", help=helps[f.name])
        elif f.default is dataclasses.MISSING:
            parser.add_argument(option, type=f.type, required=True, help=helps[f.name])
        else:
            parser.add_argument(option, type=f.type, default=f.default, help=helps[f.name])
    args = parser.parse_args(argv)
    return command(**{f.name: getattr(args, f.name) for f in fields})


def _add_sections(parser: jsonargparse.ArgumentParser) -> None:
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)


def _to_config(namespace: Any) -> Config:
    return Config(**{name: namespace[name] for name in SECTIONS})


class _Parser(jsonargparse.ArgumentParser):
    """jsonargparse, with each error in one line that names the key and the nearest option."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(allow_abbrev=False, **kw)

    def parse_args(self, args: list[str] | None = None, *rest: Any, **kw: Any) -> Any:
        # Both spellings of an option's name are understood: --dry-run and --dry_run.
        given = sys.argv[1:] if args is None else args
        known = {option for action in self._actions for option in action.option_strings}
        try:
            return super().parse_args([self._respelled(token, known) for token in given], *rest, **kw)
        except UnicodeDecodeError:
            return self.error("config: the file is not text")

    @staticmethod
    def _respelled(token: str, known: set[str]) -> str:
        name, equals, value = token.partition("=")
        for other in (name, "--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if name.startswith("--") and other in known:
                return other + equals + value
        return token

    def instantiate(self, namespace: Any, **kw: Any) -> Any:
        for name in SECTIONS:
            if not isinstance(namespace[name], jsonargparse.Namespace):
                options = ", ".join(f.name for f in dataclasses.fields(SECTIONS[name]))
                return self.error(f"{name}: {namespace[name]!r} is not a section; its options are {options}")
        try:
            return super().instantiate(namespace, **kw)
        except (ValueError, TypeError) as problem:
            return self.error(str(problem))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = self._one_line(message)
        if not self.exit_on_error:
            raise ValueError(line)
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)         # every process reads the same command line; one message is enough
        fail(line)

    def _one_line(self, message: str) -> str:
        options = [o.lstrip("-") for action in self._actions for o in action.option_strings if not o.endswith("+")]
        unknown = (
            re.search(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'", message)
            or re.search(r"Option '(?P<key>[\w.]+)' is not accepted", message)
            or re.search(r"unrecognized arguments: --(?P<key>[\w.-]+)", message)
        )
        if unknown:
            group = unknown.groupdict().get("group")
            key = f"{group}.{unknown['key']}" if group else unknown["key"]
            return f"{key} is not an option{did_you_mean(key, options)}"
        wrong = re.search(r'Parser key "(?P<key>[\w.]+)":(?P<problem>.*)', message, re.DOTALL)
        if wrong:
            problem = re.sub(r"<class '(\w+)'>", r"\1", wrong["problem"])
            return f"{wrong['key']}: {' '.join(problem.split())}"
        return " ".join(message.split())


def fail(line: str) -> NoReturn:
    """Prints one line to standard error and exits with code 2."""
    rank = os.environ.get("RANK", "0")
    origin = "" if rank == "0" else f" in process {rank}"
    print(f"{Path(sys.argv[0]).name}: error{origin}: {line}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error that the user can put right into one line and exit code 2.

    Those are `ValueError`s raised by this package's own code, and files that cannot be read or written. Anything else
    is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except ValueError as problem:
        frame = problem.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is None or not frame.tb_frame.f_globals.get("__name__", "").startswith("ddpm."):
            raise
        fail(" ".join(str(problem).split()))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as problem:
        if problem.strerror is None:
            raise
        fail(f"{problem.filename or 'input/output'}: {problem.strerror}")
