"""One JupyterLab and one Chromium for the browser tests; without a Chromium they are skipped, and say so."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import lab


@pytest.fixture(scope="module")
def chromium():
    path = lab.chromium()
    if path is None:
        pytest.skip("no Chromium that starts on this machine: apt-get install chromium, or set CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=lab.FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, folder that is served)"""
    root, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("lab")
    with lab.server(root, home) as address:
        yield address, root


@pytest.fixture
def page(chromium, server):
    """A page that keeps what went wrong in it and whom it asked for anything."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1300})
    page.set_default_timeout(60_000)
    page.faults, page.asked = [], []
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("websocket", lambda socket: page.asked.append(socket.url))
    yield page
    page.close()
