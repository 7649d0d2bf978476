"""Each system's panel in one JupyterLab, by keyboard alone and in both themes: run, cancel, replay, export.

What is on it can be read, one sees where the focus is, and nothing leaves the machine. In the light theme a run goes to
its end; in the dark one that run is had again from the history.
"""

import csv
import json
import re
from html.parser import HTMLParser

import lab
import looks
import pytest
from looks import button, tab_to
from playwright.sync_api import expect
from test_panel_in_lab import LATE, open_and_run_all, state, stayed_here, write

from workbench import records
from workbench.records import read_result
from workbench.system import NAMES, system

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
OPEN_S = 240  # seven panels are made and drawn
RUN_S = 420  # preset tiny to its end: the first of a process imports torch, Foundry's may compile
DRAWN_S = 60  # a result's figure
CANCEL_S = 120  # preset small, which may be loading a model
CODE = "(part) => part.closest('.wb-code') !== null"
PRESET = "(part) => part.closest('.wb-preset') !== null"
SLIDER = "(part) => part.closest('.wb-form') !== null && part.classList.contains('noUi-handle')"
REPLAY = "(part) => part.closest('.wb-scrub') !== null"
TAB = "(part) => part.getAttribute('role') === 'tab' && part.closest('.wb-tabs') !== null"
PAST = "(part) => part.closest('.wb-past') !== null"


@pytest.fixture(scope="module")
def house(chromium, server, tmp_path_factory):
    """One page with the panels of all systems, one kernel behind it, and a history of their own."""
    address, root = server
    kept = tmp_path_factory.mktemp("kept")
    first = f"import os; os.environ['WORKBENCH_HOME'] = {str(kept)!r}\nimport workbench as wb"
    write(root / "every.ipynb", first, *[f'wb.open("{name}", preset="tiny")' for name in NAMES])
    page = lab.watched(chromium, 2300)
    open_and_run_all(page, address, "every.ipynb", OPEN_S)
    expect(page.locator(".wb-panel")).to_have_count(len(NAMES))
    page.root, page.kept, page.address = root, kept, address
    yield page
    page.close()


@pytest.fixture(scope="module", params=["light", "dark"])
def look(request, house):
    """The theme; all panels are gone through in one before the other."""
    if request.param == "dark":
        house.get_by_role("menuitem", name="Settings", exact=True).click()
        house.get_by_text("Theme", exact=True).first.hover()
        house.get_by_text("JupyterLab Dark", exact=True).first.click()
    lit = house.locator(f"body[data-jp-theme-light={str(request.param == 'light').lower()}]")
    expect(lit).to_have_count(1, timeout=DRAWN_S * 1000)  # seven panels are painted anew
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_panel_by_keys(house, look, name, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(house.kept))
    panel = house.locator(".wb-panel").nth(NAMES.index(name))
    asked = len(house.asked)
    enter(house, panel)
    assert tab_to(house, button("Run")) == []
    if look == "light":
        runs(house, panel, name)
    else:
        comes_back(house, panel, name)
    every_tab(house, panel)
    assert looks.nameless(house, ".wb-panel", NAMES.index(name)) == []
    is_replayed(house, panel)
    is_exported(house, panel, name)
    is_cancelled(house, panel, name)
    assert len(house.asked) > asked  # or the check below would see nothing
    assert [fault for fault in house.faults if fault != LATE] == []
    stayed_here(house, house.address)


def enter(page, panel):
    """From the panel's cell, as JupyterLab has it: arrows choose the cell, Tab goes into what it shows."""
    panel.evaluate("(part) => part.scrollIntoView({ block: 'start' })")
    panel.evaluate("(part) => part.closest('.jp-Cell').focus()")
    assert tab_to(page, CODE, most=12) is not None


def call(panel):
    return panel.locator(".wb-code input").input_value()


