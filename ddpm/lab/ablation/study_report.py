"""Writes the report of a finished study, and formats its outcome as text."""

from pathlib import Path

from ddpm.atomic import write_json, write_text
from ddpm.config.study import Study
from ddpm.lab.ablation.outcome import Outcome, outcome_json, read_outcome
from ddpm.lab.ablation.study_page import render_study
from ddpm.lab.comparison.formats import TEMPLATE_FUNCTIONS
from ddpm.lab.pages import render_text


def report(study: Study, path: Path) -> None:
    """Write outcome.json and report.html into the directory of a study, and print the verdicts.

    Raises:
        ValueError: see `read_outcome`.
        OSError: if a file cannot be written; the message names it.
    """
    outcome = read_outcome(path, study)
    write_json(path / "outcome.json", outcome_json(outcome))
    write_text(path / "report.html", render_study(outcome))
    print(f"\n{format_study(outcome)}\n\n{path / 'report.html'}", flush=True)


def format_study(outcome: Outcome) -> str:
    """Return the verdicts, a table of the arms, and the notes."""
    return render_text("ablation/study.txt.jinja", outcome=outcome, **TEMPLATE_FUNCTIONS)
