"""The dashboard in a real JupyterLab: a run, its record and its panel by keys alone, in both themes; nothing leaves."""

from pathlib import Path

import looks
import pytest
from looks import button, tab_to
from playwright.sync_api import expect
from test_panel_in_lab import open_and_run_all, stayed_here, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
REPO = Path(__file__).parents[2]
TOY = f"""\
import sys; sys.path.insert(0, {str(REPO / "tests" / "panels")!r})
import toy; toy.install()
import workbench as wb
board = wb.open()
board"""
CUT = """() => [...document.querySelectorAll(".wb-system, .wb-system *, .wb-machine *, .wb-runbar")].filter((part) => {
  const look = getComputedStyle(part);
  return look.overflow !== "visible" && part.clientHeight && part.tagName !== "SELECT" &&
    (part.scrollHeight > part.clientHeight + 1 || part.scrollWidth > part.clientWidth + 1);
}).map((part) => part.className)"""


def dark(page):
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.get_by_text("Theme", exact=True).first.hover()
    page.get_by_text("JupyterLab Dark", exact=True).first.click()
    expect(page.locator("body[data-jp-theme-light=false]")).to_have_count(1)


def test_a_run_its_record_and_its_panel_by_keys_in_both_themes(page, server):
    address, root = server
    write(root / "board.ipynb", TOY)
    board = open_and_run_all(page, address, "board.ipynb", 120)
    expect(board.locator(".wb-runlist, .wb-blank").first).to_be_visible()
    expect(board.locator(".wb-head.wb-ready")).to_have_count(1)  # nothing has begun
    strip = board.locator(".wb-machine summary")
    strip.focus()
    page.keyboard.press("Enter")
    expect(board.locator(".wb-machine details[open]")).to_have_count(1)
    tab_to(page, button("Run tiny"))
    page.keyboard.press("Enter")
    expect(board.locator(".wb-system .wb-head.wb-done")).to_be_visible()
    expect(board.locator(".wb-last")).to_contain_text("4 chunks were had")
    tab_to(page, "(part) => part.getAttribute('role') === 'checkbox'")
    page.keyboard.press(" ")
    expect(board.get_by_role("checkbox", checked=True)).to_have_count(1)
    tab_to(page, button("Open in panel"), "Shift+Tab")
    page.keyboard.press("Enter")
    inner = board.locator(".wb-place .wb-panel")
    expect(inner.locator(".wb-head.wb-done")).to_be_visible()
    expect(page.locator(".wb-placehead:focus")).to_contain_text("Panel of Toy")
    tab_to(page, button("Close"))
    page.keyboard.press("Enter")
    expect(inner).to_have_count(0)
    light = looks.shades(page.locator(".wb-dash"))
    page.set_viewport_size({"width": 900, "height": 1300})
    assert page.evaluate(CUT) == []
    dark(page)
    both = (light, looks.shades(page.locator(".wb-dash")))
    assert [one for one in both[0] + both[1] if one[0] < 0] == []
    grounds, inks = ([{one[at] for one in each} for each in both] for at in (4, 5))
    assert grounds[0] != grounds[1] and inks[0] != inks[1]  # the second theme is another
    assert page.faults == []
    stayed_here(page, address)
