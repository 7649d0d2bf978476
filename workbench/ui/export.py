"""Results as files: one offline HTML page, CSV, JSON and a Chrome trace. Nothing is fetched when they are opened.

save(result, "cake.html")          also .csv, .json and .trace.json
save_all(result, folder, "cake")   all four, side by side
report([result, ...])              the page as text, plotly.js in it once
save_report([result, ...], "report.html")      the page, and the files of each result beside it
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from workbench import aside, theme
from workbench.system import Badge, Result, Span, System, systems
from workbench.trace import chrome_trace
from workbench.ui import show
from workbench.ui.view import table

MOST_ROWS = 500  # of the table in the page; the CSV in it has all
MOST_LINK = 2_000_000  # bytes of a file that is offered inside a page or panel; larger ones are files beside it

# A page that may fetch nothing: a leak is stopped by the browser, not only by our care.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
_STYLE = Path(__file__).parent / "report.css"


def report(
    results: Sequence[Result],
    title: str = "Workbench report",
    *,
    beside: Sequence[str] = (),
    failed: Mapping[str, str] | None = None,
) -> str:
    """All results on one page that needs no network: numbers, claims, figures, tables, configs, downloads.

    `beside` are the stems of the files that each result has next to the page; `failed` says of other systems, by
    title, why they have no result.
    """
    from plotly.offline import get_plotlyjs

    stems = beside or [""] * len(results)
    parts = [_section(at, result, stem) for at, (result, stem) in enumerate(zip(results, stems, strict=True))]
    parts += [_failure(name, why) for name, why in (failed or {}).items()]
    style = _STYLE.read_text(encoding="utf-8")
    badges = " ".join(map(show.badge, get_args(Badge)))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{style}</style>'
        f"<script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1>"
        f'<p class="quiet">Every number says how it was had: {badges}</p>'
        f"{''.join(parts)}</body></html>\n"
    )


def csv(result: Result) -> str:
    """The table behind the figure."""
    return str(result.to_frame().to_csv(index=False))


def as_json(result: Result) -> str:
    """The whole result, which `workbench.records.read_result` reads again."""
    return result.to_json(indent=1)


def trace(result: Result, spans: Sequence[Span] = ()) -> str:
    """The timeline for chrome://tracing or ui.perfetto.dev; `spans` stand in when the result has none."""
    return chrome_trace(result.spans() or spans, title=type(result).__name__)


FORMATS: dict[str, tuple[str, Callable[[Result], str]]] = {  # ending -> (MIME type, text of a result)
    ".trace.json": ("application/json", trace),
    ".json": ("application/json", as_json),
    ".csv": ("text/csv", csv),
    ".html": ("text/html", lambda result: report([result], name_of(result)[1])),
}


def save(result: Result, path: str | Path) -> Path:
    """Write a result in the format of the path's ending. ValueError names the endings; OSError leaves no half file."""
    target = Path(path)
    for ending, (_, text) in FORMATS.items():
        if target.name.endswith(ending):
            return write(target, text(result))
    raise ValueError(f"{target.name}: a result is saved as {', '.join(FORMATS)}")


def save_all(result: Result, folder: Path, stem: str, spans: Sequence[Span] = ()) -> list[Path]:
    """Write every format as `stem` plus its ending into `folder`; the page links to the others. OSError as `save`."""
    files = [write(folder / (stem + ending), text) for ending, text in _texts(result, spans).items()]
    page = report([result], name_of(result)[1], beside=[stem])
    return [write(folder / f"{stem}.html", page), *files]


def save_report(results: Sequence[Result], path: Path, failed: Mapping[str, str] | None = None) -> list[Path]:
    """Write the report to `path`, and each result's table, JSON and trace beside it; all paths, the page first."""
    names = [name_of(result)[0] for result in results]
    again = [names[:at].count(name) for at, name in enumerate(names)]  # a second result of one system is its -2
    stems = [f"{path.stem}-{name}" + (f"-{n + 1}" if n else "") for name, n in zip(names, again, strict=True)]
    files = [
        write(path.with_name(stem + ending), text)
        for result, stem in zip(results, stems, strict=True)
        for ending, text in _texts(result).items()
    ]
    return [write(path, report(results, beside=stems, failed=failed)), *files]


