"""A run's graph in a real JupyterLab: it fills, boxes are clicked and reached by keys, an edge is drawn and run."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from test_panel_in_lab import focused_pick, open_and_run_all, state, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
REPO = Path(__file__).parents[2]
TOY = f"""\
import sys; sys.path.insert(0, {str(REPO / "tests" / "panels")!r})
import graph_toy; graph_toy.install()
import workbench as wb
panel = wb.open("graph_toy", preset="slow")
panel"""


def box(panel, name):
    return panel.locator(f'.wb-drawnparts [data-pick="{name}"]')


def heading(panel):
    return panel.locator(".wb-reading h4")


def test_graph_fills_reads_and_is_edited(page, server):
    address, root = server
    write(root / "graph.ipynb", TOY)
    panel = open_and_run_all(page, address, "graph.ipynb", 120)
    state(panel, "ready")
    panel.get_by_role("button", name="Run", exact=True).click()
    state(panel, "running")
    while_it_runs(page, panel)
    state(panel, "done", 120)
    expect(panel.locator(".wb-drawnparts .wb-vertex.wb-done")).to_have_count(5)
    by_keys(page, panel)
    edited(page, panel)
    panel.locator(".wb-preset select").select_option("tiny")
    by_typing(page, panel)
    assert page.faults == []


def while_it_runs(page, panel):
    """A click holds through ten redraws a second; the text goes on, the box fills."""
    expect(box(panel, "1")).to_have_class(re.compile("wb-running"))
    box(panel, "2").hover()
    page.mouse.down()
    page.wait_for_timeout(350)  # several pictures later
    page.mouse.up()
    expect(heading(panel)).to_contain_text("2: What does the second source say")
    text, fill = panel.locator(".wb-text"), box(panel, "2").locator(".wb-fill")
    before, wide = len(text.inner_text()), float(fill.get_attribute("width"))
    page.wait_for_timeout(1500)
    assert len(text.inner_text()) > before
    assert float(fill.get_attribute("width")) > wide


def by_keys(page, panel):
    """Arrows go where the boxes stand; Enter reads; a redraw leaves the focus where it is."""
    box(panel, "2").focus()
    page.keyboard.press("ArrowUp")
    assert focused_pick(page) == "1"
    page.keyboard.press("ArrowRight")
    assert focused_pick(page) in ("3", "4")
    page.keyboard.press("ArrowRight")
    assert focused_pick(page) == "5"
    page.keyboard.press("Enter")
    expect(heading(panel)).to_contain_text("5: What follows for the price of bread?")
    assert focused_pick(page) == "5"
    page.keyboard.press("ArrowRight")  # there is none further
    assert focused_pick(page) == "5"
    page.keyboard.press("Home")
    assert focused_pick(page) == "plan"  # the stream's button, over the boxes


def edited(page, panel):
    """An edge by two clicks, another by switch; what is refused says why; then the new graph runs."""
    panel.get_by_role("button", name="Edit this graph").click()
    lines = panel.locator(".wb-dag textarea")
    expect(lines).to_have_value(re.compile("4 <- 1:"))
    drawn = panel.locator(".wb-daggraph")
    drawn.locator('.wb-vertex[data-pick="2"]').click()
    expect(panel.locator(".wb-dagtext")).to_contain_text("From 2: now the part that needs it")
    drawn.locator('.wb-vertex[data-pick="4"]').click()
    expect(lines).to_have_value(re.compile("4 <- 1, 2:"))
    drawn.locator('.wb-vertex[data-pick="5"]').click()
    drawn.locator('.wb-vertex[data-pick="1"]').click()
    expect(panel.locator(".wb-dagtext [role=alert]")).to_contain_text("only earlier parts can be needed")
    panel.locator(".wb-dagrow select").select_option(label="5: What follows for the price of bread?")
    switch = panel.get_by_role("switch", name=re.compile("5 needs 1"))
    switch.focus()
    page.keyboard.press("Enter")
    expect(switch).to_have_attribute("aria-checked", "true")
    expect(lines).to_have_value(re.compile("5 <- 1, 3, 4:"))
    panel.get_by_role("button", name="Run", exact=True).click()
    state(panel, "done", 120)
    expect(panel.locator(".wb-drawnparts .wb-edge")).to_have_count(7)


def by_typing(page, panel):
    """The picture follows each letter, and a wrong line is named where it is typed."""
    bundled = panel.locator(".wb-wide .wb-none input")
    expect(bundled).to_be_checked()  # the preset that was just chosen is in the form
    bundled.uncheck()
    lines = panel.locator(".wb-dag textarea")
    lines.fill("1: first?\n2 <- 1: second?")
    expect(panel.locator(".wb-daggraph .wb-vertex")).to_have_count(2)
    lines.focus()
    page.keyboard.press("Control+End")
    page.keyboard.type("\n3 <- 9: third?")
    expect(panel.locator(".wb-dagtext [role=alert]")).to_contain_text("line 3: 3 needs 9")
    expect(panel.locator(".wb-daggraph .wb-dim .wb-vertex")).to_have_count(2)
