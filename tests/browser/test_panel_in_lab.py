"""The panel in a real JupyterLab: run all, Run by key, progress, figure, table, cancel; nothing leaves the machine.

The toy's notebook is driven through everything; CAKE's own notebook through Run and Cancel after all its cells.
"""

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]
REPO = Path(__file__).parents[2]
TOY = f"""\
import sys; sys.path.insert(0, {str(REPO / "tests" / "panels")!r})
import toy; toy.install()
import workbench as wb
panel = wb.open("toy", preset="tiny")
panel"""


def write(path, *sources):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


def without_skipped(source, target, lighter=()):
    """A copy of a notebook without the cells that nbval skips and without outputs; `lighter` replaces texts in cells.

    nbval runs every notebook as it stands: here is tried what a browser adds.
    """
    book = nbformat.read(source, as_version=4)
    book.cells = [c for c in book.cells if "nbval-skip" not in c.metadata.get("tags", [])]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            for heavy, light in lighter:
                cell.source = cell.source.replace(heavy, light)
    nbformat.write(book, target)


def open_and_run_all(page, address, name, limit_s):
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook")
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=90_000)
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    for _ in range(6):  # a kernel that is still being connected to loses what it is asked
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)
        if prompts.first.inner_text().strip() != "[ ]:":
            break
    last = prompts.last
    expect(last).to_have_text(re.compile(r"\[\d+\]:"), timeout=limit_s * 1000)
    expect(page.locator(".jp-RenderedText[data-mime-type*=error]")).to_have_count(0)
    panel = page.locator(".wb-panel").first
    if panel.count():
        panel.scroll_into_view_if_needed()
    return panel


def state(panel, name, limit_s=60):
    expect(panel.locator(f".wb-head.wb-{name}")).to_be_visible(timeout=limit_s * 1000)


def tab(panel, title):
    panel.get_by_role("tab", name=title, exact=True).click()


def press_run_with_keys(page, panel):
    """From the box with the code to Run with the Tab key alone, then Enter."""
    panel.locator(".wb-code input").focus()
    passed = []
    for _ in range(60):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.textContent"))
        if passed[-1] == "Run":
            page.keyboard.press("Enter")
            return
    pytest.fail(f"60 presses of Tab did not reach Run; they passed {passed}")


def stayed_here(page, address):
    host = address.removeprefix("http://")
    strangers = [url for url in page.asked if host not in url and not url.startswith(("data:", "blob:", "about:"))]
    assert strangers == []
    assert page.asked, "the page asked for nothing at all: the check sees nothing"


def spans_by_keys(page, panel):
    """Tab reaches the spans, arrows go along them, Enter and Space ask why; the focus stays through each redraw."""
    panel.locator(".wb-timeline .wb-window [role=slider], .wb-timeline .wb-window .noUi-handle").last.focus()
    for _ in range(5):
        page.keyboard.press("Tab")
        if focused_pick(page) is not None:
            break
    assert focused_pick(page) == "5"  # the chosen one is the one that Tab reaches
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert focused_pick(page) == "7"
    page.keyboard.press("Enter")
    expect(panel.get_by_text("chunk 7 went to load")).to_be_visible()
    assert focused_pick(page) == "7"
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    expect(panel.get_by_text("chunk 0 went to compute")).to_be_visible()
    assert focused_pick(page) == "0"


def focused_pick(page):
    return page.evaluate("document.activeElement.dataset.pick ?? null")


