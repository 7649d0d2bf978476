"""What one device of each kind takes: seconds of stages, bytes of memory, seconds of messages.

    profile = Profile.from_json(text, model_key=key)      # another model's is refused, by name
    profile.device("old").expert(512)                     # seconds of one expert's forward over 512 tokens
    need, room = offload_bounds(profile, plan, load)      # the n_min and n_max of Asym-EA, from memory

Only forward is needed (section 5 of arXiv 2504.03871): backward is a factor, measured where it was, else 2.
The runtime writes such a profile from timings, gpus.py from data sheets and published ratios.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workbench.hetermoe.plan import Plan, PlanError, check_key, document

Floats = NDArray[np.float64]
FORMAT = "workbench-hetermoe-profile"
VERSION = 1
BACKWARD = 2.0  # forward's time, where it was not measured


@dataclass(frozen=True)
class Curve:
    """Seconds over an amount, from measured points (x, seconds): linear between them, and beyond the ends.

    Nothing takes no time. Below the first point the first line goes on, though not under 0; a single point is a rate.
    PlanError where x does not rise, or a time is negative or not finite.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points or any(len(point) != 2 for point in self.points):
            raise PlanError("a curve needs a measured point (amount, seconds) or more")
        if not all(math.isfinite(x) and math.isfinite(y) and x > 0 <= y for x, y in self.points):
            raise PlanError("a curve's amounts are above 0 and its seconds 0 or more, all finite: measure again")
        if any(b[0] <= a[0] for a, b in pairwise(self.points)):
            raise PlanError("a curve's amounts rise from point to point: sort them and keep one of each")

    @cached_property
    def _arrays(self) -> tuple[Floats, Floats]:
        points = self.points if len(self.points) > 1 else ((0.0, 0.0), *self.points)
        x, y = np.array(points, dtype=float).T
        return x, y

    def many(self, amounts: Floats) -> Floats:
        """Seconds of each amount; any shape."""
        x, y = self._arrays
        at = np.clip(np.searchsorted(x, amounts, side="right"), 1, len(x) - 1)  # the line that each amount is on
        slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
        return np.where(amounts > 0, np.maximum(y[at - 1] + slope * (amounts - x[at - 1]), 0.0), 0.0)

    def __call__(self, amount: float) -> float:
        """Seconds of one amount."""
        return float(self.many(np.array([amount]))[0])


@dataclass(frozen=True)
class Surface:
    """Seconds of an attention stage over (sequence length, tokens of a micro-batch): a Curve for each length.

    Between two lengths, and beyond the last ones, linear in the length, as attention's time a token is.
    """

    lengths: tuple[int, ...]
    curves: tuple[Curve, ...]

    def __post_init__(self) -> None:
        if not self.lengths or len(self.lengths) != len(self.curves):
            raise PlanError("attention is measured at one length or more, with a curve for each")
        if self.lengths[0] < 1 or any(b <= a for a, b in pairwise(self.lengths)):
            raise PlanError("the lengths that attention was measured at rise, from 1 token on")

    def __call__(self, tokens: float, length: float) -> float:
        """Seconds of so many tokens in sequences of that length."""
        if len(self.lengths) == 1:
            return self.curves[0](tokens)
        at = min(max(int(np.searchsorted(self.lengths, length)), 1), len(self.lengths) - 1)
        (a, b), (low, high) = self.lengths[at - 1 : at + 1], (c(tokens) for c in self.curves[at - 1 : at + 1])
        return max(low + (high - low) * (length - a) / (b - a), 0.0)


@dataclass(frozen=True)
class Device:
    """One kind of device. Seconds are of forward; the `*_backward` are factors on them.

    attention: all of a layer but its experts, for a micro-batch (the first layer's with the embedding). expert: one
    expert over tokens. head: last stage, norm to loss, over tokens. update_s_byte: optimiser, per byte of weights.
    attention_back: seconds of attention's backward, where they were measured: scores that are written out have another
    factor at each length.
    """

    name: str
    attention: Surface
    expert: Curve
    head: Curve
    capacity_bytes: float = math.inf
    attention_backward: float = BACKWARD
    expert_backward: float = BACKWARD
    head_backward: float = BACKWARD
    update_s_byte: float = 0.0
    attention_back: Surface | None = None

    def backward(self, tokens: float, length: float) -> float:
        """Seconds of an attention stage's backward."""
        if self.attention_back is not None:
            return self.attention_back(tokens, length)
        return self.attention(tokens, length) * self.attention_backward

    def __post_init__(self) -> None:
        if not self.name:
            raise PlanError("a kind of device needs a name")
        factors = (self.attention_backward, self.expert_backward, self.head_backward)
        if not all(math.isfinite(f) and f >= 0 for f in (*factors, self.update_s_byte)) or not self.capacity_bytes > 0:
            raise PlanError(f"{self.name}: factors and times are 0 or more and finite, its memory above 0")


