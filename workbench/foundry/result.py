"""What a Foundry run found: a row per way and batch size, the archive's anatomy, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.foundry.config import FoundryConfig
from workbench.foundry.rivals import READY, STEP
from workbench.system import Badge, Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WAYS: Mapping[str, str] = {
    "foundry": "Foundry, CPU analogue",
    "cold": "torch.compile, cold",
    "warm": "torch.compile, warm cache",
    "mega": "torch.compile, mega-cache",
    "aoti": "AOTInductor",
    "eager": "torch eager",
}
SIMULATED: Mapping[str, str] = {
    "capture": "vLLM, graphs captured at every start",
    "eager start": "vLLM without graphs",
    "one by one": "an archive without templates",
    "foundry start": "Foundry",
    "checkpoint": "process checkpoint, one GPU",
}
COLUMNS = {
    "way": "; ".join(f"{name}: {said}" for name, said in {**WAYS, **SIMULATED}.items()),
    "round": "repetition; every way starts a process of its own each time",
    "size": "batch size: sequences of the decode step; modelled: how many sizes the ladder has",
    "ready_s": "from the start of the process until this size and all before it had run once, s; imports included; "
    "modelled: until the first request can be taken, environment and weights included",
    "step_us": "a step of this size after that, the least of the timed ones, µs; none where it was modelled",
    "median_us": "the same, median, µs",
    "equal": "whether its outputs and KV on known inputs are, bit for bit, those that were captured",
    "badge": "measured here or modelled",
}


class Part(BaseModel):
    """A part of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Row(Part):
    """One batch size of one way in one process."""

    way: str
    round: int
    size: int
    ready_s: float
    step_us: float | None = None
    median_us: float | None = None
    equal: bool | None = None
    badge: Literal["measured", "modelled"] = "measured"


class Process(Part):
    """One way in one process: seconds since its start, and what it took."""

    way: str
    round: int
    import_s: float
    load_s: float
    ready_s: float
    cpu_s: float
    peak_mb: float
    disk_mb: float
    phases: dict[str, float] = Field(default_factory=dict)


class Size(Part):
    """One captured batch size, and what a fresh process made of it."""

    size: int
    template: str
    record_s: float  # compiling included, where it was the first of its kind
    parameter_bytes: int
    differing: int  # parameters that differ from those of the template's smallest size
    equal: bool  # the bits of torch.compile on inputs that it was not captured with
    control_differs: bool  # with one weight changed they are others


class Topology(Part):
    """A template: what its sizes share."""

    key: str
    sizes: list[int]
    nodes: int
    edges: int
    depth: int
    slots: int
    addresses: int
    differing: int  # slots whose value is not the same in all of its sizes
    calls: dict[str, int]


class Cell(Part):
    """One 8-byte parameter of a node, as the explorer draws it. Values of an address count from the arena's base."""

    node: int
    position: int
    kind: Literal["weight", "state", "input", "scratch", "number"]  # what an address points into, or no address
    differs: bool  # not the same at every size
    of: str = ""  # the tensor that an address points into
    values: list[int] = Field(default_factory=list)  # at the sizes that are shown


class Damaged(Part):
    """An archive that was damaged on purpose, and what came of it."""

    what: str
    cause: str  # "" where it was believed
    why: str
    refused_s: float  # from the start of a process to its refusal
    recaptured_s: float  # then, until a new archive was written; 0 where none was asked for
    equal: bool | None  # the graphs of the new one leave the same bits; None where none was asked for


class Burst(Part):
    """One simulated fleet through a burst of requests, by the way its replicas start."""

    way: str
    start_s: float
    requests: int
    late: int
    lost: int
    p99_s: float
    gpu_h: float
    counts: list[tuple[float, int, int, int]]  # second, ready, starting, waiting


class Published(Part):
    """A row of the paper's numbers beside the simulator's."""

    what: str
    paper: float
    ours: float
    unit: str
    error: float
    fitted: bool
    source: str
    note: str = ""


