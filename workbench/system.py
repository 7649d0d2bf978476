"""The contract: every system is a function from a frozen config to a stream of events and a result.

    work(config) yields Progress, Point, Span, Note, Vertex, Text and Offer while it works, and returns a Result.

Panels, command line, history, comparison, traces and tests are written once, against the names in this file.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.lanes import Board

# the catalogue, in the order it is shown: packages of workbench
NAMES = ("foundry", "rlboost", "hetermoe", "plato", "cake", "lte", "mm2")

Badge = Literal["measured", "modelled", "paper", "set"]  # set: a setting of the run, shown among its numbers
Why = Mapping[str, float | str]


class Config(BaseModel):
    """What a run is asked to do. Fields carry bounds and a description: the form and the flags are made of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    BEFORE: ClassVar[Mapping[str, str]] = {}  # names that settings had in records of old, and those they have now

    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random; the same seed, the same result")
    backend: Literal["auto", "cpu", "cuda", "sim"] = Field(
        "auto", description="Where the work runs; auto takes the best that this machine has"
    )

    @classmethod
    def renamed(cls, told: Mapping[str, Any]) -> dict[str, Any]:
        """What was kept under a setting's name of before, under its name of now; with both given nothing changes."""
        return {cls.BEFORE[k] if k in cls.BEFORE and cls.BEFORE[k] not in told else k: v for k, v in told.items()}

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, told: Any) -> Any:
        return cls.renamed(told) if isinstance(told, dict) else told

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of these settings that differ from their defaults."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a config: the field to change ("" when none is named), why, and the value given.

    `given` is "" for a check over several fields: what that field holds may be a default that nobody gave.
    """

    field: str
    said: str
    given: str = ""


def faults(error: ValidationError, fields: Collection[str]) -> list[Fault]:
    """Pydantic's errors as faults. A validator of several fields names the one to change as "field: why"."""
    found = []
    for each in error.errors(include_url=False):
        said = each["msg"].removeprefix("Value error, ")
        name, _, why = said.partition(": ")
        if each["loc"]:
            value = repr(each["input"])
            found.append(Fault(str(each["loc"][0]), said, value if len(value) <= 80 else value[:77] + "..."))
        else:
            found.append(Fault(name, why) if name in fields else Fault("", said))
    return found


class ConfigError(ValueError):
    """Settings that a system does not take, a line each: "cake: link_mb_s: must be 0 or more (you gave -1)".

    `faults` holds them one by one, `errors()` as pydantic gives them.
    """

    def __init__(self, system: str, error: ValidationError, fields: Collection[str]) -> None:
        self.faults = faults(error, fields)
        self._error = error
        lines = (
            ": ".join(part for part in (system, f.field, f.said) if part)
            + (f" (you gave {f.given})" if f.given else "")
            for f in self.faults
        )
        super().__init__("\n".join(lines))

    def errors(self) -> list[Any]:
        """Pydantic's own: a mapping with "loc", "msg" and "input" for each."""
        return list(self._error.errors(include_url=False))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is: `done` of `total`, in any unit, and what is being done now."""

    done: float
    total: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """One more point of a live curve: finite numbers. `series` is "part: quantity (unit)", a chart per quantity.

    A place without a value is a place without a point: the line goes on from the point before to the one after.
    """

    series: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took from `start_s` to `end_s` (seconds since the run began) in a lane of the timeline.

    `kind` groups spans by colour; `why` is the decision behind it: the inputs of the policy at that instant. A span
    that ends where it starts is an instant, drawn as a flag in its lane: what was had without any time.
    """

    lane: str
    start_s: float
    end_s: float
    label: str
    kind: str
    why: Why = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Vertex:
    """A part of the run's graph as it is now; of several with one name the latest holds.

    `needs` are names of vertices that were told before, so the graph has no cycle. `name` is short (an id), `label`
    may be a sentence, `share` is how much of it is done, 0 to 1, `note` a few words beside its state. `weight` is the
    size that was planned for it, where there is one. A run tells at most MOST_VERTICES, and leaves none waiting or
    running when it returns.
    """

    name: str
    label: str
    needs: tuple[str, ...] = ()
    state: Literal["waiting", "running", "done", "cut"] = "waiting"
    share: float = 0.0
    critical: bool = False
    note: str = ""
    weight: int | None = None


MOST_VERTICES = 64  # more cannot be drawn so that each is read


@dataclass(frozen=True, slots=True)
class Text:
    """More of what the vertex `name` says, as it is written; where no vertex has the name, a stream of its own."""

    name: str
    added: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that the user may do while the run goes on; of several with one name the latest holds.

    `label` is what its button says, `note` a few words below it, `group` a heading over several. open=False takes it
    back; a run that ends takes back all. Whoever is chosen is not on offer until the work says it again: an Offer of
    its name is the answer to an Act, so a work answers each, and tells news of other kinds by other events.
    """

    name: str
    label: str
    group: str = ""
    note: str = ""
    open: bool = True


MOST_OFFERS = 32  # open at once; more is no choice


@dataclass(frozen=True, slots=True)
class Act:
    """What the user did: the offer `name` was chosen. Made by the run, not the work: what follows has heard of it."""

    name: str
    label: str


Event = Progress | Point | Span | Note | Vertex | Text | Offer | Act
Asked = tuple[str, ...] | None  # what a yield gives: names chosen since the one before; None to whoever uses next()
Work = Generator[Event, Asked, "Result"]


class Provenance(BaseModel):
    """Where a result comes from. `badges` says of each number of the summary how it was had."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    backend: str
    device: str
    commit: str
    versions: dict[str, str]
    started_at: str  # ISO 8601, UTC
    seconds: float = 0.0
    badges: dict[str, Badge]


