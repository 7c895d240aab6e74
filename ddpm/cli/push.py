"""Upload a trained model to the Hugging Face hub."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import PushCommand


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(PushCommand, "push.py", argv)
    from ddpm.io.hub import push  # imported only now, so that --help is fast

    push(command.model, command.to, command.license, command.private, command.dry_run)
