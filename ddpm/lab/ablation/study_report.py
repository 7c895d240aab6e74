"""What is written when all runs of a study are there."""

from pathlib import Path

from ddpm.atomic import write_json, write_text
from ddpm.config.study import Study
from ddpm.lab.ablation.outcome import outcome_json, read_outcome
from ddpm.lab.ablation.study_page import page
from ddpm.lab.ablation.study_table import as_table


def report(study: Study, path: Path) -> None:
    """Writes outcome.json and report.html into the directory of a study, and prints the verdicts.

    Raises:
        ValueError: as `read_outcome`.
        OSError: if a file cannot be written; names it.
    """
    outcome = read_outcome(path, study)
    write_json(path / "outcome.json", outcome_json(outcome))
    write_text(path / "report.html", page(outcome))
    print(f"\n{as_table(outcome)}\n\n{path / 'report.html'}", flush=True)
