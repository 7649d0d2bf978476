"""How a result looks: sentence, numbers with their badges, the paper's claims, provenance, and the figure."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from workbench import theme
from workbench.system import Badge, Claim, Result
from workbench.ui.view import table

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTLY = "application/vnd.plotly.v1+json"
CONFIG = {"displaylogo": False, "responsive": True, "typesetMath": False}  # what lies between two prices is no formula
_BADGES: dict[str, tuple[str, str, str]] = {  # badge -> text, background, meaning; all at least 4.5:1
    "measured": ("#0B5A3C", "#D9F2E6", "measured on the device named below"),
    "modelled": ("#6B4300", "#FBEBCB", "computed by a cost model, not measured"),
    "paper": ("#234A84", "#E1EBFA", "as printed in the paper"),
    "set": ("#444C56", "#E9ECEF", "as asked, neither measured nor modelled"),
}


def badge(name: Badge | str) -> str:
    """The mark that says how a number was had."""
    ink, ground, meaning = _BADGES.get(name, ("#444444", "#EEEEEE", ""))
    look = f"color:{ink};background:{ground};border-radius:8px;padding:0 7px;font-size:11px;white-space:nowrap"
    return f'<span class="wb-badge" style="{look}" title="{meaning}">{escape(name)}</span>'


def html(result: Result) -> str:
    """The result without its figure, as a self-contained piece of HTML."""
    return (
        f"<p><b>{escape(result.sentence())}</b></p>{summary_html(result)}{claims_html(result.claims())}"
        f'<p style="font-size:12px;opacity:0.8">{provenance_html(result)}</p>'
    )


def summary_html(result: Result) -> str:
    """The summary as a table: number, value with unit, badge."""
    badges = result.provenance.badges
    rows = [
        [escape(theme.split_unit(name)[0]), theme.quantity(name, value), badge(badges[name]) if name in badges else ""]
        for name, value in result.summary().items()
    ]
    return table(["number", "value", "how"], rows)


def claims_html(claims: list[Claim]) -> str:
    """The paper's numbers beside ours; nothing when there are none."""
    rows = [
        [
            escape(c.what),
            f"{theme.number(c.paper)}&nbsp;{unit(c)}",
            f"{theme.number(c.ours)}&nbsp;{unit(c)}" if c.ours is not None else "not tried here",
            how(c),
            escape(c.source),
            escape(c.note),
        ]
        for c in claims
    ]
    head = ["claim", "paper", "here", "how", "where in the paper", "note"]
    return table(head, rows, caption="The paper's numbers beside ours") if rows else ""


def how(claim: Claim) -> str:
    """How ours was had: its badge, and whether the paper's number went into it; nothing where it was not tried."""
    if claim.ours is None:
        return ""
    return badge(claim.badge) + ("&nbsp;fitted" if claim.fitted else "")


def unit(claim: Claim) -> str:
    """The claim's unit, a factor as ×."""
    return "×" if claim.unit == "x" else escape(claim.unit)


def provenance_html(result: Result) -> str:
    """One line: backend, device, seed, time, commit, versions."""
    p = result.provenance
    versions = ", ".join(f"{name} {version}" for name, version in p.versions.items())
    line = f"{p.backend} on {p.device} · seed {result.config.seed} · {p.started_at} · {theme.number(p.seconds)} s"
    return escape(f"{line} · commit {p.commit or 'unknown'} · {versions}")


def figure_json(fig: go.Figure) -> dict[str, Any]:
    """The figure as plain JSON, for the plotly MIME type. Equal figures give equal JSON."""
    found: dict[str, Any] = json.loads(fig.to_json())
    found["config"] = dict(CONFIG)
    return found


def alternative(fig: go.Figure) -> str:
    """A figure in words, "" when it carries none."""
    meta = fig.layout.meta if isinstance(fig.layout.meta, dict) else {}
    return str(meta.get("text", ""))


def text(result: Result) -> str:
    """The sentence and the rounded numbers."""
    numbers = ", ".join(f"{name} {theme.number(value)}" for name, value in result.summary().items())
    return f"{result.sentence()}\n{numbers}"


def mimebundle(result: Result) -> dict[str, Any]:
    """All forms of a result at once; a front end takes the richest that it can show."""
    return {"text/plain": text(result), "text/html": html(result), PLOTLY: figure_json(result.figure())}


def display(result: Result) -> None:
    """Show a result as two plain outputs, numbers and figure, which a saved notebook keeps without a kernel.

    Two, because a front end shows one form of each output: with the figure it would leave out the numbers.
    """
    from IPython.display import display

    put: Any = display
    fig = result.figure()
    put({"text/plain": text(result), "text/html": html(result)}, raw=True)
    put({"text/plain": alternative(fig) or result.sentence(), PLOTLY: figure_json(fig)}, raw=True)
