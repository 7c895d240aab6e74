"""Draw images of chosen classes from a trained model: `python scripts/sample.py --help`."""

from ddpm.cli.command_lines import parse_sample
from ddpm.cli.errors import one_line_errors
from ddpm.config.yaml_files import sample_settings


def main() -> None:
    with one_line_errors():
        command = parse_sample()
        settings = sample_settings(command)
        from ddpm.io.sample_folder import sample_to_folder  # after the options are read: importing takes seconds

        sample_to_folder(
            command.model,
            command.classes,
            settings,
            command.out,
            command.format,
            command.guide,
            command.blend,
            command.walk,
            command.swap,
        )


if __name__ == "__main__":
    main()
