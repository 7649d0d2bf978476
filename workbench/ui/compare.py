"""Two or more results of one system side by side: numbers, ratios, badges, and in what the configs differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from workbench import theme
from workbench.records import Record
from workbench.runner import Run
from workbench.system import Result
from workbench.terminal import table as plain_table
from workbench.ui.show import PLOTLY, badge, figure_json
from workbench.ui.view import table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Comparison:
    """Results by name; the first is what the others are measured by. ValueError when they cannot be compared."""

    def __init__(self, results: dict[str, Result]) -> None:
        kinds = {type(r).__name__ for r in results.values()}
        if len(results) < 2:
            raise ValueError("a comparison needs two results")
        if len(kinds) > 1:
            raise ValueError(f"results of different systems cannot be compared: {', '.join(sorted(kinds))}")
        self.results = results
        self.names = list(results)

    def differences(self) -> dict[str, list[Any]]:
        """Fields of the configs that differ: name -> value in each."""
        configs = [r.config.model_dump() for r in self.results.values()]
        fields = dict.fromkeys(name for config in configs for name in config)
        values = {name: [config.get(name) for config in configs] for name in fields}
        return {name: row for name, row in values.items() if any(v != row[0] for v in row[1:])}

    def to_frame(self) -> pd.DataFrame:
        """A row per summary number: number, its value in each, ratio to the first, badge of each."""
        import pandas as pd

        sums = {name: r.summary() for name, r in self.results.items()}
        first = self.names[0]
        rows = []
        for number in dict.fromkeys(n for s in sums.values() for n in s):
            base = sums[first].get(number, math.nan)
            row: dict[str, Any] = {"number": number} | {name: s.get(number, math.nan) for name, s in sums.items()}
            for name in self.names[1:]:
                row[self._ratio(name)] = row[name] / base if base else math.nan
            for name, result in self.results.items():
                row[f"badge_{name}"] = result.provenance.badges.get(number, "")
            rows.append(row)
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Ratio of each number to the first result's, a row each; 1 is equal."""
        import plotly.graph_objects as go

        frame = self.to_frame()
        fig = go.Figure()
        for at, name in enumerate(self.names[1:], start=1):
            ratio = frame[self._ratio(name)]
            known = frame[ratio.notna() & (ratio > 0)]
            label = [theme.label(n) for n in known["number"]]
            values = [round(float(v), 4) for v in known[self._ratio(name)]]
            fig.add_bar(y=label, x=values, orientation="h", name=name, **theme.series(at).bar())
        fig.add_vline(x=1, line={"color": theme.QUIET, "dash": "dot", "width": 1.5})
        fig.update_yaxes(autorange="reversed")
        height = 150 + 26 * len(frame) * max(1, len(self.names) - 1)
        title = f"Relative to {self.names[0]}"
        text = f"{self.sentence()} Bars give each number of the summary relative to {self.names[0]}."
        return theme.finish(fig, title, text, x=f"ratio to {self.names[0]} (×)", y="number", height=height)

    def sentence(self) -> str:
        """What differs between the configs, in words."""
        said = []
        for field, row in self.differences().items():
            values = ", ".join(f"{value} ({name})" for name, value in zip(self.names, row, strict=True))
            said.append(f"{field} = {values}")
        return f"Settings that differ: {'; '.join(said)}." if said else "The settings are equal."

    def html(self) -> str:
        """Difference of the configs and the table of numbers."""
        frame = self.to_frame()
        head = ["number", *map(escape, self.names)]
        rows = []
        for row in frame.to_dict("records"):
            words = theme.label(row["number"])
            ratios = {n: f" ({theme.number(row[self._ratio(n)])}&nbsp;×)" for n in self.names[1:]}
            cells = [
                f"{theme.quantity(row['number'], row[n])}{ratios.get(n, '')}<br>{_mark(row[f'badge_{n}'])}"
                for n in self.names
            ]
            rows.append([escape(words), *cells])
        note = f"In brackets: the ratio to {self.names[0]}"
        return f"<p>{escape(self.sentence())}</p>{table(head, rows, caption=note, numeric=1)}"

    def text(self) -> str:
        """The same for a terminal."""
        ratios = [self._ratio(name) for name in self.names[1:]]
        badges = [f"badge_{name}" for name in self.names]
        rows = [
            [
                theme.label(row["number"]),
                *(theme.quantity(row["number"], row[name]) for name in self.names),
                *("" if math.isnan(row[ratio]) else f"{theme.number(row[ratio])} x" for ratio in ratios),
                ", ".join(dict.fromkeys(row[badge] for badge in badges if row[badge])),
            ]
            for row in self.to_frame().to_dict("records")
        ]
        heads = ["number", *self.names, *([f"{self.names[1]} / {self.names[0]}"] if len(ratios) == 1 else ratios)]
        return f"{self.sentence()}\n\n{plain_table([*heads, 'how it was had'], rows)}"

    def _ratio(self, name: str) -> str:
        return "ratio" if len(self.names) == 2 else f"{name} / {self.names[0]}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self.html(), PLOTLY: figure_json(self.figure())}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        put: Any = display
        put({"text/plain": repr(self), "text/html": self.html()}, raw=True)
        put({"text/plain": self.sentence(), PLOTLY: figure_json(self.figure())}, raw=True)

    def __repr__(self) -> str:
        return self.text()


def compare(
    a: Result | Run | Record, b: Result | Run | Record, *more: Result | Run | Record, names: Sequence[str] = ()
) -> Comparison:
    """Compare results, runs or records of one system. ValueError when one has no result or they are of two systems."""
    given = (a, b, *more)
    if names and len(set(names)) != len(given):
        raise ValueError(f"{len(given)} results need as many different names, not {list(names)}")
    called = names or [chr(ord("a") + at) for at in range(len(given))]
    return Comparison({name: result_of(one) for name, one in zip(called, given, strict=True)})


def result_of(one: Result | Run | Record) -> Result:
    """The result behind a result, a run or a record. ValueError says why there is none."""
    match one:
        case Result():
            return one
        case Run():
            if one.result is None:
                raise ValueError(f"this run of {one.system.name} is {one.state}: it has no result to compare")
            return one.result
        case Record():
            return one.result()
    raise TypeError(f"compare takes results, runs or records, not {type(one).__name__}")


def _mark(name: str) -> str:
    return badge(name) if name else ""