def test_toy_notebook(page, server):
    address, root = server
    write(root / "toy.ipynb", TOY, 'wb.run("toy", preset="tiny")')
    panel = open_and_run_all(page, address, "toy.ipynb", 120)
    state(panel, "ready")

    panel.locator(".wb-preset select").select_option("slow")
    press_run_with_keys(page, panel)
    state(panel, "running")
    expect(panel.locator(".wb-head .wb-bar")).not_to_have_attribute("aria-valuenow", "0")
    expect(panel.locator(".wb-view.wb-lanes svg.wb-lanes").first).to_be_visible()
    panel.get_by_role("button", name="Cancel").click()
    state(panel, "cancelled")

    panel.locator(".wb-preset select").select_option("small")
    expect(panel.locator(".wb-code input")).to_have_value('wb.run("toy", preset="small")')
    panel.get_by_role("button", name="Run", exact=True).click()
    state(panel, "done")
    expect(panel.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    tab(panel, "Table")
    expect(panel.get_by_role("cell", name="0.09", exact=True)).to_be_visible()
    tab(panel, "Timeline")
    panel.locator(".wb-timeline [data-pick]").nth(5).click()
    expect(panel.get_by_text("chunk 5 went to load")).to_be_visible()
    panel.get_by_role("button", name="Later").click()
    expect(panel.get_by_text("chunk 6 went to compute")).to_be_visible()
    panel.locator(".wb-timeline [data-pick]").nth(5).click()  # the same one again
    expect(panel.get_by_text("chunk 5 went to load")).to_be_visible()
    spans_by_keys(page, panel)
    tab(panel, "Model")
    expect(panel.get_by_text("Modelled: 12 chunks at 100 MB/s")).to_be_visible(
        timeout=60_000
    )  # imports plotly's widget
    before = panel.locator(".js-plotly-plot").count()
    panel.locator(".wb-code input").fill('wb.run("toy", preset="small", chunks=77)')
    page.keyboard.press("Enter")
    expect(panel.locator(".js-plotly-plot")).to_have_count(before)
    expect(panel.locator(".wb-field", has_text="chunks").locator(".widget-readout").first).to_have_text("77")

    with page.expect_response(lambda got: got.request.method == "PUT" and "toy.ipynb" in got.url):
        page.get_by_role("menuitem", name="File", exact=True).click()
        page.get_by_text("Save Notebook", exact=True).click()
    saved_without_a_kernel(root / "toy.ipynb")
    assert page.faults == []
    stayed_here(page, address)


def saved_without_a_kernel(path):
    """The result's cell reads without a kernel and the file is small."""
    book = nbformat.read(path, as_version=4)
    outputs = [set(o["data"]) for o in book.cells[1].outputs if o["output_type"] == "display_data"]
    assert any("text/html" in kinds for kinds in outputs)
    assert any("application/vnd.plotly.v1+json" in kinds for kinds in outputs)
    assert "widgets" not in book.metadata
    assert path.stat().st_size < 200_000


# anywidget gives a model 2 s to start, and says so where plotly's 5 MB take longer: many figures on two busy cores.
LATE = "[anywidget] Failed to initialize model."


def test_cake_notebook(page, server):
    source = REPO / "notebooks" / "05_cake.ipynb"
    address, root = server
    without_skipped(
        source,
        root / source.name,
        [(f'wb.run("cake", preset="{p}"', 'wb.run("cake", preset="tiny"') for p in ("small", "vllm")],
    )
    panel = open_and_run_all(page, address, source.name, 900)
    panel.locator(".wb-preset select").select_option("tiny")
    press_run_with_keys(page, panel)
    state(panel, "running")
    state(panel, "done", 180)
    for title in ("Model", "Figure"):  # also where anywidget said that its model was late
        tab(panel, title)
        expect(panel.locator(".js-plotly-plot .main-svg:visible").first).to_be_visible()
    tab(panel, "Table")
    expect(panel.locator(".wb-table").first).to_contain_text("TTFT")
    panel.locator(".wb-preset select").select_option("small")
    panel.get_by_role("button", name="Run", exact=True).click()
    state(panel, "running")
    panel.get_by_role("button", name="Cancel").click()
    state(panel, "cancelled", 120)
    assert [fault for fault in page.faults if fault != LATE] == []
    stayed_here(page, address)


def test_a_pane_that_loaded_late_hears_all_the_same(page, server):
    """Where the page is slow anywidget gives a model up: here each, at once. What is said before and after is shown."""
    address, root = server
    page.add_init_script(
        "const wait = AbortSignal.timeout.bind(AbortSignal); window.givenUp = 0;"
        "AbortSignal.timeout = (ms) => { window.givenUp += ms === 2000; return wait(ms === 2000 ? 0 : ms); };"
    )
    hears = "pane.on_pick(lambda _: setattr(pane, 'html', '<p class=heard>after</p>'))"
    first = f"from workbench.ui.view import View\npane = View()\n{hears}\npane"
    write(root / "late.ipynb", first, "pane.html = '<button class=heard data-pick=it>before</button>'")
    open_and_run_all(page, address, "late.ipynb", 90)
    expect(page.locator(".heard")).to_have_text("before")
    assert page.evaluate("window.givenUp")  # the control: the model had no time
    page.locator(".heard").click()
    expect(page.locator(".heard")).to_have_text("after")


def test_report_page_draws_offline(page, tmp_path):
    import toy

    from workbench.runner import Run
    from workbench.ui import export

    results = [Run(toy.SYSTEM, toy.Toy(chunks=n), record=False).start().wait(30).result for n in (4, 9)]
    path = export.write(tmp_path / "report.html", export.report(results))
    page.goto(path.as_uri())
    expect(page.locator(".js-plotly-plot .main-svg").nth(3)).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="table (CSV)").first.click()
    assert Path(download.value.path()).read_text().startswith("chunk,done_s")
    assert page.faults == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