def _texts(result: Result, spans: Sequence[Span] = ()) -> dict[str, str]:
    """Ending -> text, of every format but the page."""
    return {".csv": csv(result), ".json": as_json(result), ".trace.json": trace(result, spans)}


def write(target: Path, text: str) -> Path:
    """Write text whole or not at all."""
    with aside.whole(target, sync=False) as out:
        out.write(text.encode())
    return target


def links(result: Result, stem: str, spans: Sequence[Span] = (), *, beside: str = "", hint: str = "") -> str:
    """Download links with the files inside them. One that is too large for that links to the file next to the page.

    `beside` is the stem of those files, "" where there are none: then `hint` says how to get the file.
    """
    return " · ".join(
        _link(_WORDS[ending], stem + ending, text, beside + ending if beside else "", hint)
        for ending, text in _texts(result, spans).items()
    )


def name_of(result: Result) -> tuple[str, str]:
    """(name, title) of the system that a result is of."""
    owner: System | None = next((s for s in systems().values() if isinstance(result, s.result)), None)
    return (owner.name, owner.title) if owner else (type(result).__name__.lower(), type(result).__name__)


_WORDS = {".csv": "table (CSV)", ".json": "result (JSON)", ".trace.json": "trace (Chrome, Perfetto)"}


def _link(words: str, name: str, text: str, beside: str, hint: str) -> str:
    if len(text) > MOST_LINK:
        size = f"{len(text) / 1e6:.1f} MB"
        if beside:
            return (
                f'<a href="{escape(quote(beside))}">{escape(words)}</a> ({size}, beside this page as {escape(beside)})'
            )
        said = hint or f"save the result as {name.partition('.')[2].upper()}"
        return f'<span class="wb-quiet">{escape(words)}: {size}, too large for a link; {escape(said)}</span>'
    data = base64.b64encode(text.encode()).decode()
    kind = next(mime for ending, (mime, _) in FORMATS.items() if name.endswith(ending))
    return f'<a download="{escape(name)}" href="data:{kind};base64,{data}">{escape(words)}</a>'


def _failure(name: str, why: str) -> str:
    return f'<section><h2>{escape(name)}</h2><p role="alert"><b>No result:</b> {escape(why)}</p></section>'


def _section(at: int, result: Result, beside: str) -> str:
    name, title = name_of(result)
    fig = result.figure()
    said = show.alternative(fig)
    drawn = fig.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{at}",
        config=show.CONFIG,
    )
    config = escape(json.dumps(result.config.model_dump(mode="json"), indent=1))
    return (
        f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{show.html(result)}'
        f'<figure role="img" aria-label="{escape(said)}">{drawn}<figcaption>{escape(said)}</figcaption></figure>'
        f"<details><summary>Table</summary>{frame_html(result)}</details>"
        f"<details><summary>Settings</summary><pre>{config}</pre></details>"
        f"<p>Download: {links(result, name, beside=beside)}</p></section>"
    )


def frame_html(result: Result, most: int = MOST_ROWS) -> str:
    """The first rows of the table, columns explained where the system does."""
    frame = result.to_frame()
    owner = next((s for s in systems().values() if isinstance(result, s.result)), None)
    meaning = owner.columns if owner else {}
    head = [f'<span title="{escape(meaning.get(str(c), ""))}">{escape(str(c))}</span>' for c in frame.columns]
    rows = [[_cell(value) for value in row] for row in frame.head(most).itertuples(index=False)]
    more = (
        f'<p class="quiet">The first {most} of {len(frame):,} rows; the CSV has all.</p>' if len(frame) > most else ""
    )
    return f'<div class="scroll wb-scroll">{table(head, rows)}</div>{more}'


def _cell(value: object) -> str:
    return theme.number(value) if isinstance(value, float) else escape(str(value))
