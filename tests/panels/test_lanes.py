"""Things moved from lane to lane: dropped, carried and pressed do the same; the form, its call and the model follow."""

import dataclasses
import re
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from pydantic import Field
from toy import SYSTEM as PLAIN
from toy import Toy, preview

import workbench.system
from workbench import theme, ui
from workbench.lanes import Board, Lane, read, write
from workbench.ui.lanes import Lanes
from workbench.ui.panel import Panel

LANES = [Lane("rank 0", "new", 0.8), Lane("rank 1", "new", 0.6), Lane("rank 2", "old", 0.9), Lane("rank 3", "old")]
ROWS = ((2, 2, 3, 3, 0), (2, 2, 3, 3, 3))
FULL = 4  # things that a lane takes


class Moving(Toy):
    placed: str | None = Field(
        None, description="Lane of each", json_schema_extra={"widget": "text", "none": "not by hand"}
    )
    chunks: int = Field(12, ge=1, le=400, description="Chunks", json_schema_extra={"clears": ["placed"]})


def board(config):
    rows = read(config.placed) if config.placed else ROWS
    if any(row.count(lane) > FULL for row in rows for lane in row):
        raise ValueError(f"a lane takes {FULL} things")
    told = f"{sum(lane < 2 for row in rows for lane in row)} are away"
    return Board("placed", LANES, rows, "part", "sheet", given=config.placed is not None, away="new", told=told)


def drawn(config):
    fig = preview(config)
    return theme.finish(fig, config.placed or "as it was", "A picture of where everything lies now.", x="x", y="y")


@pytest.fixture
def moved():
    said = []
    one = Lanes(lambda name, text: said.append(text))
    one.show(board(Moving()))
    return one, said


@pytest.fixture
def moving(system, monkeypatch):
    made = {"config": Moving, "presets": {"tiny": Moving()}, "preview": drawn, "board": board}
    monkeypatch.setattr(sys.modules["workbench.toy"], "SYSTEM", dataclasses.replace(PLAIN, **made))
    workbench.system.system.cache_clear()
    panel = Panel(workbench.system.system("toy"))
    yield panel
    panel.results.preview.wait(60)


def names(html, lane):
    """Things that are drawn in a lane."""
    slot = html.split(f'data-drop="lane:{lane}"')[1].split("data-drop=")[0]
    return [int(n) for n in re.findall(r'data-pick="thing:(\d+)"', slot)]


def test_a_drop_on_a_lane_or_a_group_moves_one_thing(moved):
    one, said = moved
    assert [names(one.drawn.html, lane) for lane in range(4)] == [[4], [], [0, 1], [2, 3]]
    one.drawn._handle_custom_msg({"drag": "thing:1", "drop": "lane:0"}, [])
    assert said == [write(((2, 0, 3, 3, 0), ROWS[1]))]
    assert names(one.drawn.html, 0) == [1, 4]
    one.drawn._handle_custom_msg({"drag": "thing:2", "drop": "group:0"}, [])
    assert names(one.drawn.html, 1) == [2]  # the emptiest of the group
    one.drawn._handle_custom_msg({"drag": "thing:2", "drop": "group:0"}, [])  # it is there
    one.drawn._handle_custom_msg({"drag": "thing:9", "drop": "lane:0"}, [])  # there is none such
    assert len(said) == 2
    one.undo.click()
    one.undo.click()
    assert one.rows == ROWS
    assert said[-1] is None  # nobody has moved anything
    assert one.undo.disabled


def test_keys_carry_what_is_lifted_and_escape_takes_it_back(moved):
    one, said = moved

    def press(key):
        one.drawn._handle_custom_msg({"carry": "thing:0", "key": key}, [])

    press("ArrowDown")
    assert said == []  # nothing is lifted
    one.drawn._handle_custom_msg({"pick": "thing:0"}, [])
    assert 'data-pick="thing:0" data-drag data-order="0" tabindex="0" aria-pressed="true"' in one.drawn.html
    assert "Part 0 lifted from rank 2" in one.told.html
    places = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight", "ArrowRight"):
        press(key)
        places.append(one.rows[0][0])
    assert places == [3, 3, 2, 0, 1, 3, 3]
    assert "stays on rank 3" in one.told.html
    press("Escape")
    assert one.rows == ROWS
    assert said[-1] is None
    assert 'aria-pressed="true"' not in one.drawn.html.split("wb-board")[1]
    press("ArrowUp")
    assert one.rows == ROWS


@pytest.mark.parametrize("before", [0, 151])
def test_escape_takes_back_what_was_carried_however_far(moved, before):
    """Of more moves than Undo keeps, too."""
    one, said = moved
    for at in range(before):
        one.move(1, 3 - at % 2)
    rows = one.rows
    one.drawn._handle_custom_msg({"pick": "thing:0"}, [])
    for at in range(206):
        one.drawn._handle_custom_msg({"carry": "thing:0", "key": "ArrowUp" if at % 2 else "ArrowDown"}, [])
    one.drawn._handle_custom_msg({"carry": "thing:0", "key": "ArrowDown"}, [])
    assert one.rows[0][0] == 3
    one.drawn._handle_custom_msg({"carry": "thing:0", "key": "Escape"}, [])
    assert one.rows == rows
    assert said[-1] == (write(rows) if before else None)


