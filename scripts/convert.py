"""Convert models of other programs to this one, and back to diffusers: `python scripts/convert.py --help`."""

from ddpm.cli.command_lines import parse_convert
from ddpm.cli.errors import one_line_errors
from ddpm.config.yaml_files import read_flags


def main() -> None:
    with one_line_errors():
        command = parse_convert()
        flags = None if command.flags is None else read_flags(command.flags)
        from ddpm.io.conversion import convert  # after the options are read: importing takes seconds

        convert(
            command.model,
            command.out,
            command.to,
            preset=command.preset,
            flags=flags,
            class_names=command.class_names,
            null_class=command.null_class,
            schedule=command.schedule,
            num_timesteps=command.num_timesteps,
            prediction=command.prediction,
        )


if __name__ == "__main__":
    main()
