"""What several test files share."""

import difflib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file in the folder `golden` next to the test.

    With --update-golden the file is written instead. Golden files hold prose, so that it can be read and rewritten in
    one place; what a text must say is asserted in the tests.
    """

    def check(name: str, text: str) -> None:
        file = request.path.parent / "golden" / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            return
        known = file.read_text() if file.exists() else ""
        lines = difflib.unified_diff(known.splitlines(), text.splitlines(), str(file), "now", n=1, lineterm="")
        if known != text:
            pytest.fail("\n".join([*lines, "if this is meant: pytest --update-golden"]), pytrace=False)

    return check


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first command of the README makes: runs/digits where it is there, else a new one (1 to 2 minutes)."""
    run = ROOT / "runs" / "digits"
    if not (run / "pipeline").exists():
        run = tmp_path_factory.mktemp("runs") / "digits"
        train = [sys.executable, "scripts/train.py", "--run", str(run), "--tracking.wandb", "off"]
        subprocess.run(train, cwd=ROOT, check=True)
    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads cost small networks more than they save, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for judges and described images that all tests share, and the commands that they start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DDPM_CACHE"] = str(folder)
    return folder
