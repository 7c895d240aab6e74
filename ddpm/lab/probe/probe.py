"""The probe command: measures the modulation of a trained model, and writes a page and a JSON file."""

import dataclasses
import shlex
from pathlib import Path

from ddpm import __version__
from ddpm.atomic import write_text
from ddpm.config.commands import ProbeCommand
from ddpm.config.run_folders import run_of
from ddpm.io.provenance import git_commit
from ddpm.lab.probe.inputs import ProbeInputs, read_inputs
from ddpm.lab.probe.measurements import measure_modulation
from ddpm.lab.probe.probe_page import render_probe
from ddpm.lab.probe.results import Model, to_json
from ddpm.lab.probe.summary import summarize
from ddpm.processes import check_launch, join_processes


def probe(command: ProbeCommand) -> Path:
    """Measure, write the page and a JSON file next to it, and print the summary.

    Args:
        command: options of the probe.

    Returns:
        Path of the page.

    Raises:
        ValueError: if the model or the images cannot be used.
        OSError: if a file cannot be written; the message names it.
    """
    processes = join_processes()
    check_launch(processes.num_processes, "probe.py")
    if processes.num_processes > 1:
        raise ValueError("probe.py runs as one process; start it with python instead of accelerate launch")
    out = command.out or (run_of(command.model) or command.model) / _file_name(command.model)
    _check_name(out)
    inputs = read_inputs(command, processes.device)
    results = measure_modulation(command, inputs, _describe_model(command, inputs))
    write_text(out.with_suffix(".json"), to_json(results))
    write_text(out, render_probe(results))
    left_out = [f"left out: {name}: {reason}" for name, reason in results.left_out.items()]
    print("\n".join([results.model.name, "", *summarize(results), *left_out, "", str(out)]))
    return out


def command_line(command: ProbeCommand) -> str:
    """Return the command line that repeats the probe, with the options that differ from their defaults."""
    words = ["python", "scripts/probe.py", str(command.model)]
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if field.name != "model" and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _file_name(model: Path) -> str:
    """Return the name of the page; each checkpoint of a run has its own."""
    step = next((part for part in reversed(model.absolute().parts) if part.startswith("step_")), None)
    return "probe.html" if step is None or run_of(model) is None else f"probe-{step}.html"


def _check_name(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"out: {out} is a directory; give the path of a file, such as probe.html")
    if out.suffix == ".json":
        raise ValueError(f"out: {out} would be the JSON file next to the page; give the path of a page, as probe.html")


def _describe_model(command: ProbeCommand, inputs: ProbeInputs) -> Model:
    unet, images = inputs.pipeline.unet, inputs.images
    where = unet.config.condition_at
    return Model(
        name=inputs.name,
        weights=inputs.weights,
        parameters=sum(p.numel() for p in unet.parameters()),
        norm=unet.config.norm,
        conditioning=unet.config.conditioning,
        condition_at=where if isinstance(where, str) else ", ".join(f"{size} px" for size in where),
        resolution=unet.config.resolution,
        class_names=list(inputs.pipeline.class_names),
        data=None if images is None else images.data.summary(),
        fingerprint=None if images is None else images.data.fingerprint,
        images=0 if images is None else len(images.pixels),
        held_out=None if images is None else images.held_out,
        command=command_line(command),
        version=__version__,
        commit=git_commit(),
    )
