"""The model that follows the form: the text's experts at the threshold on the slider, and what that should cost.

Nothing runs here: gates of the last text that was run (or of the shipped one) are thresholded anew, and the score is
read off the recorded curve of the shipped model.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.lte import recorded
from workbench.lte.activity import shown
from workbench.lte.config import LteConfig
from workbench.lte.figures import MAP, _words, modelled, token_map


def preview(config: LteConfig) -> go.Figure:
    """Layer by token and layer by expert at `config.tau`; for backend sim the modelled times."""
    if config.backend == "sim":
        from workbench.lte.work import simulated

        return modelled(simulated(config))  # type: ignore[arg-type]
    found, own = shown(config)
    if found is None:
        return _nothing(config)
    active = found.active(config.tau)
    left_out = 1 - float(active.mean())
    fig = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.14,
        subplot_titles=("Share of experts that each token uses", "How often each expert runs in this text"),
    )  # fmt: skip
    fig.add_trace(token_map(found, config.tau, {"x": 1.02, "thickness": 10}), row=1, col=1)
    _words(fig, found, 1, 1)
    often = go.Heatmap(
        z=np.round(100 * active.mean(axis=1)).astype(np.uint8), zmin=0, zmax=100, colorscale=MAP, showscale=False,
        hovertemplate="layer %{y}, expert %{x}: %{z} % of tokens<extra></extra>",
    )  # fmt: skip
    fig.add_trace(often, row=1, col=2)
    fig.update_xaxes(title_text="expert (32 neurons each)", row=1, col=2)
    fig.update_yaxes(title_text="layer (from the input)", row=1, col=2)
    dead = int((~active.any(axis=1)).sum())
    text = (
        f"At a threshold of {config.tau:.2f} {100 * left_out:.0f} % of the FFN is left out over {len(found.words)} "
        f"tokens; {dead} of {found.layers * found.experts} experts run for none of them{_score(config, left_out)}."
    )
    if not own:
        text += " Shown is the text that was run last; Run looks at yours."
    title = f"Threshold {config.tau:.2f}: {100 * left_out:.0f} % left out{_score(config, left_out)}"
    return theme.finish(fig, title, text, height=470)


def _score(config: LteConfig, left_out: float) -> str:
    """What the recorded curve says at this threshold, in words; "" where it does not reach."""
    curve = sorted((r.x, r.value, r.unit) for r in recorded.rows(config.task) if r.name == "LTE")
    if config.model == "tiny" or not curve or not curve[0][0] - 0.02 <= left_out <= curve[-1][0] + 0.02:
        return ""
    value = float(np.interp(left_out, [c[0] for c in curve], [c[1] for c in curve]))
    return f", {curve[0][2]} {value:.3g} on the recorded curve"


def _nothing(config: LteConfig) -> go.Figure:
    """Before any run, where nothing is shipped."""
    fig = go.Figure(go.Scatter(x=[0.5], y=[0.5], mode="text", text=["Run once to see the experts of the text"]))
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    text = f"Nothing was run yet with model {config.model}: run once, then the threshold moves live."
    return theme.finish(fig, "Experts of the text", text, height=300)
