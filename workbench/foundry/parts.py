"""What a result of a Foundry run is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


class Engine(Part):
    """A start of a real engine on the same layers, phase by phase, seconds from asking for its process."""

    lane: str
    mode: Literal["eager", "compiled"]
    layers: int
    total_s: float  # until its first token
    graphable_s: float  # of that: compiling or loading what was compiled, warm-up, capture
    phases: list[tuple[str, float, float]]  # (name, start, end): disjoint, without holes
    tokens: list[int]  # what it said to the prompt, greedily
    ours: list[int]  # what our steps said to the same prompt
    steps_s: list[float]  # of its tokens after the first, scheduler and sampling included
    about: dict[str, str]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase."""
        made: dict[str, float] = {}
        for name, start_s, end_s in self.phases:
            made[name] = made.get(name, 0.0) + end_s - start_s
        return made


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


class Facts(Part):
    """About the archive as a whole."""

    id: str
    archive_mb: float
    weights_mb: float
    arena_mb: float
    binaries: int
    binaries_mb: float
