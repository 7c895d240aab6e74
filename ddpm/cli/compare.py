"""Compare runs in a table and on one HTML page."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import CompareCommand


@from_command_line(CompareCommand)
def main(command: CompareCommand) -> None:
    """Run the command."""
    from ddpm.lab.comparison.compare import write_comparison  # imported only now, so that --help is fast

    write_comparison(command.runs, command.out)
