"""The ablate command: trains and evaluates every arm of a study with every seed, and writes the report."""

import gc
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from accelerate import PartialState

from ddpm.config.study import Study
from ddpm.config.study_files import study_to_yaml
from ddpm.data import ImageData
from ddpm.data.overview import describe_data
from ddpm.diffusion.divergence import Diverged
from ddpm.evaluation.evaluate import evaluate
from ddpm.lab.ablation.arms import Size, check_arms, check_batches, measure_arms, resolve_study
from ddpm.lab.ablation.evaluation_checks import check_evaluation
from ddpm.lab.ablation.planned_runs import (
    PlannedRun,
    check_metric,
    check_unchanged,
    evaluate_command,
    is_finished,
    list_planned_runs,
    list_sweep_runs,
    read_divergence,
    record_divergence,
    sampling_settings,
    take_shard,
)
from ddpm.lab.ablation.registration import check_study_directory, find_registration, register
from ddpm.lab.ablation.study_report import report
from ddpm.lab.ablation.sweep import choose_rates, read_sweep
from ddpm.lab.ablation.timing import read_timing, time_steps, write_timing
from ddpm.lab.pages import render_text
from ddpm.processes import (
    FailedElsewhere,
    InUse,
    broadcast_from_main,
    check_launch,
    check_same,
    first_on_main,
    join_processes,
    on_main,
)
from ddpm.training.build import build_data
from ddpm.training.derived_options import describe_derivation
from ddpm.training.dry_run import format_duration
from ddpm.training.train import train

SHOWN_RUNS = 5      # number of missing runs that are listed


def ablate(
    study: Study, documents: Mapping[str, str], path: Path, shard: tuple[int, int] = (1, 1), dry_run: bool = False
) -> None:
    """Train and evaluate the missing runs of a study or of one shard, and write the report once all are finished.

    Args:
        study: the study.
        documents: names and contents of the files as given, which the directory keeps.
        path: directory of the study.
        shard: (i, n), for the i-th of n shards.
        dry_run: print the estimated cost and stop.

    Raises:
        ValueError: if the study, the data, the launch or the directory is wrong, or if the learning rates cannot be
            chosen yet.
        SystemExit: after an interruption, with 128 plus the signal's number; the same command resumes.
    """
    processes = join_processes(study.base.train.timeout)
    check_launch(processes.num_processes, "ablate.py")
    check_arms(study)
    on_main(processes, lambda: check_study_directory(path, study.base.data.source))
    given = study.base
    data = _load_images(study, processes)
    study = broadcast_from_main(processes, partial(resolve_study, study, data))
    on_main(processes, lambda: check_batches(study, processes.num_processes))
    documents = {**documents, "resolved.yaml": study_to_yaml(study)}
    if derivation := describe_derivation(given, study.base):
        processes.print(derivation)
    sizes = broadcast_from_main(processes, lambda: measure_arms(study, data))
    held_out = on_main(processes, lambda: check_evaluation(study, data))
    if dry_run:
        on_main(processes, lambda: find_registration(study, data, path))
    else:
        on_main(processes, lambda: register(study, documents, data, path))
    processes.print(describe_data(data))
    if processes.is_main_process and held_out is not None:
        print(f"held out     {held_out.summary()}")
    _print_plan(study, path, shard, data, sizes, processes)
    if dry_run:
        return
    del data        # every run loads its own
    rates: dict[str, float] = {}
    if study.learning_rates:
        _train_and_evaluate(take_shard(list_sweep_runs(study, path), shard), study, processes, "sweep")
        rates = broadcast_from_main(processes, lambda: choose_rates(study, path))
    planned = list_planned_runs(study, path, rates)
    on_main(processes, lambda: _give_up(path, planned))
    _train_and_evaluate(take_shard(planned, shard), study, processes, "run")
    if broadcast_from_main(processes, lambda: read_timing(path)) is None:
        processes.print("\ntiming the training steps of all arms in turns", flush=True)
        data = _load_images(study, processes)
        seconds = time_steps({arm.name: arm.config for arm in study.arms}, data)
        on_main(processes, lambda: write_timing(path, seconds, processes.device, processes.num_processes))
    on_main(processes, lambda: _conclude(study, path, planned))


