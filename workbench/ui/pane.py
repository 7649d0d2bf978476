"""A plain plotly figure inside a panel, drawn by the front end's own plotly, which costs the figure and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as widgets

from workbench.ui.show import PLOTLY, alternative, figure_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HEIGHT = 450  # pixels: plotly's, where a figure names none


class FigurePane(widgets.VBox):  # type: ignore[misc]
    """Shows one figure at a time; setting it is setting a trait, which any thread may do."""

    def __init__(self) -> None:
        self.out = widgets.Output()
        self.fig: go.Figure | None = None
        super().__init__([self.out])
        self.add_class("wb-figure")

    def show(self, fig: go.Figure) -> None:
        """Show this figure in place of the one before."""
        self.fig = fig
        # a height of its own: plotly measures its box anew while JupyterLab changes themes, and stays at what it finds
        self.layout.height = f"{fig.layout.height or _HEIGHT}px"
        data = {PLOTLY: figure_json(fig), "text/plain": alternative(fig)}
        self.out.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    def clear(self) -> None:
        """Show nothing."""
        self.fig = None
        self.layout.height = None
        self.out.outputs = ()

    def __repr__(self) -> str:
        return "FigurePane()"
