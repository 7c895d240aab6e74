"""Training from a configuration: validate, join the processes, load the data, build the model, train."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ddpm.atomic import newest_intact, step_of
from ddpm.config.changes import describe_nulls, differences, fill_nulls
from ddpm.config.ineffective_options import ignored_options, ineffective_options
from ddpm.config.places import is_gone, with_places
from ddpm.config.sections import Config
from ddpm.data import ImageData
from ddpm.data.overview import describe_data
from ddpm.io.captions import describe_captions
from ddpm.io.pictures import describe_picture
from ddpm.processes import broadcast_from_main, check_same, describe_devices, first_on_main, on_main, warn
from ddpm.training.build import (
    adopt_pretrained,
    build_data,
    build_in_training_metrics,
    build_schedule,
    build_unet,
)
from ddpm.training.continuation import check_data, check_options, describe_unused, plan_continuation
from ddpm.training.derived_options import coarsest_stage_warning, derive_config, describe_derivation
from ddpm.training.dry_run import (
    count_parameters,
    describe_architecture,
    describe_samples,
    describe_unconditional,
    estimate_cost,
    multiply_adds,
)
from ddpm.training.launch import check_batch, start_accelerator
from ddpm.training.optim import describe_unfinished_warmup
from ddpm.training.run_directory import check_run_directory, hold_run_directory
from ddpm.training.run_record import KnownRun
from ddpm.training.timeline import Timeline
from ddpm.training.trainer import Trainer
from ddpm.training.validation import check_classes, check_config, check_monitoring, without_guidance


def train(
    config: Config, run_dir: Path, dry_run: bool = False, allowed: Collection[str] = (), continues: bool = False
) -> None:
    """Train a model in a run directory, or continue its run.

    Args:
        config: the configuration as given. Null stands for the value of the run that the directory holds, or else for
            a value that is derived from the data.
        run_dir: the run directory.
        dry_run: print the cost of the run, and what would change in a run that continues, and write nothing.
        allowed: options that may change in a run that continues although they affect its result.
        continues: whether the directory must hold a run.

    Raises:
        ValueError: if the configuration, the data, the launch or the directory does not allow the run.
        SystemExit: after an interruption, with 128 plus the signal's number.
    """
    known, kept = KnownRun.read(run_dir), ""
    if known is not None:
        kept = describe_nulls(config, known.config)
        config = fill_nulls(config, known.config)
    check_config(config)
    accelerator = start_accelerator(config)
    on_main(accelerator, lambda: check_run_directory(run_dir, config.data.source, continues))
    checkpoint = None
    if known is not None and config.model.pretrained is not None:
        checkpoint = broadcast_from_main(accelerator, known.newest_checkpoint)
    given, adopted = config, first_on_main(accelerator, lambda: adopt_pretrained(config, checkpoint))
    if known is not None:
        on_main(accelerator, lambda: check_options(known, adopted, allowed))
    data = first_on_main(accelerator, lambda: load_images(adopted, known))
    check_same(accelerator, {"data.source": data.fingerprint})
    on_main(accelerator, lambda: check_classes(adopted, data))
    if known is not None:       # options that were derived from other images would not fit these
        on_main(accelerator, lambda: check_data(known, adopted, data, allowed))
    on_main(accelerator, lambda: check_monitoring(adopted, data))
    config = first_on_main(accelerator, lambda: derive_config(adopted, data))
    config, unguided = (config, []) if data.num_classes else without_guidance(config)
    # Again, because the batch size may have been derived; the trainer checks those of all steps.
    on_main(accelerator, lambda: check_batch(config.train, accelerator.num_processes))
    schedule = build_schedule(config)
    unet = first_on_main(accelerator, lambda: build_unet(config, data, checkpoint))
    warnings = [*ignored_options(given, adopted), *unguided, *ineffective_options(config, data.in_memory)]
    warnings += coarsest_stage_warning(adopted, data)
    if known is None:
        accelerator.print(f"run          new, in {run_dir}, of {config.data.source}")
    else:
        warnings += describe_unused(known, config, data, allowed)
    accelerator.print(describe_data(data))
    if derivation := describe_derivation(adopted, config) or kept:
        accelerator.print(derivation)
    if dry_run:
        timeline, done = Timeline.of(config.train), 0
        if known is not None:
            newest, damaged = newest_intact(run_dir / "checkpoints")
            done = step_of(newest)
            warnings += [f"{p} is damaged ({why}); training continues from step {done}" for p, why in damaged.items()]
            plan = plan_continuation(known, config, data, allowed, done)
            timeline, left = plan.run.timeline, config.train.steps - done
            accelerator.print(f"run          {run_dir} continues from step {done} and has {left} steps left")
            for change in plan.lines or ["no setting"]:
                accelerator.print(f"changes      {change}")
            warnings += plan.warnings
        warn(*warnings, *describe_warmup(timeline, known))
        accelerator.print(estimate_cost(config, data, unet, schedule, accelerator, timeline, done))
        accelerator.print(f"run directory {run_dir} (nothing was written)")
        return
    metrics = build_in_training_metrics(config, data, accelerator)
    facts = {
        "class_names": list(data.class_names),
        "parameters": count_parameters(unet),
        "multiply_adds": multiply_adds(unet),
        "seed": config.train.seed,
    }
    with hold_run_directory(accelerator, run_dir, config, data, facts, allowed) as (run_id, timeline, start):
        warn(*warnings, *describe_warmup(timeline, known))
        devices = describe_devices(accelerator)
        size = f"{facts['parameters']:,} parameters{describe_architecture(config, unet)}"
        accelerator.print(f"run directory {run_dir}: {data.summary()}; {size}; {devices}")
        if (shown := describe_picture(data.channels)) is not None:
            accelerator.print(shown)
        if (shown := describe_captions(data.class_names)) is not None:
            accelerator.print(shown)
        if data.num_classes == 0:
            accelerator.print(describe_unconditional(unet))
        for line in describe_samples(config, data, timeline.position(config.train.steps)):
            accelerator.print(f"images: {line}")
        if data.skipped:
            warn(f"{data.skipped} unreadable images are skipped")
        Trainer(config, accelerator, data, schedule, unet, run_dir, metrics, timeline).run(run_id, start)


def describe_warmup(timeline: Timeline, known: KnownRun | None) -> list[str]:
    """Return `describe_unfinished_warmup` for a new run or another schedule; what a run has begun with was told then.

    Args:
        timeline: the settings of all steps.
        known: the run that continues; None for a new run.
    """
    told = known is not None and timeline.has_schedule_of(known.timeline, timeline.segments[-1].settings.steps)
    return [] if told else describe_unfinished_warmup(timeline)


def load_images(config: Config, known: KnownRun | None) -> ImageData:
    """Load the configured images.

    Args:
        config: the configuration.
        known: the run that continues; None for a new run. Relative paths that lead nowhere from here lead from where it
            was started.

    Raises:
        ValueError: if they cannot be read. If the images of a run are gone, it names the option for their new place.
    """
    if known is None:
        return build_data(config)
    found = replace(config, data=with_places(config.data, known.facts.get("places", {}), prefer_typed=True))
    try:
        return build_data(found, known.facts["data"])
    except ValueError as problem:
        option = str(problem).partition(":")[0]
        if not is_gone(found.data, option) or option in differences(known.config, config):
            raise
        raise ValueError(f"{problem}; if it has moved, give its new place with --{option} NEW") from None
