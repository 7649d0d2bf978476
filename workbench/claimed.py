"""Every published number beside ours, over all systems: one table, derived from records and nothing else.

record (this machine's newest of a preset, else the one that is shipped) -> result -> result.claims() -> rows

A shipped record is a result's JSON, gzipped, in benchmarks/claims; `workbench claims --run --keep` makes them anew.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from workbench import aside
from workbench.backends import ROOT
from workbench.records import history, read_result
from workbench.runner import Run, start
from workbench.system import NAMES, Claim, Result, System, system
from workbench.terminal import error_pct

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHIPPED = ROOT / "benchmarks" / "claims"
FIRST = ("paper", "small")  # presets whose claims are taken before those of others; what `missing` runs
NEAR_PCT = 20.0  # "near" the paper's number


@dataclass(frozen=True)
class Source:
    """A result that speaks to claims. `here`: from this machine's history, not a shipped record."""

    system: str
    preset: str
    result: Result
    here: bool


@dataclass(frozen=True)
class Row:
    """One claim, and the run that ours is of."""

    system: str
    claim: Claim
    preset: str
    here: bool
    device: str
    started_at: str  # ISO 8601, UTC
    commit: str

    @property
    def how(self) -> str:
        """How ours was had: measured, modelled, fitted (modelled with the paper's own number), or not tried."""
        if self.claim.ours is None:
            return "not tried"
        return "fitted" if self.claim.fitted else self.claim.badge

    @property
    def command(self) -> str:
        """What makes this row anew."""
        return f"workbench run {self.system} --preset {self.preset}"

    @property
    def ratio(self) -> float:
        """Ours over the paper's, of per cent 1 and what they differ by; nan where that means nothing."""
        error = error_pct(self.claim)
        return math.nan if error is None else 1 + error / 100

    def cells(self) -> dict[str, Any]:
        """The row of a table."""
        c, tried = self.claim, self.claim.ours is not None
        return {
            "system": self.system, "claim": c.what, "paper": c.paper, "ours": c.ours, "unit": c.unit,
            "error_pct": None if (off := error_pct(c)) is None else float(f"{off:.4g}"), "how": self.how,
            "in_the_paper": c.source,
            "command": self.command, "device": self.device if tried else "", "started_at": self.started_at,
            "commit": self.commit, "shipped": not self.here, "note": c.note,
        }  # fmt: skip


class Claims(Sequence[Row]):
    """The table. In a notebook it shows as an overview and a part to unfold for each system."""

    def __init__(self, rows: Sequence[Row], skipped: Sequence[str] = ()) -> None:
        self._rows, self.skipped = list(rows), list(skipped)  # skipped: what could not be read, and why

    def __getitem__(self, at: Any) -> Any:
        return self._rows[at]

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, name: str) -> Claims:
        """Those of one system."""
        return Claims([row for row in self._rows if row.system == name])

    def to_frame(self) -> pd.DataFrame:
        """A row per claim and way it was had."""
        import pandas as pd

        return pd.DataFrame([row.cells() for row in self._rows])

    def overview(self) -> pd.DataFrame:
        """A row per system: claims, tried, and of those that are numbers how near we come."""
        import pandas as pd

        return pd.DataFrame([{"system": name} | counted(self.of(name)) for name in NAMES if len(self.of(name))])

    def figure(self) -> go.Figure:
        """Ours over the paper's, a dot a claim, a line a system."""
        from workbench.ui.claims import figure

        return figure(self)

    def sentence(self) -> str:
        """The table in words."""
        found = counted(self)
        return (
            f"{found['claims']} published numbers in {len(self)} rows: {found['measured']} measured, "
            f"{found['modelled']} modelled, {found['fitted']} fitted, {found['not tried']} not tried. Of those not "
            f"fitted {found[NEAR]} are within {NEAR_PCT:g} % of the paper's; the median error is "
            f"{found['median error (%)']} %."
        )

    def __repr__(self) -> str:
        return f"Claims({self.sentence()})"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        from workbench.ui.claims import html

        return {"text/plain": repr(self), "text/html": html(self)}

    def _ipython_display_(self) -> None:
        from workbench.ui.claims import display

        display(self)


NEAR = f"within {NEAR_PCT:g} %"


def counted(rows: Sequence[Row]) -> dict[str, Any]:
    """How many claims, how they were had, and how near those come that nothing was fitted to. Errors without sign."""
    errors = [abs(100 * (row.ratio - 1)) for row in rows if not math.isnan(row.ratio) and not row.claim.fitted]
    hows = [row.how for row in rows]
    return {
        "claims": len({(row.system, row.claim.what) for row in rows}),
        "measured": hows.count("measured"), "modelled": hows.count("modelled"),
        "fitted": hows.count("fitted"), "not tried": hows.count("not tried"),
        NEAR: sum(error <= NEAR_PCT for error in errors),
        "median error (%)": round(median(errors), 1) if errors else None,
    }  # fmt: skip


