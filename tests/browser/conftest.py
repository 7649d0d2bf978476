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
    page = lab.watched(chromium)
    yield page
    page.close()
