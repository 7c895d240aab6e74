"""Set runs side by side, as a table and one HTML page: `python scripts/compare.py --help`."""

from ddpm.cli.command_lines import parse_compare
from ddpm.cli.errors import one_line_errors


def main() -> None:
    with one_line_errors():
        command = parse_compare()
        from ddpm.lab.comparison.compare import write_comparison  # after the options are read: importing takes seconds

        write_comparison(command.runs, command.out)


if __name__ == "__main__":
    main()
