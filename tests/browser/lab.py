"""A real JupyterLab on a free port, and Debian's Chromium in front of it, for as long as a test needs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """Path of the Chromium that set-up finds too, None when there is none that starts."""
    search = Path(__file__).parents[2] / "tools" / "find_browser.sh"
    return subprocess.run([search], stdout=subprocess.PIPE, text=True, timeout=180).stdout.strip() or None


@contextlib.contextmanager
def server(root: Path, home: Path, theme: str = "JupyterLab Light", timeout_s: float = 90):
    """Serve `root`; yields the address. TimeoutError with the server's log when it does not come up."""
    settings = home / "settings"
    _setting(settings, "@jupyterlab/apputils-extension/themes", {"theme": theme})
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    _setting(settings, "@jupyterlab/apputils-extension/notification", quiet)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    env = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={root}"]
    log = home / "server.log"
    with open(log, "w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        _answers(f"http://127.0.0.1:{port}/api", process, log, timeout_s)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def watched(chromium, height: int = 1300, patience_s: float = 60):
    """A page that keeps what went wrong in it (`faults`) and whom it asked for anything (`asked`)."""
    from playwright.sync_api import expect

    expect.set_options(timeout=500 * patience_s)  # its own 5 s are few where a kernel shares two cores
    page = chromium.new_page(viewport={"width": 1400, "height": height})
    page.set_default_timeout(1000 * patience_s)
    page.faults, page.asked = [], []
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("websocket", lambda socket: page.asked.append(socket.url))
    return page


def _answers(url: str, process: subprocess.Popen, log: Path, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.3)
    raise TimeoutError(f"JupyterLab did not answer within {timeout_s} s:\n{log.read_text()[-2000:]}")


def _setting(folder: Path, plugin: str, value: dict) -> None:
    path = folder / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