@dataclass(frozen=True)
class Memory:
    """Bytes. shared: attention, gates, embeddings and head of the whole model, on each attention rank.

    states: bytes of weights, gradients and optimiser for a byte of weights (4 for Adam in fp32, 8 for fp16 with fp32
    master weights). activation: kept for backward, per token of an attention rank's batch, all layers together.
    expert_activation: per copy of a token that an expert gets, in one layer.
    """

    expert_weights: float
    shared_weights: float
    states: float = 4.0
    activation: float = 0.0
    expert_activation: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in asdict(self).values()):
            raise PlanError("bytes of memory are 0 or more and finite")


@dataclass(frozen=True)
class Profile:
    """Everything the planner knows. message: seconds of one collective over the bytes in and out of its busiest rank.

    token_bytes: of one token's hidden state as it is sent. how: whether times were measured, or come from a model.
    joined: one message of a micro-batch carries rows to expert ranks and to offloaded experts; else there are two.
    core_share: what a message under way takes of the core of each rank that sends or receives it, as gloo does, from 0
    to 1; 0 where messages have engines of their own, as on GPUs.
    """

    model_key: str
    devices: tuple[Device, ...]
    message: Curve
    token_bytes: float
    memory: Memory
    how: Literal["measured", "modelled"] = "measured"
    note: str = ""
    joined: bool = False
    core_share: float = 0.0

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if not names or len(set(names)) != len(names):
            raise PlanError("a profile is of one kind of device or more, each named once")
        if self.how not in {"measured", "modelled"}:
            raise PlanError(f"a profile is measured or modelled, not {self.how!r}")
        if not (math.isfinite(self.token_bytes) and self.token_bytes > 0):
            raise PlanError(f"token_bytes is above 0, not {self.token_bytes}")
        if not 0 <= self.core_share <= 1:
            raise PlanError(f"core_share is a share of a core from 0 to 1, not {self.core_share}")

    def device(self, name: str) -> Device:
        """Kind of that name. PlanError with those there are."""
        for device in self.devices:
            if device.name == name:
                return device
        names = ", ".join(device.name for device in self.devices)
        raise PlanError(f"no device {name!r} in this profile, there are {names}: profile one of that kind")

    def require(self, model_key: str) -> None:
        """PlanError where it is of another model. An empty key, on either side, fits any."""
        check_key("profile", self.model_key, model_key)

    def to_json(self) -> str:
        """One JSON object with format, version and the fields; an unlimited memory is null."""
        values = asdict(self)
        for device in values["devices"]:
            if math.isinf(device["capacity_bytes"]):
                device["capacity_bytes"] = None
        return json.dumps({"format": FORMAT, "version": VERSION, **values})

    @classmethod
    def from_json(cls, text: str, model_key: str = "") -> Profile:
        """The profile that to_json wrote. PlanError for other text, another version, or another model's.

        One from before there was a core_share has messages beside compute, as it was planned with.
        """
        values = dict(document(text, FORMAT, VERSION, [f.name for f in fields(cls)], {"core_share": 0.0}))
        check_key("profile", values["model_key"], model_key)
        try:
            values["devices"] = tuple(_device(device) for device in values["devices"])
            values["message"] = _curve(values["message"])
            values["memory"] = Memory(**values["memory"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"this profile is damaged ({error!r}): make it anew") from None


def _curve(values: dict[str, Any]) -> Curve:
    return Curve(tuple((float(x), float(y)) for x, y in values["points"]))


def _surface(values: dict[str, Any]) -> Surface:
    return Surface(tuple(int(s) for s in values["lengths"]), tuple(_curve(curve) for curve in values["curves"]))


def _device(values: dict[str, Any]) -> Device:
    back = values.get("attention_back")
    capacity = math.inf if values["capacity_bytes"] is None else float(values["capacity_bytes"])
    parts = {
        "attention": _surface(values["attention"]),
        "attention_back": None if back is None else _surface(back),
        "expert": _curve(values["expert"]),
        "head": _curve(values["head"]),
        "capacity_bytes": capacity,
    }
    return Device(**{**values, **parts})


@dataclass(frozen=True)
class Load:
    """What a group of ranks trains on. tokens: of one attention rank's batch; length: of its sequences.

    attention, expert: names of the kinds of device (expert is not asked for ep). kinds: the kind of each rank instead,
    for a mixed ep. shares[layer][expert]: part of the assignments that an expert gets, summing to 1; none: all alike.
    """

    tokens: int
    length: int
    attention: str
    expert: str = ""
    kinds: tuple[str, ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.length < 1:
            raise PlanError(f"a batch has 1 token or more, in sequences of 1 or more, not {self.tokens}, {self.length}")

    def kind_of(self, plan: Plan) -> tuple[str, ...]:
        """Kind of each rank of a plan."""
        if self.kinds:
            if len(self.kinds) != plan.world:
                raise PlanError(f"{len(self.kinds)} kinds for {plan.world} ranks: name one for each rank")
            return self.kinds
        if plan.expert and not self.expert:
            raise PlanError("name the kind of device of the expert ranks")
        return (self.attention,) * plan.attention + (self.expert,) * plan.expert

    def share_of(self, plan: Plan) -> Floats:
        """(layers, experts), each row summing to 1. PlanError where they do not fit the plan."""
        if not self.shares:
            return np.full((plan.layers, plan.experts), 1 / plan.experts)
        if len(self.shares) != plan.layers or any(len(row) != plan.experts for row in self.shares):
            raise PlanError(f"shares are {plan.layers} rows of {plan.experts} experts: measure them with this model")
        shares = np.array(self.shares, dtype=float)
        if not np.isfinite(shares).all() or (shares < 0).any() or not np.allclose(shares.sum(1), 1, atol=1e-6):
            raise PlanError("the shares of a layer are 0 or more and sum to 1: divide by their sum")
        return shares

    def with_shares(self, shares: Sequence[Sequence[float]]) -> Load:
        """The same with another routing."""
        return replace(self, shares=tuple(tuple(float(s) for s in row) for row in shares))


def used_bytes(profile: Profile, plan: Plan, load: Load) -> tuple[float, ...]:
    """Bytes that each rank needs: weights with gradients and optimiser state, and activations of its batch."""
    memory, shares = profile.memory, load.share_of(plan)
    owner = np.array(plan.owner)
    held = np.bincount(owner.ravel(), minlength=plan.world)
    got = np.bincount(owner.ravel(), weights=shares.ravel(), minlength=plan.world)  # over all layers
    tokens = plan.attention * load.tokens * plan.top_k
    used = held * memory.expert_weights * memory.states + got * tokens * memory.expert_activation
    used[: plan.attention] += memory.shared_weights * memory.states + load.tokens * memory.activation
    return tuple(float(u) for u in used)


def check_memory(profile: Profile, plan: Plan, load: Load) -> None:
    """PlanError naming the first rank that does not fit its device."""
    for rank, (used, kind) in enumerate(zip(used_bytes(profile, plan, load), load.kind_of(plan), strict=True)):
        if used > profile.device(kind).capacity_bytes:
            has = profile.device(kind).capacity_bytes
            raise PlanError(
                f"rank {rank} needs {used / 2**30:.2f} GiB, its device ({kind}) has {has / 2**30:.2f}: fewer "
                "tokens, fewer experts on it (offload them, or the other way round), or more ranks"
            )


def offload_bounds(profile: Profile, plan: Plan, load: Load) -> tuple[int, int]:
    """Experts over all layers that the expert ranks together must give up, and that attention ranks can take.

    The paper's n_min and n_max, times N. Held against an even placement; activations are counted at their fullest.
    PlanError where the model does not fit however it is placed.
    """
    if not plan.expert:
        raise PlanError(f"experts are offloaded under zebra, not {plan.kind}")
    memory, total = profile.memory, plan.layers * plan.experts
    each = memory.expert_weights * memory.states
    kinds = load.kind_of(plan)
    active = plan.layers * plan.attention * load.tokens * plan.top_k * memory.expert_activation
    base = memory.shared_weights * memory.states + load.tokens * memory.activation
    room = _fits(profile.device(kinds[0]).capacity_bytes - base, each, active / plan.attention) * plan.attention
    kept = _fits(profile.device(kinds[-1]).capacity_bytes, each, active / plan.expert) * plan.expert
    need = max(0, total - kept)
    if need > min(room, total) or room < 0:
        raise PlanError(
            f"{total} experts: expert ranks hold {max(kept, 0)}, attention ranks {max(room, 0)}: too few. Take more "
            "ranks, a shorter batch or fewer experts"
        )
    return need, min(room, total)


def _fits(free: float, each: float, active: float) -> int:
    """Experts that fit into so many bytes, next to activations; -1 where not even those do."""
    if free < active:
        return -1
    return 1 << 40 if math.isinf(free) or not each else int((free - active) // each)
