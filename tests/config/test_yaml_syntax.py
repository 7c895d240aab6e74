"""YAML: plain values are text until an option gives them a type, what is written reads back, mistakes are sentences."""

import codecs
import random
import string
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm.config.sections import OPTIONS, Config
from ddpm.config.values import choices, members
from ddpm.config.yaml_files import read_config
from ddpm.config.yaml_syntax import dump_yaml, parse_yaml

# Words that YAML 1.1 takes for other values, or that look like syntax.
WORDS = [
    "off", "no", "on", "yes", "y", "n", "true", "false", "True", "null", "Null", "NULL", "~", "none", "None",
    "1e-4", "1_000", "0o10", "010", "0x1f", "1:30", "12:30:45", "2024-01-01", "2024-01-01T00:00:00Z", ".inf",
    "-.inf", ".nan", "nan", "1.0", "-1", "+1", "1.", ".5", "1,2", "[1]", "{a: 1}", "a: b", "a #b", "#a", "- a",
    "-", "?", ":", "!a", "&a", "*a", "|", ">", "%a", "@a", "`a`", "'a'", '"a"', " a", "a ", "a  b", "a\tb",
    "a\nb", "a\n", "\ta", "\\", "C:\\data", "ä", "猫", "😀", "\u0085", "\u2028", "\ufeff", "\x07", "<<", "=",
    "---", "...", "a" * 300, "word " * 60,
]


