"""YAML as configurations use it: every plain value is text, and the type of the option decides what the text means.

YAML itself would read `off` as false, `010` as 8, `1:30` as 90, and `1e-4` as text. Only null (`null`, `~` or nothing)
is not text here, so a value in a file means what it means on the command line. Syntax errors are sentences of our own.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from ddpm.text_encoding import decode_text

_TAG = "tag:yaml.org,2002:"     # of YAML's own types


def parse_yaml(content: bytes | str) -> Any:
    """Return the content of a YAML document, as dicts, lists, strings and None.

    Args:
        content: text, or the bytes of a file in UTF-8 or UTF-16.

    Raises:
        ValueError: if it is not valid YAML, or a name occurs twice in a mapping; one line that names the line.
    """
    try:
        text = content if isinstance(content, str) else decode_text(content)
        return yaml.load(text, _Texts)
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise ValueError("is not a text file; give a file of names and values, in UTF-8") from None
    except yaml.MarkedYAMLError as problem:
        raise ValueError(_explain(problem, text.splitlines())) from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def dump_yaml(content: Any) -> str:
    """Return dicts, lists and plain values as YAML, which `parse_yaml` and any other YAML reader read back equal."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


class _Texts(yaml.SafeLoader):
    """Read every plain scalar as text, except null. A name may occur once; PyYAML would keep the last of several."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _problem("names and values are expected", node)
        found = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":       # <<: *anchor
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem("a name must be text", key_node)
            if key_node.value in found:
                raise _problem(f"{key_node.value!r} occurs twice; remove one", key_node)
            found.add(key_node.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}

    def construct_text(self, node: yaml.Node) -> Any:
        return self.construct_scalar(node)

    def construct_unknown(self, node: yaml.Node) -> Any:
        raise _problem(f"{node.tag.replace(_TAG, '!!')} is not supported; remove it", node)


_Texts.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Texts.yaml_constructors = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    **{f"{_TAG}{name}": _Texts.construct_text for name in ("str", "int", "float", "bool")},
    None: _Texts.construct_unknown,
}


class _Dumper(yaml.SafeDumper):
    """Write what reads back equal, and every value in full; PyYAML would write references to equal objects."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Write unusual line breaks as escapes; PyYAML would write some of them as they are, and read a space."""
        return self.represent_scalar(f"{_TAG}str", text, style='"' if re.search("[\x85\u2028\u2029]", text) else None)


_Dumper.add_representer(str, _Dumper.represent_text)


class _Problem(yaml.MarkedYAMLError):
    """A problem that is already described in our words."""


def _problem(words: str, node: yaml.Node) -> _Problem:
    return _Problem(problem=words, problem_mark=node.start_mark)


def _explain(problem: yaml.MarkedYAMLError, lines: list[str]) -> str:
    """Return one line that says where the problem is and how to correct it."""
    mark = problem.problem_mark or problem.context_mark
    if isinstance(problem, _Problem):
        return f"line {mark.line + 1}: {problem.problem}"
    said = f"{problem.context or ''} / {problem.problem or ''}"
    words = next((words for pattern, words in _EXPLANATIONS.items() if re.search(pattern, said)), _OTHERWISE)
    if words in _ABOUT_THE_BEGINNING and problem.context_mark is not None:
        mark = problem.context_mark
    if callable(words):
        return words(lines, mark.line)
    return f"line {mark.line + 1}: {words}"


def _explain_colon(lines: list[str], at: int) -> str:
    """Return what is wrong where a colon is not allowed: in this line or in the one above."""
    above = next((i for i in reversed(range(at)) if lines[i].strip() and not lines[i].lstrip().startswith("#")), None)
    if len(re.findall(r":(?=\s|$)", lines[at])) > 1:
        return f"line {at + 1}: has two colons; put a value that contains a colon in quotes"
    if above is not None and not re.search(r":(\s|$)", lines[above]):
        return f"line {above + 1}: {_NO_COLON}"
    return f"line {at + 1}: {_INDENTATION}"


_Words = str | Callable[[list[str], int], str]
_QUOTES = "a value that begins with a special character such as * & ! | > % @ or ` must be in quotes"
_NO_COLON = "the colon is missing; write NAME: VALUE, with a space after the colon"
_BRACKET = "a bracket that opens here is not closed, a comma is missing, or a value with a bracket is not in quotes"
_QUOTE = "the quote that opens here is not closed"
_INDENTATION = "the indentation differs from the lines above; indent the options of a section equally"
_OTHERWISE = "cannot be read; check the colons, quotes, brackets and the indentation"
_ABOUT_THE_BEGINNING = (_NO_COLON, _BRACKET, _QUOTE)        # of what PyYAML was reading, instead of where it stopped
# What PyYAML says, and what we say instead. The first match counts.
_EXPLANATIONS: dict[str, _Words] = {
    r"\\t|tab character": "has a tab; use spaces instead",
    r"mapping values are not allowed": _explain_colon,
    r"sequence entries are not allowed": "an unexpected dash; write a list as [1, 2]",
    r"quoted scalar / found unexpected (end|document)": _QUOTE,
    r"escape": "a backslash in double quotes needs another one; use single quotes instead",
    r"could not find expected ':'": _NO_COLON,
    r"parsing a flow (sequence|mapping)": _BRACKET,
    r"(block end|document start).*(start>|'-'|entry)": _INDENTATION,
    r"block end.*scalar": "text follows a value in quotes; put the whole value in quotes, and double a quote inside",
    r"single document": "a second document begins; remove the line ---",
    r"alias|anchor|tag|directive|block scalar|cannot start any token": _QUOTES,
}
