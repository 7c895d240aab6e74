"""Show what the modulation of a trained model does, as one page: `python scripts/probe.py --help`."""

from ddpm.parsing import one_line_errors, parse_probe


def main() -> None:
    with one_line_errors():
        command = parse_probe()
        from ddpm.probe.probe import probe  # after the options are read: importing takes seconds

        probe(command)


if __name__ == "__main__":
    main()
