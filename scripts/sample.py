"""Draw images of chosen classes from a trained model: `python scripts/sample.py --help`."""

from ddpm.commands import one_line_errors, parse_sample


def main() -> None:
    with one_line_errors():
        command = parse_sample()
        from ddpm.pipeline import sample_to_folder  # after the options are read: importing takes seconds

        sample_to_folder(command.model, command.classes, command.settings(), command.folder, npz=command.npz)


if __name__ == "__main__":
    main()
