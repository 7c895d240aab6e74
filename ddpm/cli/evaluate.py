"""Measure the quality of a model's images."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import EvaluateCommand
from ddpm.config.yaml_files import sample_settings


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(EvaluateCommand, "evaluate.py", argv)
    settings = sample_settings(command)
    from ddpm.evaluation.evaluate import evaluate  # imported only now, so that --help is fast

    evaluate(command, settings)
