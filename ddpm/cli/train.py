"""Train a class-conditional diffusion model."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import TrainCommand


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_train(argv)
    if command.print_config:
        print(command.config.to_yaml(), end="")
        return
    from ddpm.training.train import train  # imported only now, so that --help is fast

    train(command.config, command.directory, dry_run=command.dry_run)


def parse_train(argv: Sequence[str] | None = None) -> TrainCommand:
    """Read the command line; on a mistake, print one line and exit with code 2."""
    return parse_command(TrainCommand, "train.py", argv)