def _load_images(study: Study, processes: PartialState) -> ImageData:
    """Return the training images, which are the same on every process."""
    data = first_on_main(processes, lambda: build_data(study.baseline.config))
    check_same(processes, {"data.source": data.fingerprint})
    return data


def _print_plan(
    study: Study, path: Path, shard: tuple[int, int], data: ImageData, sizes: dict[str, Size], processes: PartialState
) -> None:
    """Print arms, runs, and the estimated time of the remaining runs."""
    # The learning rates that a sweep will choose do not affect the time.
    mine = take_shard(list_sweep_runs(study, path), shard) + take_shard(list_planned_runs(study, path, {}), shard)
    ends = ("pipeline", "diverged.json")        # a run with one of them needs no more training
    left = broadcast_from_main(
        processes, lambda: [run for run in mine if not any((run.path / name).exists() for name in ends)]
    )
    seconds = {}
    if left:
        measured = time_steps({arm.name: arm.config for arm in study.arms}, data, rounds=1, warm_up=1)
        seconds = {arm: median(values) for arm, values in measured.items()}
    time = format_duration(sum(seconds[run.arm] * run.config.train.steps for run in left))
    plan = render_text(
        "ablation/plan.txt.jinja", study=study, path=path, shard=shard, sizes=sizes, mine=mine, left=left,
        seconds=seconds, time=time,
    )
    processes.print(f"{plan}\n", flush=True)


def _train_and_evaluate(runs: Sequence[PlannedRun], study: Study, processes: PartialState, title: str) -> None:
    """Train and evaluate runs one after the other; skip those that another process is working on."""
    for number, run in enumerate(runs, 1):
        if broadcast_from_main(processes, partial(is_finished, run, study)):
            continue
        processes.print(f"\n{title} {number} of {len(runs)}: {run.name} ({run.path})", flush=True)
        on_main(processes, partial(check_unchanged, run))
        problem = _attempt(run, study)
        if isinstance(problem, Diverged):
            processes.print(f"{run.name} diverged: {problem}", flush=True)
            on_main(processes, partial(record_divergence, run.path, problem.step, str(problem)))
        elif problem is not None:
            processes.print(f"{run.name} is skipped: {problem}", flush=True)
        gc.collect()                    # models and optimizers contain reference cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()    # arms with other shapes cannot reuse the cached blocks


def _attempt(run: PlannedRun, study: Study) -> Diverged | InUse | None:
    """Train and evaluate one run.

    Returns:
        An error that does not end the study, on all processes: divergence, or a run that another process is working on.

    Raises:
        ValueError: for any other error; the message names the run.
    """
    try:
        train(run.config, run.path)
        check_metric(study, evaluate(evaluate_command(study, run.path), sampling_settings(study, run.config)))
    except (Diverged, InUse) as problem:
        return problem.with_traceback(None)         # a traceback would keep the model in memory
    except FailedElsewhere as failure:
        if issubclass(failure.kind, Diverged | InUse):
            return failure.kind(failure.message)
        raise
    except ValueError as problem:
        problem.args = (f"{run.name}: {problem}",)
        raise
    return None


def _give_up(path: Path, planned: Sequence[PlannedRun]) -> None:
    """Record the runs of arms that diverged at every learning rate as diverged, without training them."""
    sweep = read_sweep(path)
    for run in planned:
        if sweep.get(run.arm, {}).get("diverged") and read_divergence(run.path) is None:
            record_divergence(run.path, None, "the arm diverged at every learning rate of the sweep")


def _conclude(study: Study, path: Path, planned: Sequence[PlannedRun]) -> None:
    """Write the report if all runs are finished; otherwise list the missing ones."""
    missing = [run for run in planned if not is_finished(run, study)]
    if not missing:
        report(study, path)
        return
    named = "; ".join(run.name for run in missing[:SHOWN_RUNS]) + ("; ..." if len(missing) > SHOWN_RUNS else "")
    print(
        f"\n{len(missing)} of {len(planned)} runs are missing: {named}\n"
        "the shard that finishes the last run writes the report; you can also run this command again then",
        file=sys.stderr,
    )
