"""The command lines of the other scripts, their help, and how errors are printed."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm.cli.errors import one_line_errors
from ddpm.cli.help import help_texts
from ddpm.cli.parser import from_command_line, parse_command
from ddpm.config.commands import (
    AblateCommand,
    CompareCommand,
    ConvertCommand,
    EvaluateCommand,
    ProbeCommand,
    PushCommand,
    SampleCommand,
    TrainCommand,
)
from ddpm.config.sections import SECTIONS
from ddpm.config.values import convert_value
from ddpm.models.compilation import find_missing_tool

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "sample": SampleCommand,
    "evaluate": EvaluateCommand,
    "compare": CompareCommand,
    "convert": ConvertCommand,
    "push": PushCommand,
    "ablate": AblateCommand,
    "probe": ProbeCommand,
}


@pytest.mark.parametrize("kind", [*SECTIONS.values(), *COMMANDS.values(), TrainCommand])
def test_every_option_has_a_help_text(kind: type) -> None:
    _, texts = help_texts(kind)
    assert {f.name for f in dataclasses.fields(kind)} == texts.keys()
    assert all(texts.values())


@pytest.mark.parametrize("script", ["train", *COMMANDS])
def test_help_is_printed_without_heavy_imports(script: str) -> None:
    code = f"""
import sys
from ddpm.cli.{script} import main
try:
    main(["--help"])
except SystemExit as exit:
    assert exit.code == 0
