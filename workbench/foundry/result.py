"""What a Foundry run found: a row per way and batch size, the archive's anatomy, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from pydantic import Field

from workbench.foundry.config import FoundryConfig
from workbench.foundry.parts import Burst, Cell, Damaged, Engine, Facts, Process, Published, Row, Size, Topology
from workbench.foundry.rivals import READY, STEP
from workbench.held import Held
from workbench.system import Claim, Result, Span

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
    "recapture": "torch.cuda graphs, captured at start",
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
    "step_us": "a step of this size after that, all ways by turns: the least of the timed ones, µs; none if modelled",
    "median_us": "the same, median, µs",
    "equal": "whether its outputs and KV on known inputs are, bit for bit, those that were captured",
    "badge": "measured here or modelled",
}


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
    engines: list[Engine] = Field(default_factory=list)  # starts of vLLM beside ours
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

    def named(self, way: str) -> str:
        """What a way is called here: ours is an analogue on a CPU, and is said to be."""
        return "Foundry" if way == "foundry" and self.provenance.backend == "cuda" else WAYS[way]

    def median_s(self, way: str, field: str = "ready_s") -> float:
        """Median over rounds. ValueError (StatisticsError) where the way was not run."""
        return float(median(getattr(p, field) for p in self.of(way)))

    def step_us(self, way: str) -> dict[int, float]:
        """Time of a step, by batch size: the median of its timed ones, and over rounds."""
        found: dict[int, list[float]] = {}
        for r in self.rows:
            if r.way == way and r.median_us is not None:
                found.setdefault(r.size, []).append(r.median_us)
        return {size: float(median(each)) for size, each in found.items()}

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

    def started_s(self, way: str) -> float:
        """A simulated start with this run's ladder, s."""
        return next(r.ready_s for r in self.rows if r.way == way and r.size == self.config.sim_graphs)

    def summary(self) -> dict[str, float]:
        return self._summary() if self.measured else self._modelled_summary()

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
        for one in self.engines:
            made |= {f"vllm_{one.mode}_first_token_s": one.total_s, f"vllm_{one.mode}_graphable_s": one.graphable_s}
        if self.engines:
            made["vllm_same_tokens"] = float(all(one.tokens == one.ours for one in self.engines))
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

    def engine_figure(self) -> go.Figure:
        """The start of vLLM beside ours, phase by phase. ValueError where none was measured."""
        from workbench.foundry.engine_figure import picture

        return picture(self)

    def spans(self) -> list[Span]:
        return [one.span() for one in self.held]

    def claims(self) -> list[Claim]:
        return self.table

    def sentence(self) -> str:
        from workbench import theme

        s = self.summary()
        if not self.measured:
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
            f"{self.named(way)} {theme.number(s[name])} s"
            for way, name in READY.items()
            if way != "foundry" and name in s
        ]
        text += f"; {', '.join(beside)}" if beside else ""
        for one in self.engines:
            same = "the same tokens" if one.tokens == one.ours else "OTHER tokens"
            text += f"; {one.lane}, says its first token after {theme.number(one.total_s)} s, {same} as ours"
        whose = "torch's own graphs" if self.provenance.backend == "cuda" else "torch.compile"
        bits = f"bit for bit those of {whose}, and with one weight changed are not"
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
        if not self.measured:
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
    if config.layers is None:
        return "SmolLM2-135M"
    return "SmolLM2-135M's first layer" if config.layers == 1 else f"SmolLM2-135M's first {config.layers} layers"


def _snake(way: str) -> str:
    return way.removesuffix(" start").replace(" ", "_")
