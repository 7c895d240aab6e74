"""Writes the report of a finished study, and formats its outcome as text."""

from collections.abc import Sequence
from pathlib import Path

from ddpm.atomic import write_json, write_text
from ddpm.config.study import Study
from ddpm.evaluation.text_table import aligned
from ddpm.lab.ablation.outcome import Outcome, outcome_json, read_outcome
from ddpm.lab.ablation.study_page import render_study
from ddpm.lab.comparison.comparison_table import count, number_or_empty, signed, signed_interval


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
    study, baseline = outcome.study, outcome.study.baseline.name
    compared = ("difference", "interval", "p", "verdict")
    rows: list[Sequence[str]] = [("arm", "parameters", "multiply-adds", "step time", study.metric, "sd", *compared)]
    for arm in outcome.runs:
        sizes = [count(outcome.facts(arm).get(key)) for key in ("parameters", "multiply_adds")]
        time, baseline_time = outcome.step_time(arm), outcome.step_time(baseline)
        ratio = f"{time / baseline_time:.3f} x" if time and baseline_time else ""
        mean, sd = outcome.means.get(study.metric, {}).get(arm, (None, None))
        compared = ("", "", "", "")
        if arm != baseline:
            found = outcome.primary[arm]
            interval = signed_interval(found.low, found.high)
            compared = (signed(found.value), interval, number_or_empty(found.p_value), found.verdict)
        rows.append([arm, *sizes, ratio, number_or_empty(mean), number_or_empty(sd), *compared])
    notes = ["", *(f"note: {note}" for note in outcome.notes)] if outcome.notes else []
    return "\n".join([study.question, "", *outcome.verdicts, "", *aligned(rows), *notes])
