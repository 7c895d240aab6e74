"""Configuration from files and command lines: what is documented, what is refused, what is read back."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import docstring_parser
import pytest
import yaml
from ddpm.cli.command_lines import parse_ablate, parse_probe, parse_sample, parse_train

from ddpm.cli.errors import one_line_errors
from ddpm.config.commands import AblateCommand, ConvertCommand, ProbeCommand, SampleCommand
from ddpm.config.sections import (
    CHANGEABLE,
    SECTIONS,
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
    differences,
)
from ddpm.config.yaml_files import read_config, sample_settings
from ddpm.diffusion.objective import PREDICTIONS, TIMESTEP_SAMPLERS, WEIGHTINGS
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.diffusion.schedule import SCHEDULES
from ddpm.diffusion.timesteps import SPACINGS
from ddpm.evaluation.in_training import MONITORED
from ddpm.io.adm_flags import PRESETS
from ddpm.io.conversion import FORMATS
from ddpm.models.embedding import CONDITIONINGS
from ddpm.models.norm import NORMS
from ddpm.models.unet import RESAMPLERS


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("sys.argv", ["train.py"])


# ---------------------------------------------------------------------------------------------------- documentation

CHOICES = [
    (ModelConfig, "norm", NORMS),
    (ModelConfig, "conditioning", CONDITIONINGS),
    (ModelConfig, "resample", RESAMPLERS),
    (DiffusionConfig, "schedule", SCHEDULES),
    (DiffusionConfig, "prediction", PREDICTIONS),
    (DiffusionConfig, "weighting", WEIGHTINGS),
    (DiffusionConfig, "timestep_sampler", TIMESTEP_SAMPLERS),
    (SampleConfig, "sampler", SAMPLERS),
    (SampleConfig, "spacing", SPACINGS),
    (EvaluationConfig, "metric", MONITORED),
    (EvaluationConfig, "sampler", SAMPLERS),
    (EvaluationConfig, "spacing", SPACINGS),
    (SampleCommand, "sampler", SAMPLERS),
    (SampleCommand, "spacing", SPACINGS),
    (ConvertCommand, "to", FORMATS),
    (ConvertCommand, "preset", PRESETS),
    (ConvertCommand, "schedule", SCHEDULES),
    (ConvertCommand, "prediction", PREDICTIONS),
]


@pytest.mark.parametrize(("section", "key", "table"), CHOICES, ids=lambda x: getattr(x, "__name__", None))
def test_documented_choices_are_those_of_the_dict(section: type, key: str, table: Iterable[str]) -> None:
    text = re.sub(r"\([^)]*\)", "", described(section)[key])            # remarks in brackets
    items = [item.strip(" .") for item in re.split(r",| or ", text)]
    assert items[-len(list(table)) :] == list(table), text
    assert not [item for item in items[: -len(list(table))] if re.fullmatch(r"\w+", item)], text    # no further names


@pytest.mark.parametrize("section", [*SECTIONS.values(), SampleCommand, ConvertCommand, AblateCommand, ProbeCommand])
def test_every_option_is_documented(section: type) -> None:
    assert list(described(section)) == [f.name for f in dataclasses.fields(section)]
    assert all(text and "\n\n" not in text for text in described(section).values())


def test_defaults_are_entries() -> None:
    for section, key, table in CHOICES[:12]:
        assert getattr(section(), key) in table, key


def described(section: type) -> dict[str, str]:
    documents = [docstring_parser.parse(kind.__doc__) for kind in reversed(section.__mro__[:-1])]
    return {p.arg_name: " ".join(p.description.split()) for document in documents for p in document.params}


# ---------------------------------------------------------------------------------------------------------- mistakes

FILES = {
    "chanels.yaml": "model:\n  chanels: 8\n",
    "modle.yaml": "modle:\n  channels: 8\n",
    "type.yaml": "model:\n  channels: many\n",
    "range.yaml": "train:\n  steps: 0\n",
    "contradiction.yaml": "diffusion:\n  prediction: eps\n  zero_terminal_snr: true\n",
    "broken.yaml": "model: [1, 2\n",
    "tab.yaml": "model:\n\tchannels: 3\n",
    "list.yaml": "- 1\n- 2\n",
    "words.yaml": "hello\n",
    "number.yaml": "model: 3\n",
    "nothing.yaml": "model:\ntrain:\n  steps: 3\n",
    "nan.yaml": "train:\n  learning_rate: .nan\n",
    "binary.yaml": b"\xff\xfe\x00\x01",
}
MISTAKES = {
    "option": (["--model.chanels", "8"], r"model\.chanels is not an option; did you mean model\.channels\?"),
    "option=": (["--model.chanels=8"], r"model\.chanels is not an option; did you mean model\.channels\?"),
    "section": (["--modle.channels", "8"], r"modle\.channels is not an option; did you mean model\.channels\?"),
    "nothing near": (["--zzzzzz", "8"], r"zzzzzz is not an option$"),
    "type": (["--model.channels", "many"], r"model\.channels: .*int.*many"),
    "type of a list's entry": (["--model.channel_mult", "[1, x]"], r"model\.channel_mult: .*float.*x"),
    "fraction for a whole number": (["--train.steps", "1.5"], r"train\.steps: .*int.*1\.5"),
    "no number": (["--train.learning_rate", "nan"], r"train\.learning_rate: .*nan"),
    "range": (["--train.steps", "0"], r"train\.steps: 0 is out of range; allowed: 1 or more"),
    "range of a float": (["--model.dropout", "1.0"], r"model\.dropout: 1\.0 is out of range; allowed: 0 up to"),
    "one of several": (["--tracking.wandb", "onlin"], r"tracking\.wandb: 'onlin' .*off, offline, online"),
    "contradiction": (
        ["--diffusion.prediction", "eps", "--diffusion.zero_terminal_snr", "true"],
        r"diffusion\.prediction: eps .*diffusion\.zero_terminal_snr.*use v or x_0",
    ),
    "value missing": (["--model.channels"], r"model\.channels"),
    "stray word": (["stray"], r"stray"),
    "option in a file": (["--config", "chanels.yaml"], r"model\.chanels is not an option; .* model\.channels\?"),
    "section in a file": (["--config", "modle.yaml"], r"modle\.channels is not an option; .* model\.channels\?"),
    "type in a file": (["--config", "type.yaml"], r"model\.channels: .*int.*many"),
    "range in a file": (["--config", "range.yaml"], r"train\.steps: 0 is out of range; allowed: 1 or more"),
    "not a number in a file": (["--config", "nan.yaml"], r"train\.learning_rate"),
    "contradiction in a file": (["--config", "contradiction.yaml"], r"diffusion\.prediction: eps .*use v or x_0"),
    "contradiction over a file": (
        ["--config", "contradiction.yaml", "--diffusion.prediction", "eps"], r"diffusion\.prediction: eps",
    ),
    "bad YAML": (["--config", "broken.yaml"], r"config.*line 2, column 1"),
    "tab in YAML": (["--config", "tab.yaml"], r"config.*line 2, column 1"),
    "list in YAML": (["--config", "list.yaml"], r"config"),
    "words in YAML": (["--config", "words.yaml"], r"config.*hello"),
    "number for a section": (["--config", "number.yaml"], r"^(?!.*functools).*model"),
    "nothing for a section": (["--config", "nothing.yaml"], r"^(?!.*functools).*model"),
    "no text at all": (["--config", "binary.yaml"], r"config|binary\.yaml"),
    "missing file": (["--config", "missing.yaml"], r"config: .*missing\.yaml"),
    "folder for a file": (["--config", "."], r"config: .*not a file"),
    "mistyped switch": (["--dry-rum"], r"dry-rum is not an option; did you mean dry-run\?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(mistake: str, capsys: pytest.CaptureFixture) -> None:
    argv, expected = MISTAKES[mistake]
    for name, content in FILES.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(lambda: parse_train(argv), capsys)
    assert re.search(expected, line), line


@pytest.mark.parametrize(("argv", "expected"), [
    ([], r"model"),
    (["run", "--gidance", "2"], r"gidance is not an option; did you mean guidance\?"),
    (["run", "--steps", "many"], r"steps: .*int.*many"),
    (["run", "--per-clas", "2"], r"per-clas is not an option; did you mean per-class\?"),
    (["run", "other"], r"other"),
    (["run", "--blend", "1"], r"blend: 1 is out of range; allowed: 2 or more"),
    (["run", "--walk", "3", "--swap"], r"swap: cannot be had together with walk"),
    (["run", "--guidance-interval", "3"], r"guidance_interval: .*3"),
])
def test_sampling_mistakes(argv: list[str], expected: str, capsys: pytest.CaptureFixture) -> None:
    line = refused(lambda: parse_sample(argv), capsys)
    assert re.search(expected, line), line


def test_only_the_first_process_complains(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as exit_:
        parse_train(["--model.chanels", "8"])
    assert exit_.value.code == 2 and capsys.readouterr().err == ""


def test_a_file_that_a_program_reads_raises() -> None:
    for name, content in FILES.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in ("chanels.yaml", "range.yaml", "contradiction.yaml", "broken.yaml"):
        with pytest.raises(ValueError) as error:
            read_config(Path(name))
        assert "\n" not in str(error.value)


def refused(act: Callable[[], object], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as exit_, one_line_errors():
        act()
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith("train.py: error: ")
    return err.removeprefix("train.py: error: ").rstrip("\n")


def test_faults_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="not ours"), one_line_errors():
        raise ValueError("not ours")
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


def test_files_that_cannot_be_read_are_one_line(capsys: pytest.CaptureFixture) -> None:
    line = refused(lambda: Path("none.txt").read_text(), capsys)
    assert "none.txt: No such file" in line


# ------------------------------------------------------------------------------------------------- reading and writing

UNUSUAL = Config(
    DataConfig(source="images", resolution=28, channels=3, image_column="on", flip=True, memory_gb=1e-3),
    ModelConfig(channels=48, channel_mult=[1, 1.5, 2.0], attention_resolutions=[], norm="groupnorm", dropout=0.25),
    DiffusionConfig(schedule="sigmoid", num_timesteps=77, zero_terminal_snr=True, prediction="x_0", label_dropout=0),
    TrainConfig(learning_rate=1e-4, decay="constant", ema_half_life=1e6, seed=2**63 - 1),
    SampleConfig(sampler="ddpm", eta=1, guidance=1.5, seed=2**62 - 1),
    TrackingConfig(wandb="off", wandb_project="null", tensorboard=True),
)


@pytest.mark.parametrize("config", [Config(), UNUSUAL], ids=["defaults", "unusual"])
def test_a_written_configuration_reads_back_equal(config: Config) -> None:
    Path("config.yaml").write_text(config.to_yaml())
    assert read_config(Path("config.yaml")) == config
    assert parse_train(["--config", "config.yaml"]).config == config
    assert Config(**{name: section(**config.to_dict()[name]) for name, section in SECTIONS.items()}) == config


def test_no_arguments_are_the_defaults() -> None:
    command = parse_train([])
    assert command.config == Config() and command.run == Path("runs/digits") and not command.dry_run


def test_printed_configuration_reads_back(capsys: pytest.CaptureFixture) -> None:
    given = ["--model.channels", "48", "--train.learning_rate", "1e-4", "--model.channel_mult", "[1, 1, 2]"]
    with pytest.raises(SystemExit) as exit_:
        parse_train([*given, "--print_config"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert {*SECTIONS} <= {*yaml.safe_load(printed)}
    Path("printed.yaml").write_text(printed)
    assert parse_train(["--config", "printed.yaml"]).config == parse_train(given).config
    assert parse_train(given).config.model.channel_mult == [1, 1, 2]


def test_help_names_every_option(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_train(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    options = [f"{name}.{f.name}" for name, section in SECTIONS.items() for f in dataclasses.fields(section)]
    assert [o for o in options if o not in text] == []


def test_later_options_go_before_the_file() -> None:
    Path("a.yaml").write_text("model:\n  channels: 48\n  dropout: 0.5\ntrain:\n  learning_rate: 1e-4\n")
    Path("b.yaml").write_text("model:\n  channels: 64\n")
    config = parse_train(["--config", "a.yaml", "--model.channels", "16"]).config
    assert (config.model.channels, config.model.dropout, config.train.learning_rate) == (16, 0.5, 1e-4)
    assert config.model.norm == ModelConfig().norm and config.train.steps == TrainConfig().steps
    assert parse_train(["--model.channels", "16", "--config", "a.yaml"]).config.model.channels == 48
    both = parse_train(["--config", "a.yaml", "--config", "b.yaml"]).config.model
    assert (both.channels, both.dropout) == (64, 0.5)


@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_both_spellings(spelling: str) -> None:
    assert parse_train([spelling]).dry_run
    assert parse_train(["--model.head-channels", "16", "--train.batch-size=8"]).config == parse_train(
        ["--model.head_channels=16", "--train.batch_size", "8"]
    ).config
    assert parse_sample(["run", "--per_class", "3"]) == parse_sample(["run", "--per-class=3"])


def test_run_directory_follows_the_source() -> None:
    assert parse_train(["--data.source", "/data/My Images"]).run == Path("runs/My-Images")
    assert parse_train(["--data.source", "owner/cifar10"]).run == Path("runs/cifar10")
    assert parse_train(["--run-dir", "here"]).run == Path("here")


def test_sample_settings_are_those_of_the_run_unless_given() -> None:
    Path("run/checkpoints/step_1").mkdir(parents=True)
    config = dataclasses.replace(Config(), sample=SampleConfig(steps=7, guidance=3.0, per_class=2))
    Path("run/config.yaml").write_text(config.to_yaml())
    Path("run/run.json").write_text("{}")
    for model in ("run", "run/checkpoints/step_1"):
        settings = sample_settings(parse_sample([model, "--guidance", "1.5", "--sampler", "ddpm"]))
        assert settings == SampleConfig(steps=7, guidance=1.5, per_class=2, sampler="ddpm")
    assert sample_settings(parse_sample(["elsewhere"])) == SampleConfig()
    with pytest.raises(ValueError, match=r"sample\.eta: 2\.0 is out of range"):
        sample_settings(parse_sample(["run", "--eta", "2"]))
    with pytest.raises(ValueError, match=r"sample\.guidance_interval: \[3\.0, 1\.0\] is out of range"):
        sample_settings(parse_sample(["run", "--guidance-interval", "[3, 1]"]))
    assert sample_settings(parse_sample(["run", "--guidance-interval", "[0.3, 3]"])).guidance_interval == [0.3, 3]


def test_a_shard_is_a_part_of_a_study(capsys: pytest.CaptureFixture) -> None:
    assert parse_ablate(["--study", "s.yaml"]).part == (1, 1)
    command = parse_ablate(["--study", "s.yaml", "--shard", "2/3", "--dry-run"])
    assert command.part == (2, 3) and command.dry_run and command.run is None
    for shard in ("0/2", "3/2", "1", "1/", "/2", "a/b", "1/0", "-1/2", "1/2/3", "1.0/2", ""):
        line = refused(lambda: parse_ablate(["--study", "s.yaml", f"--shard={shard}"]), capsys)  # noqa: B023
        assert re.search(rf"shard: '{shard}' is no part of a study; give i/n", line), line
    assert "study" in refused(lambda: parse_ablate([]), capsys)


def test_what_a_probe_measures_is_in_range(capsys: pytest.CaptureFixture) -> None:
    command = parse_probe(["run", "--images", "64", "--out", "page.html"])
    assert command == ProbeCommand(Path("run"), out=Path("page.html"), images=64)
    for option, value in (("images", "1"), ("timesteps", "1"), ("samples", "0"), ("seed", "-1")):
        line = refused(lambda: parse_probe(["run", f"--{option}", value]), capsys)  # noqa: B023
        assert re.search(rf"{option}: {value} is out of range; allowed: ", line), line


# -------------------------------------------------------------------------------------------------------- differences


def changed(**sections: dict) -> Config:
    return Config(**{name: section(**sections.get(name, {})) for name, section in SECTIONS.items()})


def test_differences() -> None:
    old = Config()
    assert differences(old, Config()) == {}
    new = changed(model={"channels": 64, "norm": "groupnorm"}, train={"batch_size": 8})
    assert differences(old, new) == {
        "model.channels": (32, 64), "model.norm": ("adagn", "groupnorm"), "train.batch_size": (64, 8),
    }


def test_what_may_change_does_not_count() -> None:
    keys = {f"{name}.{f.name}" for name, section in SECTIONS.items() for f in dataclasses.fields(section)}
    assert keys >= CHANGEABLE
    new = changed(
        data={"memory_gb": 1.0, "workers": 0},
        model={"gradient_checkpointing": True},
        train={"accumulation": 2, "checkpoint_every": 1, "keep_checkpoints": 9, "sample_every": 0, "max_skipped": 1},
        sample={"steps": 3, "guidance": 2.0},
        evaluation={"every": 10, "count": 20, "extractor": "dinov2", "metric": "accuracy", "steps": 3, "seed": 1},
        tracking={"wandb": "off"},
    )
    assert differences(Config(), new) == {}
    # What decides the weights may not: the randomness, the data, the model, the objective, the optimizer.
    assert not CHANGEABLE & {"train.seed", "train.batch_size", "train.steps", "data.source", "train.precision"}
    assert not [key for key in CHANGEABLE if key.startswith("diffusion.")]


def test_every_key_of_evaluation_may_change() -> None:
    keys = {f"evaluation.{f.name}" for f in dataclasses.fields(EvaluationConfig)}
    assert keys == {key for key in CHANGEABLE if key.startswith("evaluation.")}


def test_a_file_from_before_a_section_was_there_is_the_same_run() -> None:
    known = Config().to_dict()
    for name in ("evaluation", "tracking"):
        del known[name]
    Path("old.yaml").write_text(yaml.safe_dump(known))
    assert differences(read_config(Path("old.yaml")), changed(evaluation={"every": 10})) == {}


def test_more_steps_count_unless_the_rate_is_constant() -> None:
    def config(steps: int, decay: str) -> Config:
        return changed(train={"steps": steps, "decay": decay})

    assert differences(config(10, "constant"), config(20, "constant")) == {}
    assert differences(config(20, "constant"), config(10, "constant")) == {"train.steps": (20, 10)}
    assert differences(config(10, "cosine"), config(20, "cosine")) == {"train.steps": (10, 20)}
    assert "train.decay" in differences(config(10, "cosine"), config(20, "constant"))


def test_sections_refuse_values_out_of_range() -> None:
    for section, key, value in [
        (DataConfig, "resolution", 0),
        (DataConfig, "channels", 2),
        (DataConfig, "on_bad_image", "ignore"),
        (DataConfig, "memory_gb", 0),
        (DataConfig, "workers", -1),
        (ModelConfig, "channels", 0),
        (ModelConfig, "channel_mult", []),
        (ModelConfig, "channel_mult", [1, 0]),
        (ModelConfig, "num_res_blocks", 0),
        (ModelConfig, "head_channels", 0),
        (ModelConfig, "norm_groups", 0),
        (ModelConfig, "dropout", -0.1),
        (DiffusionConfig, "num_timesteps", 1),
        (DiffusionConfig, "label_dropout", 1.0),
        (TrainConfig, "accumulation", 0),
        (TrainConfig, "learning_rate", 0),
        (TrainConfig, "clip_norm", 0),
        (TrainConfig, "beta2", 1.0),
        (TrainConfig, "warmup_steps", -1),
        (TrainConfig, "decay", "linear"),
        (TrainConfig, "precision", "fp8"),
        (TrainConfig, "seed", 2**63),
        (TrainConfig, "keep_checkpoints", 0),
        (SampleConfig, "eta", 1.1),
        (SampleConfig, "guidance", -1),
        (SampleConfig, "seed", -1),
        (EvaluationConfig, "every", -1),
        (EvaluationConfig, "count", 1),
        (EvaluationConfig, "steps", 0),
        (EvaluationConfig, "guidance", -0.5),
        (EvaluationConfig, "seed", 2**62),
        (TrackingConfig, "wandb", "on"),
    ]:
        name = next(name for name, s in SECTIONS.items() if s is section)
        with pytest.raises(ValueError, match=rf"^{name}\.{key}: .* is out of range; allowed: "):
            section(**{key: value})
