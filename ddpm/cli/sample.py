"""Draw images of chosen classes from a trained model."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import SampleCommand
from ddpm.config.ineffective_options import ineffective_guidance
from ddpm.config.run_folders import sample_settings


@from_command_line(SampleCommand)
def main(command: SampleCommand) -> None:
    """Run the command."""
    settings = sample_settings(command)
    from ddpm.io.sample_folder import sample_to_folder  # imported only now, so that --help is fast
    from ddpm.processes import warn

    warn(*ineffective_guidance(settings))
    sample_to_folder(command, settings)
