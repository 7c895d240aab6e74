"""Writes the report of a finished study, and formats its outcome as text."""

from pathlib import Path
from statistics import median

from ddpm.atomic import write_json, write_text
from ddpm.config.study import Study
from ddpm.evaluation.text_table import aligned, number
from ddpm.lab.ablation.outcome import Outcome, outcome_json, read_outcome
from ddpm.lab.ablation.study_page import render_study


def report(study: Study, path: Path) -> None:
    """Write outcome.json and report.html into the directory of a study, and print the verdicts.

    Raises:
        ValueError: see `read_outcome`.
        OSError: if a file cannot be written; the message names it.
    """
    outcome = read_outcome(path, study)
    write_json(path / "outcome.json", outcome_json(outcome))
    content = render_study(outcome)
    write_text(path / "report.html", content)
    print(f"\n{format_study(outcome)}\n\n{path / 'report.html'}", flush=True)


def format_study(outcome: Outcome) -> str:
    """Return the verdicts, a table of the arms, and the notes."""
    study, baseline = outcome.study, outcome.study.baseline.name
    compared = ("difference", "interval", "p", "verdict")
    rows = [("arm", "parameters", "multiply-adds", "step time", study.metric, "sd", *compared)]
    times = {arm: median(seconds) for arm, seconds in outcome.step_seconds.items()}
    for arm in outcome.runs:
        facts = next((run.run.facts for run in outcome.runs[arm] if run.run is not None), {})
        sizes = [f"{facts[key]:,}" if key in facts else "" for key in ("parameters", "multiply_adds")]
        time = f"{times[arm] / times[baseline]:.3f} x" if arm in times and baseline in times else ""
        mean, sd = outcome.means.get(study.metric, {}).get(arm, (None, None))
        rows.append((arm, *sizes, time, _known(mean), _known(sd), *_compared(outcome, arm)))
    lines = [study.question, "", *outcome.verdicts, "", *aligned(rows)]
    if outcome.notes:
        lines += ["", *(f"note: {note}" for note in outcome.notes)]
    return "\n".join(lines)


def _compared(outcome: Outcome, arm: str) -> tuple[str, str, str, str]:
    found = outcome.primary.get(arm)
    if found is None:
        return "", "", "", ""
    interval = "" if found.low is None else f"{number(found.low)} to {number(found.high)}"
    return _known(found.value), interval, _known(found.p_value), found.verdict


def _known(value: float | None) -> str:
    return "" if value is None else number(value)
