"""Show how the modulation of a trained model behaves."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import ProbeCommand


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(ProbeCommand, "probe.py", argv)
    from ddpm.lab.probe.probe import probe  # imported only now, so that --help is fast

    probe(command)
