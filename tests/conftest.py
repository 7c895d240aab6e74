"""Fixtures of all tests."""

import difflib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:         # before torch is imported; commands that tests start inherit it
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from filelock import FileLock

from ddpm.lab.benchmark.pretended_gpu import register_guard

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
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that lasts for the session and is the same for all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def digits_run(session_folder: Path) -> Path:
    """Return the run of the README's first command: runs/digits if it exists, else a new one (1 to 2 minutes)."""
    run = ROOT / "runs" / "digits"
    if not (run / "pipeline").exists():
        run = session_folder / "digits"
        with FileLock(session_folder / "digits.lock"):      # one worker trains, the others wait
            if not (run / "pipeline").exists():
                train = [sys.executable, "scripts/train.py", "--run-dir", str(run), "--tracking.wandb", "off"]
                subprocess.run(train, cwd=ROOT, check=True)
    return run


@pytest.fixture
def refused() -> Callable[..., AbstractContextManager[None]]:
    """Return a context that expects one-line errors with given parts: the option, and what to type instead.

    The rest of a message is prose, which may be rewritten without touching the tests.
    """

    @contextmanager
    def expecting(*parts: str, kind: type[Exception] = ValueError) -> Iterator[None]:
        with pytest.raises(kind) as error:
            yield
        message = str(error.value)
        assert "\n" not in message and not [part for part in parts if part not in message], message

    return expecting


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads cost small networks more than they save, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def cache(session_folder: Path) -> Path:
    """Return the cache that all tests share, and the commands that they start; the package locks what it writes."""
    folder = session_folder / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["DDPM_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def guard() -> None:
    """Let autograd know GPUs before it starts, for the tests that pretend to have one."""
    if not torch.backends.cuda.is_built():
        register_guard()
