"""What scripts/probe.py does: looks at the modulation of a trained model, and writes a page and the numbers."""

import dataclasses
import shlex
from pathlib import Path

from ddpm import __version__
from ddpm.atomic import write_text
from ddpm.config.commands import ProbeCommand
from ddpm.config.yaml_files import run_of
from ddpm.io.provenance import git_commit
from ddpm.lab.probe.inputs import Subject, read_subject
from ddpm.lab.probe.measurements import measure
from ddpm.lab.probe.probe_page import page
from ddpm.lab.probe.results import Model, to_json
from ddpm.lab.probe.summary import verdict
from ddpm.processes import check_launch, join_processes


def probe(command: ProbeCommand) -> Path:
    """Measures, writes the page and, beside it, its numbers as JSON, and prints what they say.

    Args:
        command: which model, and how much of it.

    Returns:
        Path of the page.

    Raises:
        ValueError: for a model or images that cannot be used.
        OSError: if a file cannot be written; names it.
    """
    processes = join_processes()
    check_launch(processes.num_processes, "probe.py")
    if processes.num_processes > 1:
        raise ValueError("probe.py works as one process; start it with python alone, without accelerate launch")
    out = command.out or (run_of(command.model) or command.model) / _file_name(command.model)
    _check(out)
    subject = read_subject(command, processes.device)
    probed = measure(command, subject, _model(command, subject))
    for file, content in ((out.with_suffix(".json"), to_json(probed)), (out, page(probed))):
        write_text(file, content)
    left_out = [f"left out: {name}, {reason}" for name, reason in probed.left_out.items()]
    print("\n".join([probed.model.name, "", *verdict(probed), *left_out, "", str(out)]))
    return out


def command_line(command: ProbeCommand) -> str:
    """What to type to get the same again; only what is not the default is said."""
    words = ["python", "scripts/probe.py", str(command.model)]
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name != "model" and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _file_name(model: Path) -> str:
    """Each checkpoint of a run has a page of its own."""
    step = next((part for part in reversed(model.absolute().parts) if part.startswith("step_")), None)
    return "probe.html" if step is None or run_of(model) is None else f"probe-{step}.html"


def _check(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"out: {out} is a directory; name a file, such as probe.html")
    if out.suffix == ".json":
        raise ValueError(f"out: {out} is where the numbers beside the page would be; name the page, as probe.html")


def _model(command: ProbeCommand, subject: Subject) -> Model:
    unet, images = subject.pipeline.unet, subject.images
    depths = unet.config.conditioned_depths
    return Model(
        name=subject.name,
        weights=subject.weights,
        parameters=sum(p.numel() for p in unet.parameters()),
        norm=unet.config.norm,
        conditioning=unet.config.conditioning,
        conditioned_depths=depths if isinstance(depths, str) else ", ".join(f"{size} px" for size in depths),
        resolution=unet.config.resolution,
        class_names=list(subject.pipeline.class_names),
        data=None if images is None else images.data.summary(),
        fingerprint=None if images is None else images.data.fingerprint,
        images=0 if images is None else len(images.pixels),
        held_out=None if images is None else images.held_out,
        command=command_line(command),
        version=__version__,
        commit=git_commit(),
    )
