"""Set runs side by side, as a table and one HTML page: `python scripts/compare.py --help`."""

from ddpm.parsing import one_line_errors, parse_compare


def main() -> None:
    with one_line_errors():
        command = parse_compare()
        from ddpm.analysis.report import report  # after the options are read: importing takes seconds

        report(command.runs, command.out)


if __name__ == "__main__":
    main()
