"""Pictures of the README, from the shipped records: `make pictures` writes docs/pictures/<system>.png.

Each is the figure of a result as the panel draws it, or its upper rows, by headless Chromium and the plotly.js that is
installed.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs

from workbench.claimed import kept
from workbench.system import NAMES, system
from workbench.ui.show import figure_json

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 960, 520  # CSS pixels; a figure that asks for another height gets it
TOP = {"foundry": 440, "rlboost": 522, "hetermoe": 548, "lte": 886, "mm2": 870}  # pixels: whole rows of panels
COLOURS = 128  # a palette: a fifth of the bytes
SHOWN = dict.fromkeys(NAMES, "small")
PAGE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<div id="figure" style="width:{width}px;height:{height}px"></div><script>{plotly}</script>
<script>const told = {figure}; Plotly.newPlot("figure", told.data, told.layout, {{staticPlot: true}})
  .then(() => document.body.dataset.ready = "yes");</script>"""


def main() -> None:
    """Draw all, or those named."""
    names = sys.argv[1:] or list(SHOWN)
    browser = subprocess.run(
        [ROOT / "tools" / "find_browser.sh"], capture_output=True, text=True, check=True
    ).stdout.strip()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for name in names:
            skipped: list[str] = []
            result = kept(system(name), SHOWN[name], skipped)
            if result is None:
                sys.exit(f"{name}: no shipped record of preset {SHOWN[name]}; {'; '.join(skipped) or 'none is there'}")
            figure = figure_json(result.figure())
            height = figure["layout"].get("height") or HEIGHT
            page = Path(folder) / f"{name}.html"
            page.write_text(
                PAGE.format(width=WIDTH, height=height, plotly=get_plotlyjs(), figure=json.dumps(figure)),
                encoding="utf-8",
            )
            view = chromium.new_page(viewport={"width": WIDTH, "height": height})
            view.goto(page.as_uri())
            view.wait_for_selector("body[data-ready]", timeout=60_000)
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(height, TOP.get(name, height))}
            drawn = Image.open(io.BytesIO(view.screenshot(clip=clip))).convert("RGB")
            drawn.quantize(COLOURS).save(PICTURES / f"{name}.png", optimize=True)
            view.close()
            print(PICTURES / f"{name}.png")
        chromium.close()


if __name__ == "__main__":
    main()
