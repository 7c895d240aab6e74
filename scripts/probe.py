"""Show what the modulation of a trained model does, as one page: `python scripts/probe.py --help`."""

from ddpm.cli.command_lines import parse_probe
from ddpm.cli.errors import one_line_errors


def main() -> None:
    with one_line_errors():
        command = parse_probe()
        from ddpm.lab.probe.probe import probe  # after the options are read: importing takes seconds

        probe(command)


if __name__ == "__main__":
    main()
