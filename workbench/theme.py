"""How everything looks: colours that the colour-blind can tell apart, dashes and patterns beside them, number formats.

    fig = theme.finish(fig, "TTFT over link speed", "One sentence that says what is to be seen.",
                       x="link (MB/s)", y="TTFT (s)")

Colours are Okabe and Ito's. Their yellow is left out and two are darkened, so that each keeps 3:1 on white and on dark.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY = "#BB8100", "#3592C9", "#7A7A7A"  # the first two darkened from #E69F00 and #56B4E9
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
PAPER, INK, QUIET, GRID = "#FFFFFF", "#1F2328", "#59636E", "#E3E6EA"  # a figure is a light card, whatever is around it
_HEAD = 26  # pixels from the top of a figure to the foot of its title
PALE = ((0.0, PAPER), (1.0, SKY))  # a heat map with numbers in it: ink holds 4.5:1 on all of it
SURFACES = {"light": "#FFFFFF", "dark": "#111111"}  # JupyterLab's cell background in its two themes
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Style:
    """A series' look: colour, and the same told again by dash, marker and pattern."""

    colour: str
    dash: str
    marker: str
    pattern: str

    def line(self, width: float = 2.5) -> dict[str, Any]:
        """Keywords for a scatter trace: `go.Scatter(x=, y=, **style.line())`."""
        return {
            "line": {"color": self.colour, "dash": self.dash, "width": width},
            "marker": {"color": self.colour, "symbol": self.marker, "size": 8},
        }

    def bar(self) -> dict[str, Any]:
        """Keywords for a bar trace: `go.Bar(x=, y=, **style.bar())`."""
        light = {"fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.55)", "size": 7, "solidity": 0.25}
        pattern = {"shape": self.pattern, **light}
        return {"marker": {"color": self.colour, "pattern": pattern, "line": {"color": self.colour, "width": 1}}}


_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "dot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "circle-open")
_PATTERNS = ("", "/", ".", "\\", "x", "-", "|")
STYLES = tuple(Style(*look) for look in zip(PALETTE, _DASHES, _MARKERS, _PATTERNS, strict=True))

KINDS = {  # a span's kind -> place in STYLES; other kinds get one of the rest by their name
    "compute": 0,
    "prefill": 0,
    "load": 1,
    "plain": 1,
    "decode": 2,
    "oracle": 2,
    "capture": 3,
    "plan": 3,
    "hedge": 4,
    "retry": 4,
    "reuse": 4,
    "transfer": 5,
    "join": 5,
    "wait": 6,
    "idle": 6,
}


def series(at: int) -> Style:
    """Look of the `at`-th series of a figure."""
    return STYLES[at % len(STYLES)]


def kind(name: str) -> Style:
    """Look of spans of this kind: the same in every figure, every system and every process."""
    return STYLES[KINDS.get(name, zlib.crc32(name.encode()) % (len(STYLES) - 1))]


@cache
def template() -> go.layout.Template:
    """The plotly template of all figures."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": GRID,
        "linecolor": "#C5CBD3",
        "zerolinecolor": "#C5CBD3",
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#C5CBD3",
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13, "color": QUIET}},
        "tickfont": {"size": 12, "color": QUIET},
    }
    layout = {
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {"x": 0.012, "xanchor": "left", "y": 0.97, "yanchor": "top", "font": {"size": 16, "color": INK}},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": list(PALETTE),
        "colorscale": {"sequential": "Viridis"},
        "xaxis": axis,
        "yaxis": axis,
        "margin": {"l": 64, "r": 24, "t": 56, "b": 56},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1.0, "xanchor": "right"},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": "#C5CBD3", "font": {"color": INK, "family": FONT}},
        "bargap": 0.35,
    }
    return go.layout.Template(layout=layout)


def keys(
    fig: go.Figure, row: int, col: int, marks: Sequence[tuple[str, str, str]], *, head: str = "", per: int = 99
) -> None:  # fmt: skip
    """Lines above a panel that name what is drawn there; plotly's legends wrap to half of a figure.

    marks: (sign, colour, name) each, `per` of them a line; a bold `head` counts as one. Nothing without a panel.
    """
    panel = fig.get_subplot(row, col)
    if panel is None:
        return
    said = [f'<span style="color:{colour}"><b>{sign}</b></span>&nbsp;{name}' for sign, colour, name in marks]
    said = [f"<b>{head}</b>", *said] if head else said
    lines = ["&nbsp;&nbsp; ".join(said[i : i + per]) for i in range(0, len(said), per)]
    fig.add_annotation(
        text="<br>".join(lines), x=panel.xaxis.domain[0], y=panel.yaxis.domain[1], xref="paper", yref="paper",
        xanchor="left", yanchor="bottom", yshift=3, showarrow=False, align="left", font={"size": 12, "color": INK},
    )  # fmt: skip


def finish(fig: go.Figure, title: str, text: str, *, x: str = "", y: str = "", height: int | None = None) -> go.Figure:
    """Give a figure the template, its title, axis titles (`x`, `y`, with units) and text alternative; returns it.

    `text` is the sentence for those who do not see the figure; it lies in `fig.layout.meta["text"]`.
    """
    meta = fig.layout.meta if isinstance(fig.layout.meta, dict) else {}
    fig.update_layout(template=template(), title_text=title, meta=meta | {"text": text})
    if x:
        fig.update_xaxes(title_text=x)
    if y:
        fig.update_yaxes(title_text=y)
    if height is not None:
        fig.update_layout(height=height)
    if "<br>" in title:  # plotly sets the first of several lines by its foot, which a low figure has no room for
        fig.update_layout(title_pad_t=max(0.0, _HEAD - 0.03 * (fig.layout.height or 450)))
    return fig


def quiet(line: str) -> str:
    """A quiet line to put behind a figure's title, below it."""
    return f'<br><span style="font-size:12px;color:{QUIET}">{line}</span>'


