"""The code in README.md and docs: blocks, code inside of lines, and commands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *(ROOT / "docs").glob("*.md")]


def blocks(document: Path, language: str = "") -> list[str]:
    """Return the code blocks of a document that have a language, or none."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [text for of_block, text in found if of_block == language]


def spans(document: Path) -> list[str]:
    """Return the code inside of lines."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def code(document: Path) -> Iterator[str]:
    """Yield the lines of the code blocks without a language, continued lines joined, and the code inside of lines."""
    for block in blocks(document):
        yield from block.replace("\\\n", " ").splitlines()
    yield from spans(document)


def commands(program: str) -> list[tuple[str, str, list[str]]]:
    """Return (document, path of the script, arguments) of all commands that run a Python file in a folder."""
    found = []
    for document in DOCUMENTS:
        for line in code(document):
            command = re.search(rf"(?:python|accelerate launch\b.*) ({program}/\w+\.py)(.*)", line)
            if command:
                found.append((document.name, command[1], shlex.split(command[2], comments=True)))
    return found
