"""Measure the quality of a model's images."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import EvaluateCommand
from ddpm.config.ineffective_options import ineffective_guidance
from ddpm.config.run_folders import sample_settings


@from_command_line(EvaluateCommand)
def main(command: EvaluateCommand) -> None:
    """Run the command."""
    settings = sample_settings(command)
    from ddpm.evaluation.evaluate import evaluate  # imported only now, so that --help is fast
    from ddpm.processes import warn

    warn(*ineffective_guidance(settings))
    evaluate(command, settings)
