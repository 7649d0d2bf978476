"""Experts in a real JupyterLab: dragged, carried by keys, pressed and put down; form and picture follow at once."""

import re

import pytest
from playwright.sync_api import expect
from test_panel_in_lab import focused_pick, open_and_run_all, state, stayed_here, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
OPEN = 'import workbench as wb\npanel = wb.open("hetermoe", preset="tiny", placed="0-2: 2x3 3x3")\npanel'


def expert(panel, number, rank=None):
    lane = "" if rank is None else f'[data-drop="lane:{rank}"] '
    return panel.locator(f'.wb-board {lane}[data-pick="thing:{number}"]')


def call(panel):
    return panel.locator(".wb-code input")


def grab(page, panel, number, to):
    """Press on an expert and move to the middle of something, as a hand does: in steps."""
    expert(panel, number).hover()
    page.mouse.down()
    box = to.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=6)


def lane(panel, rank):
    return panel.locator(f'[data-drop="lane:{rank}"]')


def test_experts_are_moved_and_the_bubbles_follow(page, server):
    address, root = server
    write(root / "lanes.ipynb", OPEN)
    panel = open_and_run_all(page, address, "lanes.ipynb", 120)
    state(panel, "ready")
    panel.locator(".wb-board").scroll_into_view_if_needed()
    by_pointer(page, panel)
    by_keys(page, panel)
    by_presses(page, panel)
    assert page.faults == []
    stayed_here(page, address)


def by_pointer(page, panel):
    """The ghost is under the pointer, the lane below it is marked; Escape and nowhere leave all as it was."""
    titles = panel.locator(".wb-tabs .gtitle")
    before = titles.first.text_content()
    grab(page, panel, 0, lane(panel, 1))
    expect(page.locator("body > .wb-ghost")).to_have_text("0")
    expect(lane(panel, 1)).to_have_class(re.compile("wb-over"))
    page.keyboard.press("Escape")
    expect(page.locator("body > .wb-ghost")).to_have_count(0)
    page.mouse.up()
    grab(page, panel, 0, panel.locator("h3").first)
    page.mouse.up()
    expect(expert(panel, 0, 2)).to_have_count(1)
    expect(expert(panel, 0)).to_have_attribute("aria-pressed", "false")  # a drag is no press
    expect(call(panel)).to_have_value(re.compile('placed="0-2: 2x3 3x3"'))
    grab(page, panel, 0, lane(panel, 1))
    page.mouse.up()
    expect(expert(panel, 0, 1)).to_have_count(1)
    expect(panel.get_by_text("Expert 0: rank 2 to rank 1")).to_be_visible()
    expect(call(panel)).to_have_value(re.compile('placed="0: 1 2x2 3x3; 1-2: 2x3 3x3"'))
    expect(titles.first).not_to_have_text(before, timeout=60_000)  # another step; its first change imports a widget


def by_keys(page, panel):
    """Enter lifts, each arrow is a move, the focus goes along and is seen; Escape takes all of it back."""
    expert(panel, 1).focus()
    page.keyboard.press("Enter")
    expect(expert(panel, 1)).to_have_attribute("aria-pressed", "true")
    for key, rank in (("ArrowDown", 3), ("ArrowLeft", 1), ("ArrowUp", 0)):
        page.keyboard.press(key)
        expect(expert(panel, 1, rank)).to_have_count(1)
        assert focused_pick(page) == "thing:1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    expect(call(panel)).to_have_value(re.compile('placed="0: 1 0 2 3x3; '))
    page.keyboard.press("Escape")
    expect(expert(panel, 1, 2)).to_have_count(1)
    assert focused_pick(page) == "thing:1"
    page.keyboard.press("ArrowRight")  # not lifted: the focus moves, nothing else
    assert focused_pick(page) != "thing:1"
    expect(call(panel)).to_have_value(re.compile('placed="0: 1 2x2 3x3; '))


def by_presses(page, panel):
    """Without dragging: press an expert, then a lane; every layer at once; Undo; left to the planner."""
    panel.get_by_role("switch", name="move in every layer").click()
    both = ['[data-pick="thing:5"]', '[data-drop="lane:0"] .wb-things']  # faster than any kernel says that it is lifted
    press = "(node, both) => both.forEach((each) => node.querySelector(each).click())"
    panel.locator(".wb-board").evaluate(press, both)
    expect(expert(panel, 5, 0)).to_have_count(1)
    expect(call(panel)).to_have_value(re.compile('placed="0: 1 2x2 3x2 0; 1-2: 2x3 3x2 0"'))
    expert(panel, 5).click()
    expect(expert(panel, 5)).to_have_attribute("aria-pressed", "true")
    lane(panel, 1).locator(".wb-things").click()
    expect(expert(panel, 5, 1)).to_have_count(1)
    panel.get_by_role("button", name="Undo").click()
    expect(expert(panel, 5, 0)).to_have_count(1)
    panel.get_by_role("button", name="Undo").click()
    expect(expert(panel, 5, 3)).to_have_count(1)
    panel.get_by_role("button", name="Not by hand").click()
    expect(call(panel)).to_have_value('wb.run("hetermoe", preset="tiny")')
    expect(panel.locator(".wb-board .wb-away").first).to_be_visible()  # the planner moves some
