"""`workbench lab` in a process of its own: the link that it prints leads to the tour, and the tour is there."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMAND = str(Path(sys.executable).with_name("workbench"))
LIMIT_S = 120
TOUR = "/lab/tree/notebooks/00_tour.ipynb"


@contextlib.contextmanager
def started(log, folder, *options):
    """(port, process) of a server that keeps its own files in `folder` and writes what it says to `log`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    env = os.environ | places | {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [COMMAND, "lab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0", *options]
    with open(log, "w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        yield port, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def link(log, port, process):
    """The printed link, once it is there."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and process.poll() is None:
        found = re.search(rf"http://(?:127\.0\.0\.1|localhost):{port}\S*", log.read_text())
        if found:
            return found[0]
        time.sleep(0.2)
    pytest.fail(f"no link in {LIMIT_S} s, exit code {process.poll()}:\n{log.read_text()[-2000:]}")


def fetch(url):
    """The page, asked for again while the server is still coming up."""
    for wait_s in (0.2, 0.5, 1, 2, 5, 0):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as got:
            return got.status, got.read().decode()
        time.sleep(wait_s)
    return pytest.fail(f"{url} does not answer")


@pytest.mark.slow
def test_the_printed_link_opens_the_tour(tmp_path):
    log = tmp_path / "log"
    with started(log, tmp_path) as (port, process):
        url = link(log, port, process)
        parts = urlsplit(url)
        assert parts.path == TOUR
        assert parts.query.startswith("token=")
        status, page = fetch(url)
        assert status == 200
        assert "jupyter-config-data" in page
        status, book = fetch(f"http://127.0.0.1:{port}/api/contents/notebooks/00_tour.ipynb?{parts.query}")
        assert status == 200
        assert '"type": "notebook"' in book


def test_outside_a_checkout_it_says_so(tmp_path, monkeypatch, capsys):
    from workbench import backends, cli

    monkeypatch.setattr(backends, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.call(["lab", "--no-browser"]) == 2
    assert "00_tour.ipynb does not exist; run this in a checkout" in capsys.readouterr().err
