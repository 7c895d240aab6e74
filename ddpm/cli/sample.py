"""Draw images of chosen classes from a trained model."""

from ddpm.cli.errors import print_warnings
from ddpm.cli.parser import from_command_line
from ddpm.config.commands import SampleCommand
from ddpm.config.ineffective_options import ineffective_guidance
from ddpm.config.run_folders import sample_settings


@from_command_line(SampleCommand)
def main(command: SampleCommand) -> None:
    """Run the command."""
    settings = sample_settings(command)
    print_warnings(ineffective_guidance(settings))
    from ddpm.io.sample_folder import sample_to_folder  # imported only now, so that --help is fast

    sample_to_folder(command, settings)
