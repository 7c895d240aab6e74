"""Train a class-conditional diffusion model."""

import re
from collections.abc import Sequence
from pathlib import Path

from ddpm.cli.errors import one_line_errors, reject_command_line
from ddpm.cli.parser import CommandLine, build_config, help_description, help_texts
from ddpm.config.commands import TrainCommand


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    with one_line_errors():
        command = parse_train(argv)
        from ddpm.training.train import train  # imported only now, so that --help is fast

        train(command.config, command.run_dir, dry_run=command.dry_run)


def parse_train(argv: Sequence[str] | None = None) -> TrainCommand:
    """Read the command line; on a mistake, print one line and exit with code 2."""
    texts = help_texts(TrainCommand)
    line = CommandLine(
        "train.py",
        help_description(TrainCommand),
        usage="train.py [--config FILE] [--run-dir DIR] [--dry-run] [--print_config] [--section.key VALUE ...]",
        print_config=True,
    )
    line.add("run_dir", Path | None, texts["run_dir"], default=None)
    line.add("dry_run", bool, texts["dry_run"])
    line.add_config(texts["config"])
    args = line.parse(argv)
    try:
        config = build_config(args)
    except ValueError as problem:
        reject_command_line(problem)
    source = re.sub(r"\W+", "-", Path(config.data.source).name)
    return TrainCommand(config, args.run_dir or Path("runs") / (source or "run"), args.dry_run)
