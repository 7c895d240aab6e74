"""Draw images of chosen classes from a trained model."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import SampleCommand
from ddpm.config.yaml_files import sample_settings


@from_command_line(SampleCommand)
def main(command: SampleCommand) -> None:
    """Run the command."""
    settings = sample_settings(command)
    from ddpm.io.sample_folder import sample_to_folder  # imported only now, so that --help is fast

    sample_to_folder(command, settings)
