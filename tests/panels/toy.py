"""A small system for tests: two lanes race towards each other. It measures nothing and says so."""

from __future__ import annotations

import sys
import time
import types
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
from pydantic import Field, model_validator

from workbench import records, system, theme
from workbench.system import Claim, Config, Note, Point, Progress, Provenance, Result, Span, System, Work


class Toy(Config):
    backend: Literal["auto", "cpu"] = Field("auto", description="Where the work runs")
    chunks: int = Field(12, ge=1, le=400, description="Chunks of the prompt that have to be had, one way or the other")
    link_mb_s: float | None = Field(
        None, gt=0, le=1000, description="Speed of the link to the store", json_schema_extra={"none": "not throttled"}
    )
    mode: Literal["both", "compute", "load"] = Field("both", description="Which lanes take part")
    check: bool = Field(True, description="Compare the outcome with the definition")
    tag: str = Field("first", max_length=20, description="A word of your own, kept with the run")
    pause_s: float = Field(
        0.0, ge=0, le=1, description="Time between two chunks", json_schema_extra={"group": "advanced"}
    )
    fail_at: int = Field(-1, description="Chunk at which to fail", json_schema_extra={"group": "advanced"})

    @model_validator(mode="after")
    def _lanes(self) -> Toy:
        if self.mode == "load" and self.chunks > 300:
            raise ValueError("loading alone takes at most 300 chunks")
        if self.fail_at >= 400:
            raise ValueError("fail_at: must be a chunk below 400")
        return self


class ToyResult(Result):
    times: list[float]

    def summary(self) -> dict[str, float]:
        return {"ttft_s": self.times[-1], "speedup": 1.6, "chunks": float(len(self.times))}

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"chunk": range(len(self.times)), "done_s": self.times})

    def figure(self) -> go.Figure:
        fig = go.Figure(go.Scatter(x=list(range(len(self.times))), y=self.times, **theme.series(0).line()))
        return theme.finish(fig, "Chunks over time", self.sentence(), x="chunk (index)", y="done after (s)")

    def sentence(self) -> str:
        return f"{len(self.times)} chunks were had by {self.config.mode} lanes; the <last> came after the others."

    def decided(self) -> dict[str, object]:
        return {"times": self.times}

    def claims(self) -> list[Claim]:
        return [
            Claim(what="speed-up", paper=2.6, ours=1.6, unit="x", badge="modelled", source="Fig. 9", note="a toy"),
            Claim(what="on 32 GPUs", paper=4.0, ours=None, unit="x", badge="paper", source="Table 2"),
        ]

    def spans(self) -> list[Span]:
        return [span_of(self.config, at) for at in range(len(self.times))]


def span_of(config: Toy, at: int) -> Span:
    lane = {"both": "compute" if at % 2 == 0 else "load"}.get(config.mode, config.mode)
    why = {"compute_s": 0.1, "load_s": 0.12, "choice": lane}
    return Span(lane, at * 0.1, at * 0.1 + 0.09, f"chunk {at}", lane, why)


def work(config: Toy) -> Work:
    yield Note(f"{config.chunks} chunks, <mode> {config.mode}")
    for at in range(config.chunks):
        yield Progress(at, config.chunks, f"chunk {at} of {config.chunks}")
        if at == config.fail_at:
            raise RuntimeError(f"the disk is full at chunk {at}; free some room")
        time.sleep(config.pause_s)
        yield span_of(config, at)
        yield Point("tokens done", at, at * 256)
    yield Progress(config.chunks, config.chunks, "all chunks had")
    badges = {"ttft_s": "measured", "speedup": "modelled", "chunks": "measured"}
    return ToyResult(
        config=config,
        provenance=Provenance(
            backend="cpu", device="a toy", commit="0" * 7, versions={"toy": "1"}, started_at="2026-01-01", badges=badges
        ),
        times=[round(at * 0.1 + 0.09 + config.seed % 7, 3) for at in range(config.chunks)],
    )


def preview(config: Toy) -> go.Figure:
    link = config.link_mb_s or 100.0
    fig = go.Figure(go.Scatter(x=[0, link], y=[0, config.chunks], name="modelled", **theme.series(1).line()))
    text = f"Modelled: {config.chunks} chunks at {link:g} MB/s"
    return theme.finish(fig, "Model of this form", text, x="link (MB/s)", y="chunks")


SYSTEM = System(
    name="toy",
    title="Toy: two lanes race",
    paper="Nobody, Nowhere 2026",
    about="Two lanes take chunks from both ends until they meet.",
    config=Toy,
    result=ToyResult,
    work=work,
    presets={"tiny": Toy(chunks=4), "small": Toy(), "slow": Toy(chunks=400, pause_s=0.1), "paper": Toy(chunks=300)},
    baselines={"compute only": {"mode": "compute"}, "load only": {"mode": "load"}},
    backends=frozenset({"cpu"}),
    columns={"chunk": "which chunk", "done_s": "when it was there (s)"},
    preview=preview,
    detail=lambda span: f"{span.label} went to {span.why['choice']}",
)


def install(patch=setattr, one: System = SYSTEM) -> System:
    """Put a toy into the catalogue, alone, by `patch(object, name, value)`."""
    module = types.ModuleType(f"workbench.{one.name}")
    module.SYSTEM = one
    sys.modules[module.__name__] = module
    forget()
    patch(system, "NAMES", (one.name,))
    patch(records, "NAMES", (one.name,))
    return one


def forget():
    """The catalogue is asked for its systems anew."""
    system.system.cache_clear()
    system.systems.cache_clear()


def installed(monkeypatch, one: System = SYSTEM):
    """A toy in the catalogue, as a fixture yields it; afterwards the catalogue is as it was."""
    yield install(monkeypatch.setattr, one)
    monkeypatch.undo()
    forget()


def set_fields(panel, **values):
    """Set fields of a panel's form, and have it look."""
    for name, value in values.items():
        panel.form.fields[name].value = value
    panel.form._refresh()
