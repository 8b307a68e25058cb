"""The report of `explain` as a picture for notebooks."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from unified_loss import explain
from unified_loss._explain._picture import STYLE

SIZES = st.lists(st.sampled_from(["0", "1", "2", "3", "?"]), max_size=5).map(",".join)


def parsed(report: Any) -> ET.Element:
    """The picture as a tree; raises where a tag is not closed or a character not escaped."""
    return ET.fromstring(report._repr_html_())  # noqa: S314 - of our own making


def boxes(report: Any) -> list[str]:
    """One text for each box, row by row: state, axis, size and role."""
    found = []
    for element in parsed(report).iter("div"):
        kinds = element.get("class", "").split()
        if kinds[:1] == ["box"]:
            found.append(" ".join([kinds[1], *"".join(element.itertext()).split()[1:]]))
        elif kinds[:1] == ["none"]:
            found.append(" ".join(kinds))
    return found


# The texts of a box run together: axis, size, sign and role.
DRAWN = {
    "index": (
        explain((640, 20), (640,)),
        ["same 0640= batch", "classes 120C classes", "same 0640= batch", "none"],
    ),
    "kept": (
        explain((8, 5, 4), (8, 1, 4)),
        ["same 08= batch", "classes 15C classes", "same 24= batch",
         "same 08= batch", "classes 11C kept", "same 24= batch"],
    ),
    "differs": (
        explain((32, 10), "f32[10, 10]"),
        ["differs 032≠ batch", "classes 110C classes", "differs 010≠ batch",
         "classes 110C classes"],
    ),
    "float column": (
        explain((32, 10), "f32[32, 1]"),
        ["same 032= batch", "differs 110≠ classes", "same 032= batch", "differs 11≠ classes"],
    ),
    "too many": (
        explain((32, 10), (32, 10, 1)),
        ["same 032= batch", "classes 110C classes", "none differs",
         "same 032= batch", "classes 110C classes", "differs 21≠ too many"],
    ),
    "too few": (
        explain((32, 10), ()),
        ["differs 032≠ batch", "classes 110C classes", "none differs", "none"],
    ),
    "open": (
        explain("[?, 3]", "[?]"),
        ["open 0?? batch", "classes 13C classes", "open 0?? batch", "none"],
    ),
    "best candidate": (
        explain((8, 3, 7), (8, 4)),
        ["same 08= batch", "classes 13C classes?", "differs 27≠ batch",
         "same 08= batch", "none", "differs 14≠ batch"],
    ),
    "unknown rank": (explain("[...]", "[3]", axis=0), []),
    "no shape": (explain(np.zeros((2, 3)), None), []),
    "no axis": (explain((), (2,)), ["none differs", "differs 02≠ too many"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_drawn_side_by_side(name: str) -> None:
    """One box for each axis, with size, role and whether it fits."""
    report, expected = DRAWN[name]
    assert boxes(report) == expected


def test_legend_names_the_states_that_are_drawn() -> None:
    """No color without a word, and no word without a color."""
    keys = [
        "".join(element.itertext())
        for element in parsed(explain((32, 10), (10,))).iter("span")
        if element.get("class", "").startswith("key")
    ]
    assert keys == ["C class axis", "≠ does not fit"]


def test_text_is_that_of_the_terminal() -> None:
    """The facts of a valid call, the diagnosis of another, and the warnings."""
    valid = explain(np.zeros((2, 1)), [0, 0])
    tree = parsed(valid)
    told = dict(zip((e.text for e in tree.iter("dt")), (e.text for e in tree.iter("dd")),
                    strict=True))  # fmt: skip
    assert told == {**dict(valid.facts), "warning": valid.warnings[0]}
    wrong = explain((32, 10), (10, 10))
    assert [element.text for element in parsed(wrong).iter("pre")] == [str(wrong.error)]


def test_text_is_escaped() -> None:
    """Nothing that a caller passes becomes a tag."""
    report = explain((2, 3), (2,), reduction="<script>&")
    assert "<script>" not in report._repr_html_()
    assert "<script>&" in str(report)
    assert "<script>&" in "".join(parsed(report).itertext())


@hypothesis.given(SIZES, SIZES, st.sampled_from(["float32", "int64"]), st.none() | st.just(1))
def test_every_picture_is_well_formed(
    logits: str, labels: str, dtype: str, axis: int | None
) -> None:
    """Whatever the shapes, as many boxes as axes, and one more where one is missing."""
    report = explain(f"float32[{logits}]", f"{dtype}[{labels}]", axis=axis)
    ranks = [len(sizes.split(",")) if sizes else 0 for sizes in (logits, labels)]
    drawings = parsed(report).findall(".//div[@class='axes']")
    assert len(boxes(report)) == 2 * max(ranks) * len(drawings)
    assert len(drawings) in {1, 2}
    assert report.valid <= (not any(box.startswith("differs") for box in boxes(report)))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors, as web accessibility guidelines define it."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("place", "paper"), [(0, "#ffffff"), (1, "#111111")])
def test_colors_can_be_read_in_both_schemes(place: int, paper: str) -> None:
    """Text of 4.5 to 1 and more, on light paper and on dark; by media query and in notebooks."""
    schemes = re.findall(r"\{--same:(#\w+);--classes:(#\w+);\s*--differs:(#\w+);\s*--open:(#\w+)",
                         STYLE)  # fmt: skip
    assert "@media (prefers-color-scheme:dark)" in STYLE
    assert len(schemes) == 4
    assert schemes[place] == schemes[place + 2]
    assert all(contrast(color, paper) >= 4.5 for color in schemes[place])


def test_words_stay_whole_inside_jupyter() -> None:
    """Its output area breaks the words of a `pre`."""
    (rule,) = re.findall(r"\.unified-loss pre\{([^}]*)\}", STYLE)
    assert "word-break:normal!important" in rule


def test_two_readings_are_two_drawings() -> None:
    """Neither of two axes that fit alike is drawn as if it were the one."""
    both = explain((8, 5, 5), (8, 5))
    text = "".join(parsed(both).itertext())
    assert "with the classes on axis 1:" in text
    assert "with the classes on axis 2:" in text
    assert boxes(both) == [
        "same 08= batch", "classes 15C classes?", "same 25= batch",
        "same 08= batch", "none", "same 15= batch",
        "same 08= batch", "same 15= batch", "classes 25C classes?",
        "same 08= batch", "same 15= batch", "none",
    ]  # fmt: skip
    assert text.count("C class axis") == 1
    assert "with the classes on axis" not in explain((8, 5, 4), (8, 5))._repr_html_()
