"""Names in pictures: drawn if the font has their letters, and replaced if not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from ddpm.io.captions import caption, class_captions, describe_captions, load_font, wrap

DRAWN = ["cat", "Ünïcode", "кошка", "γάτα", "ծառ", "կատու", "n01440764", "a\u0301", "two\nlines", "", "½ €", "…"]
NOT_DRAWN = ["猫", "cat 猫", "日本語", "고양이", "बिल्ली", "\U0001f9a9"]


def ink(text: str) -> np.ndarray:
    sheet = Image.new("L", (100, 30))
    ImageDraw.Draw(sheet).text((2, 2), text, 255, load_font(20))
    return np.asarray(sheet)


@pytest.mark.parametrize("name", DRAWN)
def test_names_that_are_drawn(name: str) -> None:
    assert caption(name, "class 0") == name


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_names_that_are_replaced(name: str) -> None:
    assert caption(name, "class 0") == "class 0"


@pytest.mark.parametrize("letter", "aßЖωԱ猫語고ब")
def test_a_letter_is_replaced_if_and_only_if_a_box_would_be_drawn(letter: str) -> None:
    """No font has a letter for the last code points of Unicode, so that these are drawn as the box."""
    is_box = np.array_equal(ink(letter), ink("\U0010fffd"))
    assert (caption(letter, "box") == "box") == is_box


@pytest.mark.parametrize("name", ["قطة", "חתול"])
def test_letters_from_right_to_left_need_a_library_that_orders_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(features, "check", lambda library, there=there: there)
        assert caption(name, "class 0") == (name if there else "class 0")


def test_which_class_has_which_id_is_said() -> None:
    names = ["cat", "猫", "кошка", "犬"]
    assert class_captions(names) == ["cat", "class 1", "кошка", "class 3"]
    told = describe_captions(names)
    assert told is not None and "class 1 is 猫" in told and "class 3 is 犬" in told and "cat" not in told
    assert describe_captions(["cat", "кошка"]) is None and describe_captions([]) is None
    assert len(describe_captions(["猫" * i for i in range(1, 100)])) < 200


@pytest.mark.parametrize("name", [
    "", "cat", "a bird of the northern hemisphere and elsewhere", "n01440764_tench_Tinca_tinca_of_the_north" * 3,
    "line\nbreak", "日本語" * 30, "W", " ", "  two  spaces  ",
])
@pytest.mark.parametrize("width", [20, 96, 300])
def test_captions_fit(name: str, width: int) -> None:
    lines = wrap(name, load_font(12), width, 2).split("\n")
    assert len(lines) <= 2 and all(load_font(12).getlength(line) <= width for line in lines)
    whole = "".join(x if x.isprintable() else " " for x in name)
    if "…" not in lines[-1]:
        assert "".join(lines).replace(" ", "") == whole.replace(" ", "")
    else:
        assert whole.replace(" ", "").startswith("".join(lines)[:-1].replace(" ", ""))
    assert width < 300 or len(name) > 40 or "…" not in lines[-1]


def test_captions_break_at_spaces() -> None:
    assert wrap("common tench", load_font(12), 60, 2) == "common\ntench"
