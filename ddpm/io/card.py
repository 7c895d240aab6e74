"""The model card of an exported pipeline: a README.md for the Hugging Face Hub, generated from the run."""

import json
import shutil
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from ddpm.atomic import read_json
from ddpm.io.pictures import describe_picture
from ddpm.io.provenance import describe_history
from ddpm.pipeline import PIL_CHANNELS

CARD = "README.md"
GRID = "samples.png"


def write_card(
    folder: Path,
    run: Path,
    name: str = "path/to/this/folder",
    license: str | None = None,
    step: int | None = None,
    title: str | None = None,
) -> Path:
    """Write README.md, and the run's newest sample grid, into a pipeline directory.

    Args:
        folder: the pipeline directory.
        run: its run directory; information that it does not contain is omitted.
        name: argument of `from_pretrained`, a folder or `owner/name`.
        license: of the weights, an identifier of the Hub; None if not stated.
        step: training step of the weights; None for the last.
        title: heading of the card; None for a general one.

    Returns:
        Path of the card.
    """
    grid = _newest_grid(run, step)
    if grid is not None:
        shutil.copyfile(grid, folder / GRID)
    card = folder / CARD
    card.write_text(render_card(folder, run, name, license, step, title))
    return card


def render_card(
    folder: Path,
    run: Path,
    name: str = "path/to/this/folder",
    license: str | None = None,
    step: int | None = None,
    title: str | None = None,
) -> str:
    """Return the text of the card; the arguments are those of `write_card`."""
    index = json.loads((folder / "model_index.json").read_text())
    names = index.get("id2label") or {}
    class_names = [names.get(str(i), str(i)) for i in range(len(names))]
    # Chainable: information that a run does not contain, such as `facts.data.summary`, is undefined.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True,
        undefined=ChainableUndefined,
    )
    model = json.loads(_read(folder / "unet" / "config.json", "{}"))
    channels = model.get("in_channels", 3)
    facts = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    return templates.get_template("card.md.jinja").render(
        name=name,
        title=title,
        license=license,
        model=model,
        grid=None if _newest_grid(run, step) is None else GRID,
        drawn=describe_picture(channels),
        as_array=channels > PIL_CHANNELS,
        class_names=class_names,
        label=repr(class_names[0]) if class_names else None,
        facts=facts,
        history=describe_history(facts.get("changes", []), step) or None,
        metrics=_last_metrics(run, step),
        step=step,
        config="\n".join(line for line in _read(run / "config.yaml").splitlines() if not line.startswith("#")),
    )


def _newest_grid(run: Path, step: int | None) -> Path | None:
    """Return the newest sample grid of a run up to a step."""
    grids = (run / "samples").glob("step_*.png")
    return max((g for g in grids if step is None or g.stem <= f"step_{step:08d}"), default=None)


def _read(file: Path, default: str = "") -> str:
    """Return the content of a text file, or a default if there is none."""
    return file.read_text() if file.is_file() else default


def _last_metrics(run: Path, step: int | None) -> dict[str, Any]:
    """Return the last training record up to a step; a line truncated by a power cut is ignored."""
    for line in reversed(_read(run / "metrics.jsonl").splitlines()):
        try:
            metrics = json.loads(line)
        except ValueError:
            continue
        if "loss" in metrics and (step is None or metrics["step"] <= step):
            return metrics
    return {}
