"""Run a study, arms x seeds, and report its result."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import AblateCommand
from ddpm.config.study_files import describe_ineffective_overrides, read_study, study_documents
from ddpm.config.yaml_files import prefixed_errors


@from_command_line(AblateCommand)
def main(command: AblateCommand) -> None:
    """Run the command."""
    with prefixed_errors("study"):
        study, documents = read_study(command.study, command.overrides), study_documents(command.study)
    from ddpm.lab.ablation.ablate import ablate  # imported only now, so that --help is fast
    from ddpm.processes import warn

    warn(*describe_ineffective_overrides(study, command.overrides))
    ablate(study, documents, command.directory, command.shard_numbers, command.dry_run)
