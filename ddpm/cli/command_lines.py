"""The command line of each script."""

import dataclasses
import re
from pathlib import Path
from typing import TypeVar

import docstring_parser
import jsonargparse

from ddpm.cli.parser import Parser, add_sections, to_config
from ddpm.config.commands import (
    AblateCommand,
    CompareCommand,
    ConvertCommand,
    EvaluateCommand,
    ProbeCommand,
    PushCommand,
    SampleCommand,
    TrainCommand,
)

Command = TypeVar("Command")


def parse_train(argv: list[str] | None = None) -> TrainCommand:
    """Reads the command line of scripts/train.py; prints one line and exits with code 2 on a mistake."""
    parser = Parser(
        prog="train.py",
        usage="train.py [--config FILE] [--run DIR] [--dry-run] [--print_config] [--section.key VALUE ...]",
        description="Train a class-conditional diffusion model. Without arguments: on scikit-learn's digits.",
        print_config="--print_config",
    )
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file; what follows overrides it")
    parser.add_argument("--run", type=Path | None, help="run directory; the same command again resumes it")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and stop")
    add_sections(parser)
    args = parser.parse_args(argv)
    config = to_config(parser.instantiate(args))
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
    parser = Parser(prog=prog, description=described[-1].short_description)
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
