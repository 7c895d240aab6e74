"""Compare runs in a table and on one HTML page."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import CompareCommand


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(CompareCommand, "compare.py", argv)
    from ddpm.lab.comparison.compare import write_comparison  # imported only now, so that --help is fast

    write_comparison(command.runs, command.out)