@pytest.mark.parametrize(
    "word", ["off", "no", "on", "yes", "true", "1e-4", "1_000", "0o10", "1:30", "2024-01-01", "3", ".5"]
)
def test_a_plain_value_is_the_text_that_was_typed(word: str) -> None:
    assert parse_yaml(f"a: {word}\nb: [{word}]\n{word}: c\n") == {"a": word, "b": [word], word: "c"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_files_of_any_encoding_get_the_same_explanations(encoding: str, refused) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    assert parse_yaml(mark + "train:\n  steps: 3ä\n".encode(encoding)) == {"train": {"steps": "3ä"}}
    with refused("line 2", "colon"):
        parse_yaml(mark + "train:\n  steps 3\n  seed: 3\n".encode(encoding))
    with refused("text file"):
        parse_yaml("a: ä".encode("latin-1"))


@pytest.mark.parametrize("word", ["null", "~", ""])
def test_null_is_none_unless_it_is_in_quotes(word: str) -> None:
    assert parse_yaml(f"a: {word}\nb: '{word}'\n") == {"a": None, "b": word}


@pytest.mark.parametrize("word", WORDS)
def test_texts_read_back_equal(word: str) -> None:
    content = {"a": word, "b": {"c": [word, word]}, "d": {word: "e"}}
    assert parse_yaml(dump_yaml(content)) == content


@pytest.mark.parametrize("word", [word for word in WORDS if word.strip()])
def test_texts_of_options_read_back_equal(word: str, tmp_path: Path) -> None:
    texts = [name for name, kind in OPTIONS.items() if str in members(kind) and not choices(kind)]
    config = Config().with_options(dict.fromkeys(texts, word))
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config
    assert config.tracking.wandb_project == word


def test_random_configurations_read_back_equal(tmp_path: Path) -> None:
    rng, file = random.Random(0), tmp_path / "config.yaml"
    letters = string.printable + "äß猫😀\u2028\x85"

    def value(kind: Any) -> Any:
        kind = rng.choice(members(kind))
        number = rng.choice([1, 3, 2**40, 1e-4, 1e300, 0.1 + 0.2, 5e-324, 123456789.125])
        words = choices(kind)
        plain = {int: int(min(number, 2**40)) + 2, float: number, bool: rng.random() < 0.5, type(None): None}
        plain[str] = "x" + "".join(rng.choices(letters, k=rng.randrange(1, 30)))
        return rng.choice(words) if words else plain.get(kind)

    tried = 0
    for _ in range(300):
        options = {name: value(kind) for name, kind in OPTIONS.items() if rng.random() < 0.3}
        try:
            config = Config().with_options({name: value for name, value in options.items() if value is not None})
        except ValueError:      # out of range
            continue
        tried += 1
        file.write_text(config.to_yaml(), encoding="utf-8", newline="")
        assert read_config(file) == config
        assert yaml.safe_load(config.to_yaml()).keys() == config.to_dict().keys()      # other readers can read it too
    assert tried >= 20


def test_infinity_reads_back(tmp_path: Path) -> None:
    config = Config().with_options({"train.max_grad_norm": ".inf", "sample.guidance_interval": [1, float("inf")]})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert read_config(tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match=r"^train\.learning_rate: inf .*above 0"):
        Config().with_options({"train.learning_rate": ".inf"})


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa: \xc3\xa4\r\n", "a: ä\n".encode("utf-16"), "a: ä".encode()])
def test_encodings_of_editors(content: bytes) -> None:
    assert parse_yaml(content) == {"a": "ä"}


# A file, the line that the message names, and texts that it contains.
MISTAKES: dict[str, tuple[str, int, list[str]]] = {
    "tab": ("model:\n\tchannels: 3\n", 2, ["tab", "spaces"]),
    "tab after a colon": ("steps:\t3\n", 1, ["tab", "spaces"]),
    "bracket": ("a: 1\nb: [1, 2\n", 2, ["bracket"]),
    "brace": ("a: {b: 1\nc: 2\n", 1, ["bracket"]),
    "slice in braces": ("a: {split: train[:80%]}\n", 1, ["bracket", "quotes"]),
    "no colon": ("model:\n  channels 64\n  norm: adagn\n", 2, ["colon"]),
    "no colon after a section": ("train\n  steps: 3\n", 1, ["colon"]),
    "no colon at the end": ("model:\n  norm: adagn\n  channels\n", 3, ["colon"]),
    "two colons": ("a: b: c\n", 1, ["colon", "quotes"]),
    "deeper": ("a: 1\n  b: 2\n", 2, ["indentation"]),
    "less deep": ("a:\n   b: 1\n  c: 2\n", 3, ["indentation"]),
    "less deep than the first": ("  a: 1\n b: 2\n", 2, ["indentation"]),
    "quote": ("a: 'x\nb: y\n", 1, ["quote"]),
    "double quote": ('a: "x\n', 1, ["quote"]),
    "quote within quotes": ("a: 'it's'\n", 1, ["quote"]),
    "backslash": ('a: "C:\\data"\n', 1, ["backslash", "single quotes"]),
    "star": ("a: *.png\n", 1, ["*", "quotes"]),
    "at": ("a: @x\n", 1, ["@", "quotes"]),
    "percent": ("a: %x\n", 1, ["%", "quotes"]),
    "dash": ("a: - 1\n", 1, ["dash", "[1, 2]"]),
    "python object": ("a: !!python/object/apply:os.system [ls]\n", 1, ["!!python", "remove"]),
    "own tag": ("a: !secret x\n", 1, ["!secret", "remove"]),
    "date": ("a: !!timestamp x\n", 1, ["!!timestamp", "remove"]),
    "two documents": ("a: 1\n---\nb: 2\n", 2, ["---"]),
    "list as a name": ("? [a]\n: 3\n", 1, ["name"]),
    "twice": ("a: 1\nb: 2\na: 3\n", 3, ["'a'", "twice", "remove"]),
    "twice in another spelling": ("a: 1\n'a': 3\n", 2, ["'a'", "twice", "remove"]),
    "twice in an anchor": ("a: &a {b: 1, b: 2}\nc: *a\n", 1, ["'b'", "twice"]),
}
LIBRARY_WORDS = ("yaml", "block", "token", "scalar", "mapping", "node", "stream", "<", "^", "Error")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_sentences_that_name_the_line(mistake: str) -> None:
    content, line, named = MISTAKES[mistake]
    with pytest.raises(ValueError) as refused:
        parse_yaml(content)
    message = str(refused.value)
    assert message.startswith(f"line {line}: ") and "\n" not in message
    assert [text for text in named if text not in message] == []
    assert [word for word in LIBRARY_WORDS if word in message] == []


def test_damaged_files_are_one_line_in_our_words(tmp_path: Path) -> None:
    """Characters of a configuration are removed, doubled, moved and replaced at random."""
    rng, original, file = random.Random(0), Config().to_yaml(), tmp_path / "config.yaml"
    for _ in range(400):
        text = list("\n".join(rng.sample(original.splitlines(), 12)) if rng.random() < 0.3 else original[:600])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(2)] = rng.choice([*"[]{}:,'\"\\#&*!|>%@`-?\t\n\0 äé", "", ": ", "\n  ", "- "])
        file.write_text("".join(text), encoding="utf-8")
        try:
            read_config(file)
        except ValueError as problem:
            message = str(problem)
            assert message.startswith(f"{file}: ") and "\n" not in message
            rest = message.removeprefix(f"{file}: ")
            assert [word for word in ("yaml", "scalar", "<", "^", "Error") if word in rest] == [], rest


def test_anchors_that_multiply_do_not_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "model: *a29"]))
    with pytest.raises(ValueError) as refused:
        read_config(tmp_path / "config.yaml")
    assert len(str(refused.value)) < 2000
