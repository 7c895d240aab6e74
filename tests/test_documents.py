"""README.md and docs: the commands parse, links and paths lead somewhere, and the examples run."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ddpm.diffusion.samplers
import ddpm.models.norm
from ddpm.cli.parser import parse_command
from ddpm.config.commands import (
    AblateCommand,
    BenchmarkCommand,
    CompareCommand,
    ConvertCommand,
    EvaluateCommand,
    ProbeCommand,
    PushCommand,
    SampleCommand,
    TrainCommand,
)
from ddpm.config.sections import OPTIONS, SECTIONS, Config
from ddpm.config.study_files import read_study
from ddpm.config.values import choices, field_types
from ddpm.config.yaml_files import read_config
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule, Prediction
from ddpm.diffusion.timesteps import timestep_grid

sys.path.insert(0, str(Path(__file__).parent))       # for the helper module document_code

from document_code import DOCUMENTS, ROOT, blocks, commands, spans

COMMANDS: dict[str, Callable[[Sequence[str]], object]] = {
    "train": partial(parse_command, TrainCommand, "train.py"),
    "sample": partial(parse_command, SampleCommand, "sample.py"),
    "evaluate": partial(parse_command, EvaluateCommand, "evaluate.py"),
    "compare": partial(parse_command, CompareCommand, "compare.py"),
    "ablate": partial(parse_command, AblateCommand, "ablate.py"),
    "probe": partial(parse_command, ProbeCommand, "probe.py"),
    "benchmark": partial(parse_command, BenchmarkCommand, "benchmark.py"),
    "push": partial(parse_command, PushCommand, "push.py"),
    "convert": partial(parse_command, ConvertCommand, "convert.py"),
}
# A file or folder of the repository, at the beginning of a word.
PATH = re.compile(r"(?<![\w./~-])(?:ddpm|tests|docs|configs|scripts|notebooks)/[\w./-]*\w")


def headings(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_program_accepts_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RANK", raising=False)
    given = commands("scripts")
    assert {Path(script).stem for _, script, _ in given} == COMMANDS.keys()
    for document, script, arguments in given:
        try:
            command = COMMANDS[Path(script).stem](arguments)
            if isinstance(command, AblateCommand):
                read_study(command.study)
        except (SystemExit, ValueError) as problem:     # a parser has printed its message
            pytest.fail(f"{document}: {script} {shlex.join(arguments)}: {problem}")


def test_the_study_of_the_documents_can_be_read(tmp_path: Path) -> None:
    [text] = blocks(ROOT / "docs" / "ablation.md", "yaml")
    (tmp_path / "study.yaml").write_text(text)
    study = read_study(tmp_path / "study.yaml")
    assert study.learning_rates and study.evaluation and len(study.arms) == 2


def test_the_configurations_of_the_documents_can_be_read(tmp_path: Path) -> None:
    found = 0
    for document in DOCUMENTS:
        for text in blocks(document, "yaml"):
            (tmp_path / "a.yaml").write_text(text)
            if "arms:" not in text:
                assert read_config(tmp_path / "a.yaml") != Config(), document
                found += 1
    assert found


def test_benchmarks_have_the_options_of_every_command() -> None:
    given = commands("tests/benchmarks")
    assert given
    for document, script, arguments in given:
        source = (ROOT / script).read_text()
        unknown = [word for word in arguments if word.startswith("--") and f'"{word}"' not in source]
        assert not unknown, (document, script, unknown)


def test_options_exist() -> None:
    """Options that are named in the text, as `--blend N` and `train.batch_size`; those of commands are parsed above."""
    known = {f"--{name}" for name in ("help", "help-all", "config", "print-config", "run-dir", "dry-run")}
    known |= {"--update-golden", "--multi_gpu"}         # of pytest and of accelerate
    known |= {f"--{section}.{field.name}" for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)}
    for parse in COMMANDS.values():
        if isinstance(parse, partial):
            known |= {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(parse.args[0])}
    sections = "|".join(SECTIONS)
    for document in DOCUMENTS:
        for span in spans(document):
            named = set() if "python" in span else set(re.findall(r"(?<!\S)--[\w.-]*\w", span))
            named |= {f"--{name}" for name in re.findall(rf"^(?:{sections})\.(?!json|csv)\w+", span)}
            assert named <= known, (document.name, span)


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = document.parent / path if path else document
            assert file.exists(), (document.name, target)
            assert not anchor or anchor in headings(file), (document.name, target)


def test_paths_exist() -> None:
    for document in DOCUMENTS:
        missing = [path for path in PATH.findall(document.read_text()) if not (ROOT / path).exists()]
        assert not missing, (document.name, missing)


def test_the_layout_is_that_of_the_package() -> None:
    """The tree of docs/design.md names every folder and module of the package, and nothing else."""
    [tree] = [block for block in blocks(ROOT / "docs" / "design.md") if block.startswith("ddpm/\n")]
    folders: list[str] = []         # around the line, outermost first
    named: list[str] = []
    for line in tree.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        names = [word for word in line.split() if re.fullmatch(r"\w+(\.py|/)", word)]
        named += ["/".join([*folders[:depth], name.rstrip("/")]) for name in names]
        folders[depth:] = [name.rstrip("/") for name in names if name.endswith("/")]
    package = ROOT / "ddpm"
    modules = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    present = {*modules, *(path.parent for path in modules)} - {package}
    paths = {str(path.relative_to(package)) for path in present}
    assert {"not in docs/design.md": paths - {*named}, "not in the package": {*named} - paths} == {
        "not in docs/design.md": set(), "not in the package": set()
    }
    assert len(named) == len({*named})


def test_the_table_of_extensions_says_which_options_have_a_fixed_choice() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| .* \| [A-Z_]+ in .* \| `(\S+)` \| (\w+) \|$", text, re.MULTILINE)
    of_commands = {f"--{name}": kind for command in (SampleCommand, EvaluateCommand)
                   for name, kind in field_types(command).items()}
    types = OPTIONS | of_commands
    assert len(rows) > 10 and {option: "yes" if choices(types[option]) else "no" for option, _ in rows} == dict(rows)


def test_the_examples_of_extensions_run() -> None:
    examples = blocks(ROOT / "docs" / "design.md", "python")
    norm, sampler = dict(vars(ddpm.models.norm)), dict(vars(ddpm.diffusion.samplers))
    exec(next(text for text in examples if "class AdaGNShiftFirst" in text), norm)
    exec(next(text for text in examples if "def ddim_2m" in text), sampler)

    torch.manual_seed(0)
    layer, h, emb = norm["AdaGNShiftFirst"](8, 4, 2), torch.randn(3, 8, 5, 5), torch.randn(3, 4)
    scale, shift = layer.proj(emb).chunk(2, dim=1)
    expected = (1 + scale)[..., None, None] * (layer.norm(h) + shift[..., None, None])
    torch.testing.assert_close(layer(h, emb), expected)

    # On Gaussian data of deviation 0.5, whose denoiser is known, the flow from x_T multiplies it by a constant.
    schedule = NoiseSchedule(SCHEDULES["linear"](1000))

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Prediction:
        alpha_bar = schedule.alphas_cumprod[t][:, None, None, None]
        return schedule.from_x_0(alpha_bar.sqrt() * 0.25 / (0.25 * alpha_bar + 1 - alpha_bar) * x_t, x_t, t)

    x_T, labels = torch.ones(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    drawn = sampler["ddim_2m"](denoise, schedule, x_T, labels, timestep_grid(schedule, 100, "logsnr"))
    start = float(1 - 0.75 * schedule.alphas_cumprod[-1]) ** 0.5        # the deviation of x_T
    # 100 steps of this second-order method are off by 0.02 %, those of DDIM by 2 %.
    torch.testing.assert_close(drawn, 0.5 / start * x_T, rtol=1e-3, atol=0)