def problems(fig: go.Figure) -> list[str]:
    """What the figure lacks, in words: title, axis titles, text alternative. Empty when it is fit to show."""
    found = []
    if not fig.layout.title.text:
        found.append("no title")
    meta = fig.layout.meta
    if not (isinstance(meta, dict) and len(str(meta.get("text", ""))) >= 20):
        found.append('no text alternative in layout.meta["text"]')
    drawn = [trace for trace in fig.data if "xaxis" in trace and "yaxis" in trace]  # a pie has no axes
    for name in sorted({getattr(trace, f"{side}axis") or side for trace in drawn for side in "xy"}):
        axis = fig.layout[f"{name[0]}axis{name[1:]}"]
        if axis.visible is not False and not axis.title.text:
            found.append(f"{name[0]} axis {name[1:] or 1} has no title")
    return found


def contrast(one: str, other: str) -> float:
    """WCAG contrast of two #RRGGBB colours, 1 (equal) to 21 (black on white)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


UNITS = {  # ending of a name -> its unit as shown; the longest ending wins
    "_per_s": "/s",
    "_gb_s": "GB/s",
    "_mb_s": "MB/s",
    "_gbps": "Gbit/s",
    "_tokens_s": "tokens/s",
    "_tok_s": "tokens/s",
    "_tokens": "tokens",
    "_gflops": "GFLOP/s",
    "_tflops": "TFLOP/s",
    "_pct": "%",
    "_gb": "GB",
    "_mb": "MB",
    "_kb": "kB",
    "_bytes": "bytes",
    "_us": "µs",
    "_ms": "ms",
    "_s": "s",
}
_CAPITALS = {"ttft": "TTFT", "tpot": "TPOT", "kv": "KV", "gpu": "GPU", "cpu": "CPU", "slo": "SLO", "p50": "p50"}


def split_unit(name: str) -> tuple[str, str]:
    """A field's name as words, and its unit: `link_mb_s` -> ("link", "MB/s"), `exact` -> ("exact", "")."""
    ending = next((e for e in UNITS if name.endswith(e) and len(name) > len(e)), "")
    words = name[: len(name) - len(ending)].split("_")
    return " ".join(_CAPITALS.get(word, word) for word in words), UNITS.get(ending, "")


def label(name: str) -> str:
    """`link_mb_s` -> "link (MB/s)": for axes, table heads and forms."""
    words, unit = split_unit(name)
    return f"{words} ({unit})" if unit else words


def number(value: float | None) -> str:
    """Three significant digits without powers of ten, where that reads well: 1234.5 -> "1,234", 0.01234 -> "0.0123"."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-4:
        return f"{value:.2e}"
    if size >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"


def quantity(name: str, value: float | None) -> str:
    """A summary number with the unit of its name: ("ttft_s", 1.234) -> "1.23 s"."""
    unit = split_unit(name)[1]
    return f"{number(value)} {unit}".rstrip()


def faded(colour: str, opacity: float = 0.28) -> str:
    """A colour "#RRGGBB" as the filling of an outlined area."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{opacity:g})"