print([name for name in ("torch", "diffusers", "numpy", "scipy", "accelerate", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert script in done.stdout


@pytest.mark.parametrize("script", COMMANDS)
def test_help_names_every_option(script: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_command(COMMANDS[script], f"{script}.py", ["--help-all"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert [f.name for f in dataclasses.fields(COMMANDS[script]) if f.name.replace("_", "-") not in text.lower()] == []


MISTAKES: list[tuple[str, list[str], list[str]]] = [
    ("sample", [], ["model"]),
    ("sample", ["run", "--gidance-scale", "2"], ["gidance-scale", "did you mean --guidance-scale?"]),
    ("sample", ["run", "--steps", "many"], ["steps", "'many'", "whole number"]),
    ("sample", ["run", "--per_class", "many"], ["per-class: 'many'", "whole number"]),
    ("sample", ["run", "--sampler", "dimm"], ["sampler", "'dimm'", "did you mean ddim?"]),
    ("sample", ["run", "--per-clas", "2"], ["per-clas", "did you mean --per-class?"]),
    ("sample", ["run", "other"], ["'other'", "--help"]),
    ("sample", ["run", "--blend", "1"], ["blend: 1", "2 or more"]),
    ("sample", ["run", "--walk", "3", "--swap"], ["swap", "walk", "only one"]),
    ("sample", ["run", "--guidance-interval", "3"], ["guidance-interval", "[3.0]", "[low, high]"]),
    ("evaluate", ["run", "--count", "1"], ["count: 1", "2 or more"]),
    ("evaluate", ["run", "--bootstrap", "2"], ["bootstrap: 2", "20 or more"]),
    ("compare", [], ["runs"]),
    ("convert", ["model"], ["out", "--out"]),
    ("convert", ["model", "--out", "x", "--to", "difusers"], ["to", "did you mean diffusers?"]),
    ("convert", ["model", "--out", "x", "--preset", "imagenet65"], ["preset", "did you mean imagenet64?"]),
    ("push", ["run"], ["to", "--to"]),
    ("ablate", [], ["study", "--study"]),
    ("ablate", ["--study", "s.yaml", "--run", "x"], ["run", "did you mean --run-dir?"]),
    *(
        ("ablate", ["--study", "s.yaml", *words], [words[0].partition("=")[0], "in the study file"])
        for words in (["--metric", "accuracy"], ["--seeds=0,1"], ["--learning-rates", "1e-3"])
    ),
    ("probe", ["run", "--images", "1"], ["images: 1", "20 or more"]),
    ("probe", ["run", "--timesteps", "1"], ["timesteps: 1", "2 or more"]),
    ("probe", ["run", "--samples", "0"], ["samples: 0", "1 or more"]),
    ("probe", ["run", "--seed", "-1"], ["seed: -1", "0 to 2^62 - 1"]),
    *(
        ("ablate", ["--study", "s.yaml", f"--shard={shard}"], [f"shard: '{shard}'", "i/n"])
        for shard in ("0/2", "3/2", "1", "1/", "/2", "a/b", "1/0", "-1/2", "1/2/3", "1.0/2", "")
    ),
]


@pytest.mark.parametrize(("script", "argv", "named"), MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    script: str, argv: list[str], named: list[str], refused: Callable[..., str]
) -> None:
    line = refused(parse_command, COMMANDS[script], f"{script}.py", argv)
    assert [text for text in named if text not in line] == [], line


def test_options_are_read() -> None:
    assert parse_command(ProbeCommand, "probe.py", ["run", "--images", "64", "--out", "page.html"]) == ProbeCommand(
        Path("run"), out=Path("page.html"), images=64
    )
    argv = ["--guidance-interval", "[1,2]", "run", "--classes=-1", "--swap"]
    sample = parse_command(SampleCommand, "sample.py", argv)
    assert sample == SampleCommand(model=Path("run"), guidance_interval=[1.0, 2.0], classes="-1", swap=True)
    assert parse_command(SampleCommand, "sample.py", ["run", "--per_class", "3"]) == parse_command(
        SampleCommand, "sample.py", ["run", "--per-class=3"]
    )
    compare = parse_command(CompareCommand, "compare.py", ["a", "b", "--out", "x.html"])
    assert compare == CompareCommand([Path("a"), Path("b")], Path("x.html"))
    ablate = parse_command(AblateCommand, "ablate.py", ["--study", "s.yaml", "--shard", "2/3", "--dry-run"])
    assert ablate.shard_numbers == (2, 3) and ablate.dry_run and ablate.run_dir is None
    assert AblateCommand(Path("s.yaml")).shard_numbers == (1, 1)


# ------------------------------------------------------------------------------------------------------------- errors


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="not ours"), one_line_errors():
        raise ValueError("not ours")
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


@pytest.mark.parametrize(("name", "shown"), [
    ("per_class", "--per-class"), ("model", "model"), ("sample.per_class", "sample.per_class"),
    ("no_option", "no_option"),
])
def test_errors_spell_options_of_the_command_as_they_are_typed(
    name: str, shown: str, refused: Callable[..., str]
) -> None:
    @from_command_line(SampleCommand)
    def main(command: SampleCommand) -> None:
        convert_value("many", int, name)

    assert refused(main, ["run"]).startswith(f"{shown}: 'many'")


def test_too_little_memory_is_one_line(refused: Callable[..., str]) -> None:
    for act in (lambda: torch.empty(2**60), lambda: torch.empty(2**62, 2**62), lambda: np.empty(2**50)):
        assert "batch size" in refused(act)
    with pytest.raises(RuntimeError, match="size"), one_line_errors():
        torch.ones(2) + torch.ones(3)


@pytest.mark.skipif(find_missing_tool(torch.device("cpu")) is not None, reason="torch.compile has no C++ compiler")
@pytest.mark.parametrize("names", [{}, {"train.compile": "--train.compile"}])
def test_a_compiler_that_fails_is_one_line(names: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\ncase $1 in --version) g++ --version;; *) echo broken compiler; exit 1;; esac\n")
    broken.chmod(0o755)
    compiles = (
        "import torch; from ddpm.cli.errors import one_line_errors\n"
        f"with one_line_errors({names}): torch.compile(torch.sin)(torch.ones(3))"
    )
    environment = {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", compiles], env=os.environ | environment, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    option = [*names.values(), "compile"][0]
    assert f"error: {option}: " in run.stderr and "broken compiler" in run.stderr and "CXX" in run.stderr


@pytest.mark.parametrize("compiler", ["false-gcc", "x86_64-linux-gnu-gcc-12", "clang"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_c_compiler_that_fails_is_one_line(
    compiler: str, wrapped: bool, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Triton calls it for kernels of norms, and within torch.compile, which wraps the error in one of its own."""
    broken = tmp_path / compiler
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)

    def build() -> None:
        try:
            subprocess.check_call([str(broken), "main.c", "-o", "main.so"])
        except subprocess.CalledProcessError as problem:
            if not wrapped:
                raise
            raise RuntimeError(f"CalledProcessError: {problem}") from problem

    said = refused(build)
    assert said.startswith("CC: ") and "gcc" in said
    for other in (["false"], ["/bin/false", "gcc"], [sys.executable, "-c", "raise SystemExit(1)", "accelerate"]):
        with pytest.raises(subprocess.CalledProcessError), one_line_errors():
            subprocess.check_call(other)
    with pytest.raises(subprocess.CalledProcessError), one_line_errors():
        raise subprocess.CalledProcessError(1, ["accelerate", "launch"])


def test_files_that_cannot_be_read_are_one_line(refused: Callable[..., str]) -> None:
    assert refused(Path("none.txt").read_text).startswith("none.txt: ")
