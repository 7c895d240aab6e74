"""Command lines are read in an empty folder, as the first process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm.cli.errors import one_line_errors


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("sys.argv", ["train.py"])


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call something that exits with code 2 after one line on standard error; return the line."""

    def call(act: Callable[..., object], *args: object) -> str:
        with pytest.raises(SystemExit) as exit_, one_line_errors():
            act(*args)
        assert exit_.value.code == 2
        out, err = capsys.readouterr()
        assert out == "" and err.endswith("\n") and err.count("\n") == 1, err
        assert err.startswith("train.py: error: ")
        return err.removeprefix("train.py: error: ").rstrip("\n")

    return call