def runs(page, panel, name):
    """Arrows move a setting, the preset takes it back; Run by Enter, which has the focus again at the end."""
    assert looks.faint(panel) == []
    tab_to(page, PRESET, "Shift+Tab")
    if panel.locator(".wb-form .noUi-handle:visible").count():
        before = call(panel)
        tab_to(page, SLIDER)
        page.keyboard.press("ArrowRight")
        expect(panel.locator(".wb-code input")).not_to_have_value(before)
        tab_to(page, PRESET, "Shift+Tab")
        page.keyboard.press("Home")
        expect(panel.locator(".wb-code input")).to_have_value(before)
    tab_to(page, button("Run"))
    page.keyboard.press("Enter")
    state(panel, "done", RUN_S)
    expect(panel.get_by_role("button", name="Run", exact=True)).to_be_focused()
    assert looks.focus_unseen(page) == ""
    # the first figure of a kernel imports plotly before it is drawn
    expect(panel.locator(".wb-caption").first).to_contain_text(kept_run(name).id, timeout=DRAWN_S * 1000)


def kept_run(name):
    """The newest run of a system that came to its end."""
    return next(record for record in records.history(name) if record.state == "done")


def to_tab(page, panel, title):
    """Arrows go along the tabs from the one that Tab reaches, Enter opens."""
    for _ in range(8):
        if page.evaluate("document.activeElement.textContent") == title:
            page.keyboard.press("Enter")
            expect(panel.get_by_role("tab", name=title, exact=True)).to_have_attribute("aria-selected", "true")
            return
        page.keyboard.press("ArrowRight")
    pytest.fail(f"8 presses of an arrow did not reach the tab {title}")


def comes_back(page, panel, name):
    """The run that was kept, from the history: the newest is the cancelled one, the one below it is done."""
    record = kept_run(name)
    tab_to(page, TAB)
    to_tab(page, panel, "History")
    assert tab_to(page, PAST) == []
    for _ in range(20):
        if " done " in marked(panel):
            break
        page.keyboard.press("ArrowDown")
    assert " done " in marked(panel), "arrows do not reach the run that is done"
    assert tab_to(page, button("Reopen")) == []
    page.keyboard.press(" ")
    state(panel, "done")
    expect(panel.locator(".wb-caption").first).to_contain_text(record.id, timeout=DRAWN_S * 1000)
    tab_to(page, TAB, "Shift+Tab")


def marked(panel):
    """The line of the history that is chosen."""
    return panel.locator(".wb-past select").evaluate(
        "(part) => (part.selectedOptions[0]?.textContent ?? '').replaceAll('\\u00a0', ' ')"
    )


def every_tab(page, panel):
    """What each tab shows can be read, and something is there."""
    if not page.evaluate(f"({TAB})(document.activeElement)"):
        tab_to(page, TAB)
    for title in panel.get_by_role("tab").all_inner_texts():
        to_tab(page, panel, title)
        assert looks.focus_unseen(page) == ""
        assert looks.faint(panel) == [], title
    to_tab(page, panel, "Figure")
    expect(panel.locator(".wb-figure .main-svg:visible").first).to_be_visible()


def is_replayed(page, panel):
    """Home and arrows scrub the run; at its end it stands as it ended."""
    tab_to(page, REPLAY, "Shift+Tab")
    assert looks.focus_unseen(page) == ""
    page.keyboard.press("Home")
    state(panel, "replay")
    page.keyboard.press("ArrowRight")
    expect(panel.locator(".wb-scrub")).to_contain_text(re.compile("event 1 of "))
    assert looks.faint(panel.locator(".wb-work")) == []
    page.keyboard.press("End")
    state(panel, "done")


def is_exported(page, panel, name):
    """Four files beside the notebook, each of which says what the run found."""
    assert tab_to(page, button("Save to disk")) == []
    page.keyboard.press("Enter")
    record = kept_run(name)
    expect(panel.locator(".wb-caption").first).to_contain_text("Saved in")
    valid(page.root, f"{name}-{record.id}", record.result())


