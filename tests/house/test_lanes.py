"""A placement as text: what is written is read again, and what is none is refused with the part named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import lanes

placements = st.integers(1, 6).flatmap(
    lambda things: st.lists(st.lists(st.integers(0, 3), min_size=things, max_size=things), min_size=1, max_size=7)
)


@settings(deadline=None, max_examples=60)
@given(placements)
def test_what_is_written_is_read_again(rows):
    assert lanes.read(lanes.write(rows)) == tuple(map(tuple, rows))


def test_the_form_is_short_and_spacing_is_free():
    rows = [(2, 2, 2, 3), (2, 2, 2, 3), (0, 2, 2, 3), (2, 2, 2, 3)]
    assert lanes.write(rows) == "0-1, 3: 2x3 3; 2: 0 2x2 3"
    assert lanes.read(" 0 - 1,3 : 2x3  3\n\n2:0 2x2 3;") == tuple(rows)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is nothing in it"),
        ("0: 2x4; one: 2", "'one: 2' is not a part like"),
        ("0: 1; 0-1: 1", "0 is told twice"),
        ("0: 1; 2: 1", "1 is missing, and there is a 2"),
        ("0: 1 2; 1: 1", "1 has 1 things, 0 has 2"),
        ("0: 2x", "'2x' is neither a lane nor"),
        ("0:  ", "is not a part like"),
        ("3-1: 2", "'3-1' is neither a sheet nor"),
        ("0-9999: 1", "10000 sheets: 4096 at most"),
        ("0: " + "1x9999 " * 9999, "9999 things and more in a sheet: 4096 at most"),
    ],
)
def test_what_is_none_is_refused(text, said):
    with pytest.raises(lanes.LanesError, match=said):
        lanes.read(text)


def test_the_emptiest_lane_is_by_weight():
    places = [lanes.Lane("a", "x"), lanes.Lane("b", "y"), lanes.Lane("c", "y")]
    rows = ((1, 1, 2, 0),)
    alike = lanes.Board("f", places, rows, "thing", "sheet")
    assert alike.emptiest("y", 0, rows) == 2
    heavy = lanes.Board("f", places, rows, "thing", "sheet", weights=((0.1, 0.1, 0.7, 0.1),))
    assert heavy.emptiest("y", 0, rows) == 1
