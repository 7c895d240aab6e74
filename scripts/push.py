"""Share a trained model on the Hugging Face hub: `python scripts/push.py --help`."""

from ddpm.cli.command_lines import parse_push
from ddpm.cli.errors import one_line_errors


def main() -> None:
    with one_line_errors():
        command = parse_push()
        from ddpm.io.hub import push  # after the options are read: importing takes seconds

        push(command.model, command.to, command.license, command.private, command.dry_run)


if __name__ == "__main__":
    main()
