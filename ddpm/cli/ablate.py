"""Run a study, arms x seeds, and report its result."""

from collections.abc import Sequence

from ddpm.cli.errors import one_line_errors
from ddpm.cli.parser import parse_command
from ddpm.config.commands import AblateCommand
from ddpm.config.study_files import read_study, study_documents


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; None reads the command line of the program."""
    command = parse_command(AblateCommand, "ablate.py", argv)
    study, documents = read_study(command.study), study_documents(command.study)
    from ddpm.lab.ablation.ablate import ablate  # imported only now, so that --help is fast

    ablate(study, documents, command.directory, command.shard_numbers, command.dry_run)
