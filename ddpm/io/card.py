"""The model card of an exported pipeline: a README.md for the Hugging Face Hub, generated from the run."""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from ddpm.atomic import read_json
from ddpm.config.sections import SampleConfig
from ddpm.config.yaml_files import read_config
from ddpm.io.pictures import describe_picture
from ddpm.io.provenance import describe_history
from ddpm.pipeline import PIL_CHANNELS

CARD = "README.md"
GRID = "samples.png"


@dataclass(frozen=True)
class ModelCard:
    """The README.md of a pipeline directory, and the run's newest sample grid beside it.

    Args:
        folder: the pipeline directory.
        run: its run directory; information that it does not contain is omitted.
        name: argument of `from_pretrained`, a folder or `owner/name`.
        license: of the weights, an identifier of the Hub; None if not stated.
        step: training step of the weights; None for the last.
        title: heading of the card; None for a general one.
    """

    folder: Path
    run: Path
    name: str = "path/to/this/folder"
    license: str | None = None
    step: int | None = None
    title: str | None = None

    @property
    def file(self) -> Path:
        """The README.md."""
        return self.folder / CARD

    def write(self) -> Path:
        """Write the card and the grid, and return the path of the card."""
        grid = _newest_grid(self.run, self.step)
        if grid is not None:
            shutil.copyfile(grid, self.folder / GRID)
        self.file.write_text(self.render())
        return self.file

    def is_written(self) -> bool:
        """Return whether the directory has this card."""
        return self.file.is_file() and self.file.read_text() == self.render()

    def render(self) -> str:
        """Return the text of the card."""
        index = json.loads((self.folder / "model_index.json").read_text())
        names = index.get("id2label") or {}
        class_names = [names.get(str(i), str(i)) for i in range(len(names))]
        # Chainable: information that a run does not contain, such as `facts.data.summary`, is undefined.
        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True,
            undefined=ChainableUndefined,
        )
        model = json.loads(_read(self.folder / "unet" / "config.json", "{}"))
        channels = model.get("in_channels", 3)
        facts = read_json(self.run / "run.json") if (self.run / "run.json").is_file() else {}
        config, sample = _read(self.run / "config.yaml").splitlines(), SampleConfig()
        with suppress(ValueError, OSError):         # there may be none, or one of another version
            sample = read_config(self.run / "config.yaml").sample
        return templates.get_template("card.md.jinja").render(
            name=self.name,
            title=self.title,
            license=self.license,
            model=model,
            grid=None if _newest_grid(self.run, self.step) is None else GRID,
            drawn=describe_picture(channels),
            as_array=channels > PIL_CHANNELS,
            class_names=class_names,
            label=repr(class_names[0]) if class_names else None,
            sample=sample,
            facts=facts,
            history=describe_history(facts.get("changes", []), self.step) or None,
            metrics=_last_metrics(self.run, self.step),
            step=self.step,
            config="\n".join(line for line in config if not line.startswith("#")),
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