def test_a_press_lifts_and_a_lane_takes_it(moved):
    """Nobody has to drag: two presses do it, and before the first a lane is no button."""
    one, said = moved
    assert one.drawn.html.count("wb-slotname") == one.drawn.html.count('aria-disabled="true"') == 4
    one.drawn._handle_custom_msg({"pick": "lane:1"}, [])
    assert said == []
    one.drawn._handle_custom_msg({"pick": "thing:3"}, [])
    assert 'aria-disabled="true"' not in one.drawn.html
    one.drawn._handle_custom_msg({"pick": "lane:1"}, [])
    assert one.rows[0][3] == 1
    assert one.lifted is None
    assert "Part 3: rank 3 to rank 1" in one.told.html
    one.drawn._handle_custom_msg({"pick": "thing:3"}, [])
    one.drawn._handle_custom_msg({"pick": "group:1"}, [])  # its emptiest lane
    assert "Part 3: rank 1 to rank" in one.told.html


def test_all_sheets_at_once(moved):
    one, said = moved
    one.sheets._handle_custom_msg({"pick": "1"}, [])
    one.sheets._handle_custom_msg({"pick": "every"}, [])
    one.drop("thing:0", "lane:1")
    assert [row[0] for row in one.rows] == [1, 1]
    assert "in every sheet" in one.told.html
    assert 'aria-label="sheet 0: 2 of 5 parts on new"' in one.sheets.html
    assert len(said) == 1


def test_what_is_heavy_and_away_is_told_in_words_and_by_more_than_colour():
    weights = ((0.5, 0.2, 0.1, 0.1, 0.1),) * 2
    one = Lanes(lambda name, text: None)
    one.show(Board("placed", LANES, ROWS, "part", "sheet", away="new", told="<b>4</b> s", weights=weights))
    assert "part 0 on rank 2, 50.0 % of the sheet" in one.drawn.html
    assert '<i style="width:100%">' in one.drawn.html
    assert re.search(r'wb-thing wb-away" data-pick="thing:4"', one.drawn.html)
    assert "busy 80 %" in one.drawn.html
    css = (Path(ui.__file__).parent / "panel.css").read_text()
    assert "repeating-linear-gradient" in css
    for colour in ("#d55e00", "#bb8100"):
        assert colour in css
        assert min(theme.contrast(colour, surface) for surface in theme.SURFACES.values()) >= 3


def test_the_form_its_call_and_the_picture_follow_a_move(moving):
    """And what holds for another shape is left to the system again when that changes."""
    assert moving.results.selected_index == moving.results.at["Model"]
    one, field = moving.results.preview.lanes, moving.form.fields["placed"]
    assert field.value is None
    assert field.input.value == write(ROWS)  # in words, to start from
    one.drop("thing:0", "lane:1")
    text = write(((1, *ROWS[0][1:]), ROWS[1]))
    assert moving.config.placed == field.input.value == text
    assert f'placed="{text}"' in moving.code.value
    moving.results.preview.wait(60)
    assert isinstance(moving.results.preview.widget, go.FigureWidget)
    assert moving.results.preview.widget.layout.title.text == text
    assert "2 are away" in one.told.html
    field.input.value = "0-1: 2 2 3 3 3"
    moving.results.preview.wait(60)
    assert one.rows == read("0-1: 2 2 3 3 3")
    moving.form.fields["chunks"].input.value = 13
    assert moving.config.placed is None
    moving.results.preview.wait(60)
    assert one.rows == ROWS
    moving.form.load(Moving(placed=text, chunks=20))  # as a copied call gives it
    assert moving.config.placed == text
    moving.results.preview.wait(60)


def test_a_move_that_cannot_be_is_taken_back_with_the_reason(moving):
    one = moving.results.preview.lanes
    for thing in (0, 1, 4):
        one.drop(f"thing:{thing}", "lane:3")
        moving.results.preview.wait(60)
    assert "Refused: a lane takes 4 things" in one.told.html
    assert 'role="alert"' in one.told.html
    assert one.rows[0] == (3, 3, 3, 3, 0)
    assert moving.config.placed == write(one.rows)
    assert moving.results.preview.error is None
    one.drop("thing:1", "lane:1")
    assert "Refused" not in one.told.html


def test_of_two_moves_the_later_is_seen(moved):
    """What the system says of an older setting does not put things back."""
    one, _ = moved
    old = board(Moving())
    one.drop("thing:0", "lane:1")
    one.show(old, lambda: False)
    assert one.rows[0][0] == 1
    one.show(old)
    assert one.rows == ROWS


def test_a_system_without_a_board_has_none(panel):
    assert panel.results.preview.lanes is None
    assert panel.results.selected_index == panel.results.at["Figure"]
