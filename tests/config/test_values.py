"""Plain values become values of a field's type, or one line says what is allowed."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from ddpm.config.values import CheckedOptions, accepts_list, at_least, convert_mapping, convert_value

Color = Literal["red", "green", "off"]

CONVERTED = [
    (3, int, 3),
    ("3", int, 3),
    ("-1", int, -1),
    (3, float, 3.0),
    ("1e-3", float, 0.001),
    (".5", float, 0.5),
    (math.inf, float, math.inf),
    (True, bool, True),
    ("TRUE", bool, True),
    ("no", bool, False),
    ("off", bool, False),
    ("3", str, "3"),
    ("null", str, "null"),
    ("a/b", Path, Path("a/b")),
    (Path("a"), Path, Path("a")),
    (None, int | None, None),
    ("7", int | None, 7),
    (None, str | None, None),
    ("null", str | None, None),
    ("None", str | None, None),
    ("~", list[float] | None, None),
    ("none", Literal["none", "all"] | None, "none"),
    ("red", Color, "red"),
    ("off", Color, "off"),
    (None, Color | None, None),
    ([1, "2"], list[float], [1.0, 2.0]),
    ((1, 2), list[int], [1, 2]),
    ([], list[int], []),
    (["a"], list[Path], [Path("a")]),
    ("1,2, 4", list[int], [1, 2, 4]),
    ("[1, '2']", list[float], [1.0, 2.0]),
    ("[]", list[int], []),
    ("8", list[int], [8]),
    (8, list[int], [8]),
    ("4,8", list[int] | Color, [4, 8]),
    ("red,off", list[Color], ["red", "off"]),
    (".inf", float, math.inf),
    ("1_000", int, 1000),
    ("010", int, 10),
    ("red", list[int] | Color, "red"),
    ([4], list[int] | Color, [4]),
    ([0.3, 3], list[float] | None, [0.3, 3.0]),
]


@pytest.mark.parametrize(("value", "kind", "expected"), CONVERTED)
def test_values_are_converted(value: Any, kind: Any, expected: Any) -> None:
    found = convert_value(value, kind, "key")
    assert found == expected and type(found) is type(expected)
    if isinstance(expected, list):
        assert [type(entry) for entry in found] == [type(entry) for entry in expected]
    assert convert_value(found, kind, "key") == found


REFUSED: list[tuple[Any, Any, list[str]]] = [
    ("abc", int, ["'abc'", "whole number"]),
    (1.5, int, ["1.5", "whole number"]),
    (10.0, int, ["10.0", "whole number"]),
    ("1.5", int, ["'1.5'", "whole number"]),
    (True, int, ["True", "whole number"]),
    (None, int, ["None", "whole number"]),
    (True, float, ["True", "number"]),
    ("nan", float, ["'nan'", "number"]),
    (math.nan, float, ["nan", "number"]),
    ("inf", float, ["'inf'", "number"]),
    ("1e400", float, ["'1e400'", "number"]),
    ([1], float, ["[1]", "number"]),
    (1, bool, ["1", "true", "false"]),
    ("y", bool, ["'y'", "true", "false"]),
    (3, str, ["3", "text"]),
    (False, str, ["False", "text"]),
    (3, Path, ["3", "path"]),
    ("rod", Color, ["'rod'", "red, green, off", "did you mean red?"]),
    (False, Color, ["False", "red, green, off"]),
    ("x", list[int], ["'x'", "list", "[8, 16]"]),
    ("8 16", list[int], ["'8 16'", "8,16"]),
    ("8,x", list[int], ["'8,x'", "'x' is not a whole number"]),
    ("[8", list[int], ["'[8'", "bracket"]),
    ("", list[int], ["''", "list"]),
    (True, list[int], ["True", "list"]),
    ([[8]], list[int], ["[[8]]", "list"]),
    ("red,rod", list[Color], ["'red,rod'", "red, green, off"]),
    ("0o10", int, ["'0o10'", "whole number"]),
    ("1:30", int, ["'1:30'", "whole number"]),
    ("9" * 40, int, ["999", "2^63 - 1"]),
    (10**30, int, ["1000", "2^63 - 1"]),
    ("a\0b", str, ["text"]),
    ("null", int, ["'null'", "whole number"]),
    ([1, "x"], list[float], ["'x'", "list of numbers"]),
    ([4.0], list[int] | Color, ["[4.0]", "list of whole numbers", "red, green, off"]),
    ("gren", list[int] | Color, ["'gren'", "did you mean green?"]),
    ("x", int | None, ["'x'", "whole number", "null"]),
]


@pytest.mark.parametrize(("value", "kind", "named"), REFUSED)
def test_other_values_are_refused_in_one_line(value: Any, kind: Any, named: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        convert_value(value, kind, "section.key")
    message = str(refused.value)
    assert message.startswith("section.key: ") and "\n" not in message
    assert [text for text in named if text not in message] == []


def test_a_mapping_may_hold_known_names_only() -> None:
    kinds = {"steps": int, "rate": float}
    assert convert_mapping({"rate": 1}, kinds) == {"rate": 1.0}
    with pytest.raises(ValueError, match=r"^stesp .*steps"):
        convert_mapping({"stesp": 1}, kinds)
    with pytest.raises(ValueError, match=r"^steps: 'x'"):
        convert_mapping({"steps": "x"}, kinds)


@dataclass(frozen=True)
class Example(CheckedOptions, section="example"):
    rate: Annotated[float, at_least(0)] = 1
    sizes: list[int] = dataclasses.field(default_factory=list)


def test_fields_of_a_dataclass_are_converted_and_checked() -> None:
    assert type(Example().rate) is float and Example(rate="2").rate == 2.0
    assert Example(sizes=("8",)).sizes == [8]
    with pytest.raises(ValueError, match=r"^example\.sizes: 'a' .*list"):
        Example(sizes="a")
    with pytest.raises(ValueError, match=r"^example\.rate: -1\.0 .*0 or more"):
        Example(rate=-1)


def test_what_a_type_accepts() -> None:
    assert accepts_list(list[int] | Color) and accepts_list(list[float] | None) and not accepts_list(str | None)


def test_null_is_offered_in_a_file_but_not_for_an_option_of_a_command() -> None:
    for offer_null in (True, False):
        with pytest.raises(ValueError, match="rod") as refused:
            convert_value("rod", Color | None, "key", offer_null=offer_null)
        assert ("null" in str(refused.value)) == offer_null
