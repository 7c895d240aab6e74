"""Measure speed and memory against diffusers' UNet2DModel."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import BenchmarkCommand


@from_command_line(BenchmarkCommand)
def main(command: BenchmarkCommand) -> None:
    """Run the command."""
    from ddpm.lab.benchmark.benchmark import benchmark  # imported only now, so that --help is fast

    benchmark(command)
