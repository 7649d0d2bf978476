"""Pictures of the panels as JupyterLab shows them: `make panels` writes docs/pictures/panel-<system>.png.

Each panel runs its preset `tiny`, Plato `small`, to the end first, by its own Run button; a name with -dark is taken in
the dark theme.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser")]
import lab  # noqa: E402  the browser tests' JupyterLab, and how they use it
from test_panel_in_lab import open_and_run_all, state, write  # noqa: E402

from workbench.system import NAMES, system  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
SHOWN = (*NAMES, "cake-dark")
PRESET = {"plato": "small"}  # of tiny's model no word can be read
WIDTH, MOST = 1100, 1400  # CSS pixels; what is below is cut off
COLOURS = 96
RUN_S, DRAWN_MS = 420, 60_000


def main() -> None:
    """Take all, or those named."""
    names = sys.argv[1:] or list(SHOWN)
    browser = lab.chromium()
    if browser is None:
        sys.exit("no Chromium that starts: tools/setup.sh browser, or set CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        home, root = Path(folder, "home"), Path(folder, "notebooks")
        root.mkdir()
        chromium = play.chromium.launch(executable_path=browser, args=lab.FLAGS)
        for dark in (False, True):
            chosen = [n for n in names if n.endswith("-dark") == dark]
            if chosen:
                with lab.server(root, home, f"JupyterLab {'Dark' if dark else 'Light'}") as address:
                    for name in chosen:
                        take(lab.watched(chromium, 2300), address, root, name)
        chromium.close()


def take(page: Page, address: str, root: Path, name: str) -> None:
    """One panel in a notebook of its own."""
    known = name.removesuffix("-dark")
    home = f"import os; os.environ['WORKBENCH_HOME'] = {str(root / 'kept')!r}\n"
    preset = PRESET.get(known, "tiny")
    write(root / f"{name}.ipynb", home + f'import workbench as wb\nwb.open("{known}", preset="{preset}")')
    panel = open_and_run_all(page, address, f"{name}.ipynb", RUN_S)
    panel.get_by_role("button", name="Run", exact=True).click(timeout=DRAWN_MS)
    state(panel, "done", RUN_S)
    expect(panel.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=DRAWN_MS)
    page.wait_for_timeout(1500)  # the figure settles
    panel.evaluate("(part) => part.scrollIntoView({ block: 'start' })")
    page.mouse.move(2, 2)
    box = panel.bounding_box()
    assert box is not None
    clip = {"x": box["x"], "y": box["y"], "width": min(WIDTH, box["width"]), "height": min(MOST, box["height"])}
    drawn = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    PICTURES.mkdir(parents=True, exist_ok=True)
    file = PICTURES / f"panel-{name}.png"
    drawn.quantize(COLOURS).save(file, optimize=True)
    page.close()
    sys.stdout.write(f"{file}: {system(known).title}\n")


if __name__ == "__main__":
    main()
