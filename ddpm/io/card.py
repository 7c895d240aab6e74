"""The model card of an exported pipeline: a README.md for the Hugging Face Hub, generated from the run."""

import json
import shutil
from pathlib import Path
from typing import Any

GRID = "samples.png"
_USE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
image = pipeline({label!r}, seeds=0, num_inference_steps=50).images[0]
```

This runs the code in `ddpm_pipeline.py` and `unet/ddpm_unet.py` of this repository. With the package `adagn-ddpm`,
`ddpm.pipeline.ClassConditionalPipeline.from_pretrained` loads the model without `trust_remote_code`."""


def write_card(
    folder: Path,
    run: Path,
    name: str = "path/to/this/folder",
    licence: str | None = None,
    step: int | None = None,
) -> Path:
    """Write README.md, and the run's newest sample grid, into a pipeline directory.

    Args:
        folder: the pipeline directory.
        run: its run directory; information that it does not contain is omitted.
        name: argument of `from_pretrained`, a folder or `owner/name`.
        licence: of the weights, an identifier of the Hub; None if not stated.
        step: training step of the weights; None for the last.

    Returns:
        Path of the card.
    """
    facts = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    index = json.loads((folder / "model_index.json").read_text())
    names = index.get("id2label") or {}
    class_names = [names.get(str(i), str(i)) for i in range(len(names))]
    metrics = _last_metrics(run, step)
    grids = (run / "samples").glob("step_*.png")
    grid = max((g for g in grids if step is None or g.stem <= f"step_{step:08d}"), default=None)
    if grid is not None:
        shutil.copyfile(grid, folder / GRID)
    sections = [
        _front_matter(licence, _norm(folder)),
        f"# {name.rpartition('/')[2] if '/' in name and licence else 'Class-conditional diffusion model'}",
        f"A class-conditional diffusion model of {_listed(class_names)}.",
        f"![One row per class]({GRID})" if grid is not None else "",
        "## Use\n\n" + _USE.format(name=name, label=class_names[0] if class_names else None),
        _training(facts, metrics, step),
        _configuration(run),
        f"## Licence\n\nWeights: {licence or 'not stated by their author; ask before you use them'}. "
        "Code in this folder: Apache-2.0.",
    ]
    card = folder / "README.md"
    card.write_text("\n\n".join(section for section in sections if section) + "\n")
    return card


def _norm(folder: Path) -> str | None:
    """Return the entry of NORMS that the pipeline's model uses; None for a model of another library."""
    file = folder / "unet" / "config.json"
    return json.loads(file.read_text()).get("norm") if file.is_file() else None


def _front_matter(licence: str | None, norm: str | None) -> str:
    tags = ["diffusers", "unconditional-image-generation", "class-conditional", *([norm] if norm else [])]
    lines = [f"license: {licence or 'other'}", "library_name: diffusers", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _listed(class_names: list[str], most: int = 30) -> str:
    if not class_names:
        return "images without classes"
    shown = ", ".join(class_names[:most])
    rest = f" and {len(class_names) - most} more" if len(class_names) > most else ""
    return f"{len(class_names)} classes: {shown}{rest}"


def _last_metrics(run: Path, step: int | None) -> dict[str, Any]:
    """Return the last training record up to a step; a line truncated by a power cut is ignored."""
    file = run / "metrics.jsonl"
    for line in reversed(file.read_text().splitlines() if file.is_file() else []):
        try:
            metrics = json.loads(line)
        except ValueError:
            continue
        if "loss" in metrics and (step is None or metrics["step"] <= step):
            return metrics
    return {}


def _training(facts: dict[str, Any], metrics: dict[str, Any], step: int | None) -> str:
    rows = {
        "data": facts.get("data", {}).get("summary"),
        "fingerprint of the data": facts.get("data", {}).get("fingerprint"),
        "parameters": f"{facts['parameters']:,}" if "parameters" in facts else None,
        "multiply-adds per image and step": f"{facts['multiply_adds']:,}" if "multiply_adds" in facts else None,
        "steps": metrics.get("step") if step is None else step,
        "images seen": f"{metrics['samples']:,}" if "samples" in metrics else None,
        "last training loss": f"{metrics['loss']:.4g}" if metrics.get("loss") is not None else None,
        "seed": facts.get("seed"),
        "versions": ", ".join(f"{package} {v}" for package, v in facts.get("versions", {}).items()) or None,
        "commit": facts.get("git_commit"),
    }
    known = [f"| {key} | {value} |" for key, value in rows.items() if value is not None]
    return "## Training\n\n| | |\n| --- | --- |\n" + "\n".join(known) if known else ""


def _configuration(run: Path) -> str:
    file = run / "config.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")] if file.is_file() else []
    return "\n".join(["## Configuration", "", "```yaml", *lines, "```"]) if lines else ""
