"""Fixtures of the tests of files."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ddpm.io import image_formats as kinds

sys.path.insert(0, str(Path(__file__).parent))       # for the helper modules toy_images and toy_models

from toy_images import BATCH, CHOICES, SHARD, Toy, tree, write


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "SHARD_IMAGES", SHARD)
    monkeypatch.setattr(kinds, "ROW_GROUP_IMAGES", 2 * BATCH - 1)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, bytes]]:
    """Formats -> files of a run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "SHARD_IMAGES", SHARD)
        patch.setattr(kinds, "ROW_GROUP_IMAGES", 2 * BATCH - 1)
        found = {}
        for formats in CHOICES:
            out = tmp_path_factory.mktemp("whole") / "out"
            write(out, formats, Toy())
            found[formats] = tree(out)
        return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change to a temporary directory, and use one thread, which is faster for such small networks."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Return a function (script, arguments) -> exit code, stdout, stderr."""

    def act(script: str, *args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(Path(__file__).parents[2] / "scripts" / f"{script}.py"), run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code
        return code, *capfd.readouterr()

    return act
