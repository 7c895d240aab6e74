"""The pictures of docs/own_data.md can be drawn again."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_pictures_are_drawn_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("draw_own_data", DOCS / "images" / "draw_own_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    drawn = {file.stem for file in tmp_path.iterdir()}
    shown = set(re.findall(r"images/(own_\w+)\.png", (DOCS / "own_data.md").read_text()))
    assert drawn == set(module.PICTURES) <= shown
    assert all((DOCS / "images" / f"{name}.png").exists() for name in shown)