def claims(*, shipped: bool = False) -> Claims:
    """All published numbers beside ours. shipped: from the records that are shipped alone, not from this machine's.

    Nothing is run. A record that cannot be read is named in `.skipped`.
    """
    skipped: list[str] = []
    found = list(sources(skipped, shipped=shipped))
    return Claims([row for name in NAMES for row in rows([s for s in found if s.system == name])], skipped)


def sources(skipped: list[str], *, shipped: bool = False) -> Iterator[Source]:
    """The newest result of each preset of each system, where there is one."""
    for name in NAMES:
        target = system(name)
        mine = {} if shipped else _newest(target, skipped)
        for preset in target.presets:
            if (result := mine.get(preset)) is not None:
                yield Source(name, preset, result, here=True)
            elif (result := kept(target, preset, skipped)) is not None:
                yield Source(name, preset, result, here=False)


def _newest(target: System, skipped: list[str]) -> dict[str, Result]:
    """Of each preset the newest finished run that can be read; runs with other settings speak to no preset."""
    found: dict[str, Result] = {}
    for record in history(target.name):
        try:
            config = record.config() if record.state == "done" else None
            preset = next((name for name, of in target.presets.items() if of == config), None)
            if preset is not None and preset not in found:
                found[preset] = record.result()
        except ValueError as error:
            skipped.append(str(error))
    return found


def kept(target: System, preset: str, skipped: list[str]) -> Result | None:
    """The shipped record of a preset; None where none is shipped, or it is of other settings than today's."""
    file = SHIPPED / f"{target.name}-{preset}.json.gz"
    if not file.is_file():
        return None
    try:
        result = read_result(target, gzip.decompress(file.read_bytes()).decode())
    except (OSError, EOFError, ValueError) as error:
        skipped.append(f"{file.name}: {error}")
        return None
    if result.config != target.presets[preset]:
        skipped.append(f"{file.name}: the preset has other settings now; workbench claims --run --keep makes it anew")
        return None
    return result


def keep(target: System, preset: str, result: Result) -> Path:
    """Write a result as a shipped record, whole or not at all; equal results give equal bytes."""
    SHIPPED.mkdir(parents=True, exist_ok=True)
    file = SHIPPED / f"{target.name}-{preset}.json.gz"
    with aside.whole(file) as out:
        out.write(gzip.compress(result.to_json().encode(), mtime=0))
    return file


def keep_all(names: Sequence[str] = ()) -> Iterator[Path]:
    """Ship this machine's newest results of the presets in `FIRST`; yields each file written."""
    for name in names or NAMES:
        mine = _newest(system(name), [])
        yield from (keep(system(name), preset, mine[preset]) for preset in FIRST if preset in mine)


def rows(found: Sequence[Source]) -> list[Row]:
    """The claims of one system's results: each once for every way it was had, the first preset's where several had it.

    A claim that nobody tried is there once.
    """
    ordered = sorted(found, key=lambda s: FIRST.index(s.preset) if s.preset in FIRST else len(FIRST))
    made = [_row(source, claim) for source in ordered for claim in source.result.claims()]
    tried = {row.claim.what for row in made if row.claim.ours is not None}
    once: dict[tuple[str, str], Row] = {}
    for row in made:
        if row.claim.ours is not None or row.claim.what not in tried:
            once.setdefault((row.claim.what, row.claim.badge if row.claim.what in tried else ""), row)
    return list(once.values())


def _row(source: Source, claim: Claim) -> Row:
    told = source.result.provenance
    return Row(source.system, claim, source.preset, source.here, told.device, told.started_at, told.commit)


def missing(names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(system, preset) of those that `FIRST` names and this machine has no record of."""
    found = []
    for name in names or NAMES:
        target, mine = system(name), _newest(system(name), [])
        found += [(name, preset) for preset in FIRST if preset in target.presets and preset not in mine]
    return found


def run_missing(follow: Callable[[Run], Result], names: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Run what is missing, one after the other; yields (system, preset, "" or why it failed) after each."""
    for name, preset in missing(names):
        try:
            going = start(name, preset=preset)
            follow(going)
        except Exception as error:  # noqa: BLE001  one that cannot run here must not keep the others from running
            yield name, preset, f"{type(error).__name__}: {error}"
        else:
            yield name, preset, going.unrecorded
