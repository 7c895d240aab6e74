"""Show how the modulation of a trained model behaves."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import ProbeCommand


@from_command_line(ProbeCommand)
def main(command: ProbeCommand) -> None:
    """Run the command."""
    from ddpm.lab.probe.probe import probe  # imported only now, so that --help is fast

    probe(command)
