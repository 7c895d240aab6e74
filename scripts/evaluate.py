"""Measure how good a model's images are, with error bars: `python scripts/evaluate.py --help`."""

from ddpm.cli.command_lines import parse_evaluate
from ddpm.cli.errors import one_line_errors
from ddpm.config.yaml_files import sample_settings


def main() -> None:
    with one_line_errors():
        command = parse_evaluate()
        settings = sample_settings(command)
        from ddpm.evaluation.evaluate import evaluate  # after the options are read: importing takes seconds

        evaluate(command, settings)


if __name__ == "__main__":
    main()
