"""What is written when all runs of a study are there."""

import json
from pathlib import Path

from ddpm.atomic import appearing
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
    with appearing(path / "outcome.json") as file:
        file.write((json.dumps(outcome_json(outcome), indent=2) + "\n").encode())
    content = page(outcome)
    with appearing(path / "report.html") as file:
        file.write(content.encode())
    print(f"\n{as_table(outcome)}\n\n{path / 'report.html'}", flush=True)