class Held(Part):
    """A Span that a result can hold."""

    lane: str
    start_s: float
    end_s: float
    label: str
    kind: str
    why: dict[str, float | str] = Field(default_factory=dict)

    def span(self) -> Span:
        """As an event of the timeline."""
        return Span(self.lane, self.start_s, self.end_s, self.label, self.kind, self.why)


class Facts(Part):
    """About the archive as a whole."""

    id: str
    archive_mb: float
    weights_mb: float
    arena_mb: float
    binaries: int
    binaries_mb: float


class FoundryResult(Result):
    """A ladder captured, rebuilt and compared."""

    config: FoundryConfig
    rows: list[Row]
    processes: list[Process]
    held: list[Held]
    sizes: list[Size] = Field(default_factory=list)
    templates: list[Topology] = Field(default_factory=list)
    cells: list[Cell] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)  # of the nodes that the cells are of
    shown: list[int] = Field(default_factory=list)  # batch sizes whose values the cells hold
    damages: list[Damaged] = Field(default_factory=list)
    facts: Facts | None = None
    built: int = 0  # simulated templates
    capture_s: float = 0.0  # from the start of the capturing process to the archive on disk
    drift: float = 0.0  # largest difference of logits between the compiled and the eager step, of the largest logit
    said: str = ""  # digest of the answers to the inputs that the seed draws
    imported: list[str] = Field(default_factory=list)  # heavy packages that the fresh process had; none is wanted
    elsewhere: bool | None = None  # equal also with the arena's place taken; None where that was not tried
    bursts: list[Burst] = Field(default_factory=list)
    phases: dict[str, list[tuple[str, float]]] = Field(default_factory=dict)  # of a simulated start, by way
    published: list[Published] = Field(default_factory=list)
    table: list[Claim] = Field(default_factory=list)

    def of(self, way: str) -> list[Process]:
        """Processes of one way."""
        return [p for p in self.processes if p.way == way]

    def ways(self) -> list[str]:
        """Ways that were run, ours first."""
        return [way for way in WAYS if self.of(way)]

    def median_s(self, way: str, field: str = "ready_s") -> float:
        """Median over rounds. ValueError (StatisticsError) where the way was not run."""
        return float(median(getattr(p, field) for p in self.of(way)))

    def step_us(self, way: str) -> dict[int, float]:
        """Least time of a step, by batch size."""
        found: dict[int, float] = {}
        for r in self.rows:
            if r.way == way and r.step_us is not None:
                found[r.size] = min(r.step_us, found.get(r.size, r.step_us))
        return found

    @property
    def exact(self) -> bool:
        """A fresh process left torch.compile's bits at every size, one changed weight did not, nor did a fallback."""
        there = bool(self.sizes) and all(s.equal and s.control_differs for s in self.sizes)
        ours = all(r.equal for r in self.rows if r.way == "foundry")
        return (
            there
            and ours
            and all(d.cause and d.equal is not False for d in self.damages)
            and self.elsewhere is not False
        )

    @property
    def modelled(self) -> bool:
        """Whether it was simulated."""
        return not self.processes

    def started_s(self, way: str) -> float:
        """A simulated start with this run's ladder, s."""
        return next(r.ready_s for r in self.rows if r.way == way and r.size == self.config.sim_graphs)

    def summary(self) -> dict[str, float]:
        return self._modelled_summary() if self.modelled else self._summary()

    def _modelled_summary(self) -> dict[str, float]:
        made = {
            f"start_{_snake(way)}_s": self.started_s(way) for way in SIMULATED if any(r.way == way for r in self.rows)
        }
        made["reduction_vs_capture"] = 1 - made["start_foundry_s"] / made["start_capture_s"]
        made |= {"graphs": float(self.config.sim_graphs), "templates": float(self.built)}
        for burst in self.bursts:
            made |= {f"{_snake(burst.way)}_{name}_requests": float(getattr(burst, name)) for name in ("late", "lost")}
        return made

    def _summary(self) -> dict[str, float]:
        made: dict[str, float] = {"capture_s": self.capture_s}
        if self.facts:
            made["archive_mb"] = self.facts.archive_mb
        made |= {"templates": float(len(self.templates)), "graphs": float(len(self.sizes))}
        made |= {name: self.median_s(way) for way, name in READY.items() if self.of(way)}
        if "compile_cold_s" in made:
            made["reduction_vs_cold"] = 1 - made["load_s"] / made["compile_cold_s"]
        made |= {name: sum(self.step_us(way).values()) for way, name in STEP.items() if self.of(way)}
        return made | {"exact": float(self.exact)}

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.rows], columns=list(COLUMNS))

    def figure(self) -> go.Figure:
        from workbench.foundry.figures import overview

        return overview(self)

    def archive_figure(self) -> go.Figure:
        """The archive explorer: every parameter of a layer's nodes, and which of them are addresses of what."""
        from workbench.foundry.explorer import picture

        return picture(self)

    def spans(self) -> list[Span]:
        return [one.span() for one in self.held]

    def claims(self) -> list[Claim]:
        return self.table

    def sentence(self) -> str:
        from workbench import theme

        s = self.summary()
        if self.modelled:
            c = self.config
            where = f"{c.sim_model} on {c.sim_ranks} GPU{'s' * (c.sim_ranks > 1)}, {c.sim_graphs} decode graphs"
            lost = ", ".join(f"{SIMULATED[b.way]} {b.late + b.lost:,} of {b.requests:,}" for b in self.bursts)
            return (
                f"Modelled: {where}: ready {theme.number(s['start_capture_s'])} s after a start that captures them, "
                f"{theme.number(s['start_foundry_s'])} s after one that rebuilds them, with environment and weights; "
                f"requests late or lost in a burst: {lost}."
            )
        n, t = len(self.sizes), len(self.templates)
        what = f"{n} decode steps of {_model(self.config)}, {t} template{'s' * (t != 1)},"
        ready = f"are ready {theme.number(s['load_s'])} s after a process starts, imports included"
        text = f"Measured on {self.provenance.device}: {what} {ready}"
        beside = [
            f"{WAYS[way]} {theme.number(s[name])} s" for way, name in READY.items() if way != "foundry" and name in s
        ]
        text += f"; {', '.join(beside)}" if beside else ""
        bits = "bit for bit those of torch.compile, and with one weight changed are not"
        text += f"; the rebuilt steps are {bits}" if self.exact else "; the rebuilt steps are NOT all equal"
        return f"{text}{self.refusals()}."

    def refusals(self) -> str:
        """What became of damaged copies, as the end of a sentence; "" where there were none."""
        said = [f"{d.what} {f'is refused as {d.cause}' if d.cause else 'is NOT refused'}" for d in self.damages]
        again = [d for d in self.damages if d.equal is not None]
        if again:
            bits = "equal" if all(d.equal for d in again) else "DIFFERENT"
            said.append(f"captured again in {again[-1].recaptured_s:.1f} s, bits {bits}")
        return "".join(f"; {each}" for each in said)

    def decided(self) -> dict[str, Any]:
        if self.modelled:
            return {"rows": [r.model_dump() for r in self.rows], "bursts": [b.model_dump() for b in self.bursts]}
        return {
            "seed": self.config.seed,
            "sizes": [s.size for s in self.sizes],
            "said": self.said,
            "templates": sorted(t.nodes for t in self.templates),
            "exact": self.exact,
        }


def _model(config: FoundryConfig) -> str:
    if config.model == "tiny":
        return "a tiny random Llama"
    return "SmolLM2-135M" + (f" ({config.layers} layer{'s' * (config.layers > 1)})" if config.layers else "")


def _snake(way: str) -> str:
    return way.removesuffix(" start").replace(" ", "_")


def summary_badges(names: Sequence[str], measured: bool) -> dict[str, Badge]:
    """Badge of every summary number; counts of a measured run are of what lies on disk."""
    known: dict[str, Badge] = {} if measured else {"graphs": "set"}
    return {name: known.get(name, "measured" if measured else "modelled") for name in names}