class Claim(BaseModel):
    """A number of the paper beside ours. `ours` is None where this run does not speak to the claim."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    what: str
    paper: float
    ours: float | None
    unit: str
    badge: Badge
    source: str  # table or figure of the paper
    note: str = ""
    fitted: bool = False  # the paper's number went into our constants: coming near it says nothing


class Result(BaseModel):
    """What a run found. A subclass adds fields that JSON can hold, so that any result can be stored and reopened.

    Infinity and nan are among them: they are written as Python's json does, which pandas and jq read too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    config: SerializeAsAny[Config]
    provenance: Provenance

    @property
    def measured(self) -> bool:
        """Whether it was measured here; else it was simulated."""
        return self.provenance.backend != "sim"

    @property
    def badge(self) -> Badge:
        """The same as a badge: of its rows, where they have no other."""
        return "measured" if self.measured else "modelled"

    def badged(self, measured: bool, known: Mapping[str, Badge] = MappingProxyType({})) -> Self:
        """The same with a badge for each number of its summary: as `known` says, else measured or modelled."""
        badges = {name: known.get(name, "measured" if measured else "modelled") for name in self.summary()}
        return self.model_copy(update={"provenance": self.provenance.model_copy(update={"badges": badges})})

    def to_json(self, indent: int | None = None) -> str:
        """All fields as JSON text, which `workbench.records.read_result` reads again to an equal result."""
        return json.dumps(
            self.model_dump(mode="json"), indent=indent
        )  # pydantic's own writer loses inf in nested models

    def summary(self) -> dict[str, float]:
        """The few numbers that a table of the paper would hold, with units in their names."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """The full table behind the figure, a row per observation."""
        raise NotImplementedError

    def figure(self) -> go.Figure:
        """The one picture of this result."""
        raise NotImplementedError

    def sentence(self) -> str:
        """The result in one sentence: also the text alternative of the figure."""
        raise NotImplementedError

    def decided(self) -> dict[str, Any]:
        """What the seed alone decides (no time, no machine): equal for every run of the same config."""
        raise NotImplementedError

    def claims(self) -> list[Claim]:
        """The paper's numbers beside ours."""
        return []

    def spans(self) -> list[Span]:
        """The timeline of the run that the figure shows."""
        return []

    def fingerprint(self) -> str:
        """Hash of `decided()`."""
        return hashlib.sha256(json.dumps(self.decided(), sort_keys=True).encode()).hexdigest()[:16]

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        from workbench.ui.show import mimebundle

        return mimebundle(self)

    def _ipython_display_(self) -> None:
        from workbench.ui.show import display

        display(self)  # numbers and figure as two outputs: a front end shows only one form of each


@dataclass(frozen=True)
class System:
    """One of the seven. `presets` has at least tiny, small and paper; a baseline is a change of fields by name."""

    name: str
    title: str
    paper: str
    about: str
    config: type[Config]
    result: type[Result]
    work: Callable[[Any], Work]
    presets: Mapping[str, Config]
    baselines: Mapping[str, Mapping[str, Any]]
    backends: frozenset[str]
    columns: Mapping[str, str] = field(default_factory=dict)  # of to_frame(): name -> meaning and unit
    preview: Callable[[Any], go.Figure] | None = None  # cheap model of a config, redrawn as its form changes
    detail: Callable[[Span], str] | None = None  # a span's decision in words
    board: Callable[[Any], Board] | None = None  # what of a config is moved from lane to lane, above its preview

    @property
    def short(self) -> str:
        """The name that the title begins with, as the paper writes it."""
        return self.title.partition(":")[0]

    def make(self, /, preset: str | None = None, **changes: Any) -> Config:
        """A config: the preset's (tiny, small, paper, ...) with `changes`. ValueError names what is wrong in it.

        It is a ConfigError where a value is wrong, and a plain one for a field or preset that there is not.
        """
        if preset is not None and preset not in self.presets:
            raise ValueError(f"{self.name} has no preset {preset!r}; it has {', '.join(self.presets)}")
        base = self.presets[preset].model_dump() if preset else {}
        changes = self.config.renamed(changes)
        unknown = sorted(set(changes) - set(self.config.model_fields))
        if unknown:
            fields = ", ".join(self.config.model_fields)
            raise ValueError(f"{self.name} has no setting {', '.join(unknown)}; it has {fields}")
        try:
            return self.config.model_validate(base | changes)
        except ValidationError as error:
            raise ConfigError(self.name, error, self.config.model_fields) from None  # its text is the whole story


@cache
def system(name: str) -> System:
    """The system called `name`. KeyError lists those there are."""
    if name not in NAMES:
        raise KeyError(f"no system is called {name!r}; there are {', '.join(NAMES)}")
    found: System = importlib.import_module(f"workbench.{name}").SYSTEM
    return found


@cache
def systems() -> Mapping[str, System]:
    """The catalogue: name -> system."""
    return MappingProxyType({name: system(name) for name in NAMES})
