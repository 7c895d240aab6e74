"""Convert models between this package and other code bases."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import ConvertCommand
from ddpm.config.yaml_files import read_flags


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(ConvertCommand, "convert.py", argv)
    flags = None if command.flags is None else read_flags(command.flags)
    from ddpm.io.conversion import convert  # imported only now, so that --help is fast

    convert(command, flags)
