"""Run a study, arms x seeds, and report what it says: `python scripts/ablate.py --help`."""

from pathlib import Path

from ddpm.cli.command_lines import parse_ablate
from ddpm.cli.errors import one_line_errors
from ddpm.config.study_files import read_study, study_text


def main() -> None:
    with one_line_errors():
        command = parse_ablate()
        study = read_study(command.study)
        text = study_text(command.study)
        from ddpm.lab.ablation.ablate import ablate  # after the options are read: importing takes seconds

        ablate(study, text, command.run or Path("runs") / command.study.stem, command.part, command.dry_run)


if __name__ == "__main__":
    main()
