"""The notebooks run from top to bottom, on any run directory, and only read."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = ["--train.steps", "30", "--train.batch_size", "16", "--train.warmup_steps", "5", "--sample.per_class", "2"]
SMALL += ["--sample.steps", "3", "--model.channels", "16", "--model.head_channels", "16", "--tracking.wandb", "off"]


def cells(notebook: Path) -> list[str]:
    content = json.loads(notebook.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def execute(notebook: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    import nbclient
    import nbformat

    monkeypatch.setenv("DDPM_RUN", str(run))
    content = nbformat.read(notebook, 4)
    resources = {"metadata": {"path": str(notebook.parent)}}
    nbclient.NotebookClient(content, timeout=120, kernel_name="python3", resources=resources).execute()
    return content.cells


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "small"
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--run", str(run), *SMALL]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return run


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed = [cell for cell in execute(notebook, small_run, monkeypatch) if cell.cell_type == "code"]
    shown = [cell for cell in executed if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert len(shown) >= len(executed) - 1      # every cell but the odd one ends in a picture


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_take_less_than_two_minutes(notebook, digits_run, monkeypatch) -> None:
    begin = time.monotonic()
    execute(notebook, digits_run, monkeypatch)
    assert time.monotonic() - begin < 120


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_explain_and_draw(notebook: Path) -> None:
    for source in cells(notebook):
        tree = list(ast.walk(ast.parse(source)))
        assert not [node for node in tree if isinstance(node, ast.ClassDef)]
        called = {node.attr for node in tree if isinstance(node, ast.Attribute)}
        assert not called & {"backward", "zero_grad", "train_step"}, source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
