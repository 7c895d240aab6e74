"""Convert models between this package and other code bases."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import ConvertCommand
from ddpm.config.yaml_files import read_flags


@from_command_line(ConvertCommand)
def main(command: ConvertCommand) -> None:
    """Run the command."""
    flags = None if command.flags is None else read_flags(command.flags)
    from ddpm.io.conversion import convert  # imported only now, so that --help is fast

    convert(command, flags)
