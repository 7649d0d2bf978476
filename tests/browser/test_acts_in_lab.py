"""Acting in a run, in a real JupyterLab: a click and a key change what the run does; the marks lead the replay."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from test_panel_in_lab import open_and_run_all, state, tab, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
REPO = Path(__file__).parents[2]
TOY = f"""\
import sys; sys.path.insert(0, {str(REPO / "tests" / "panels")!r})
import acts_toy; acts_toy.install()
import workbench as wb
panel = wb.open("acts_toy", preset="slow", chunks=100, pause_s=0.2)
panel"""


def toolbar(panel):
    return panel.get_by_role("toolbar", name="what you may do while it runs")


def act(panel, label):
    return toolbar(panel).get_by_role("button", name=re.compile(f"^{label}"))


def place(locator):
    box = locator.bounding_box()
    return round(box["x"]), round(box["y"])


def test_a_press_changes_what_the_run_does(page, server):
    address, root = server
    write(root / "acts.ipynb", TOY)
    panel = open_and_run_all(page, address, "acts.ipynb", 120)
    state(panel, "ready")
    expect(toolbar(panel)).to_have_count(0)  # nothing runs: nothing can be done
    panel.get_by_role("button", name="Run", exact=True).click()
    state(panel, "running")
    status = panel.locator(".wb-line")
    expect(status).to_contain_text("3 workers")
    by_click(panel, status)
    by_key(page, panel, status)
    state(panel, "done", 120)
    afterwards(panel)
    assert page.faults == []


def by_click(panel, status):
    """The one that was pressed stays where it stood, faint; the others do not move."""
    other = place(act(panel, "Send w2 home"))
    act(panel, "Send w1 home").click()
    expect(act(panel, "Send w1 home")).to_be_disabled()
    expect(status).to_contain_text("2 workers")
    expect(act(panel, "Send w1 home: not any more")).to_be_visible()
    assert place(act(panel, "Send w2 home")) == other
    expect(panel.get_by_text("Done by hand: Send w1 home")).to_be_visible()
    act(panel, "Send w1 home").click(force=True)  # there is nothing to press
    expect(panel.locator(".wb-acts [role=alert]")).to_have_count(0)


def by_key(page, panel, status):
    """Arrows go along the buttons; a key held down is one press; the focus stays though the row is drawn anew."""
    act(panel, "Send w2 home").focus()
    page.keyboard.press("ArrowRight")
    focused = "document.activeElement.dataset.pick ?? null"
    assert page.evaluate(focused) == "call"
    page.keyboard.down("Enter")
    for _ in range(4):
        page.keyboard.down("Enter")  # as a key that is held repeats
        page.wait_for_timeout(250)
    page.keyboard.up("Enter")
    expect(status).to_contain_text("3 workers")
    expect(act(panel, "Call one more: 4 called so far")).to_be_enabled()
    assert page.evaluate(focused) == "call"
    expect(act(panel, "Send w3 home")).to_be_visible()


def afterwards(panel):
    """No button is left; what was done is marked, leads the replay and is told with the result."""
    expect(toolbar(panel)).to_have_count(0)
    expect(panel.locator(".wb-caption").first).to_contain_text("2 things done by hand")
    marks = panel.get_by_role("group", name="done by hand")
    expect(marks.get_by_role("button")).to_have_count(2)
    marks.get_by_role("button").first.click()
    state(panel, "replay")
    expect(toolbar(panel)).to_have_count(0)
    expect(marks.locator("[aria-current=true]")).to_contain_text("Send w1 home")
    expect(panel.locator(".wb-line")).to_contain_text("3 workers")  # just before its effect
    expect(marks.locator(".wb-tocome")).to_have_count(1)
    tab(panel, "Events")
    expect(panel.get_by_text("taken back: workers: Send w1 home")).to_be_visible()