def valid(folder, stem, result):
    """ValueError, KeyError or AssertionError where one of the files is not what it should be."""
    read = {end: (folder / f"{stem}{end}").read_text() for end in (".json", ".csv", ".trace.json", ".html")}
    again = read_result(system(stem.split("-")[0]), read[".json"])
    assert again.summary() == result.summary()
    rows = list(csv.DictReader(read[".csv"].splitlines(keepends=True)))
    assert len(rows) == len(result.to_frame())
    events = json.loads(read[".trace.json"])["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert spans, "no span in the trace"
    assert min(event["dur"] for event in spans) >= 0
    page = Page()
    page.feed(read[".html"])
    assert page.fetched == []
    assert page.tags["figure"] == page.tags["section"] == 1
    assert f'href="{stem}.csv"' in read[".html"] or "data:text/csv" in read[".html"]


class Page(HTMLParser):
    """Counts tags, and keeps what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched = {}, []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.fetched += [value for key, value in attributes if key == "src" or (tag == "link" and key == "href")]


def is_cancelled(page, panel, name):
    """A longer preset by its letter, Run by Space, Cancel by Enter: it says so, and is ready again."""
    tab_to(page, PRESET, "Shift+Tab")
    page.keyboard.press("s")  # its first letter: an arrow would unfold the list
    expect(panel.locator(".wb-code input")).to_have_value(f'wb.run("{name}", preset="small")')
    tab_to(page, button("Run"))
    page.keyboard.press(" ")
    state(panel, "running")
    expect(panel.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    state(panel, "cancelled", CANCEL_S)
    expect(panel.locator(".wb-line")).to_contain_text("what is shown of it is partial")
    expect(panel.get_by_role("button", name="Run", exact=True)).to_be_focused()
    assert looks.faint(panel) == []


def test_the_checks_see_what_they_are_for(house, tmp_path, monkeypatch):
    """Grey on grey, in words and in a picture; no ring, no name; a stranger; a fault; a damaged file."""
    monkeypatch.setenv("WORKBENCH_HOME", str(house.kept))
    panel = house.locator(".wb-panel").first
    panel.evaluate(
        """(part) => {
          const put = document.createElement("div");
          put.id = "control";
          put.innerHTML = `<p style="color:#777;background:#888">words</p><p style="opacity:0.4">group</p>
            <svg width="90" height="30"><rect width="90" height="30" fill="#777"/>
              <text y="20" fill="#888">drawn</text></svg>
            <button>bare</button><input type="range">`;
          part.prepend(put);
          put.querySelector("button").style.setProperty("outline", "none", "important");
          put.querySelector("button").focus();
        }"""
    )
    try:
        assert {one[2] for one in looks.faint(panel)} == {"words", "group", "drawn"}
        assert "outline" in looks.focus_unseen(house)
        assert ["range" in one for one in looks.nameless(house, ".wb-panel")] == [True]
    finally:
        panel.evaluate("(part) => part.querySelector('#control').remove()")
    before = (list(house.faults), list(house.asked))
    house.evaluate("console.error('a fault of ours')")
    house.wait_for_function("true")
    assert house.faults == [*before[0], "a fault of ours"]
    house.asked.append("https://elsewhere.example/x.js")
    with pytest.raises(AssertionError):
        stayed_here(house, house.address)
    house.faults[:], house.asked[:] = before
    name = NAMES[0]
    record = kept_run(name)
    for ending in (".json", ".csv", ".trace.json", ".html"):
        for path in house.root.glob(f"{name}-{record.id}*"):
            (tmp_path / path.name).write_text(path.read_text())
        cut = tmp_path / f"{name}-{record.id}{ending}"
        cut.write_text(cut.read_text()[: len(cut.read_text()) // 2])
        with pytest.raises((ValueError, KeyError, AssertionError)):
            valid(tmp_path, f"{name}-{record.id}", record.result())
