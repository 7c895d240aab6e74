"""Command lines and configuration files -> dataclasses. Nothing else reads argv or the YAML of a configuration."""

from ddpm.parsing.command_lines import (
    parse,
    parse_ablate,
    parse_compare,
    parse_convert,
    parse_evaluate,
    parse_probe,
    parse_push,
    parse_sample,
    parse_train,
)
from ddpm.parsing.errors import fail, one_line_errors
from ddpm.parsing.files import read_config, read_flags, run_of, sample_settings
from ddpm.parsing.studies import read_study, study_text

__all__ = [
    "fail",
    "one_line_errors",
    "parse",
    "parse_ablate",
    "parse_compare",
    "parse_convert",
    "parse_evaluate",
    "parse_probe",
    "parse_push",
    "parse_sample",
    "parse_train",
    "read_config",
    "read_flags",
    "read_study",
    "run_of",
    "sample_settings",
    "study_text",
]
