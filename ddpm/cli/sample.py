"""Draw images of chosen classes from a trained model."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import SampleCommand
from ddpm.config.yaml_files import sample_settings


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(SampleCommand, "sample.py", argv)
    settings = sample_settings(command)
    from ddpm.io.sample_folder import sample_to_folder  # imported only now, so that --help is fast

    sample_to_folder(command, settings)
