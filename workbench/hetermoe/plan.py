"""Who computes what: the plan that planner, simulator and runtime share.

    plan = zebra(attention=2, expert=2, micro_batches=4, layers=8, experts=24, top_k=2, model_key=key)
    plan = plan.with_offload((0, 0, 4, 0, 4, 0, 0, 0))          # Asym-EA: experts of a layer on attention ranks
    Plan.from_json(plan.to_json(), model_key=key) == plan

Ranks 0 to M-1 are attention ranks, M to M+N-1 expert ranks. Source: HeterMoE, arXiv 2504.03871, sections 3 and 4;
its limit that M divides N or N divides M does not hold here.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Kind = Literal["zebra", "distep", "ep"]
FORMAT = "workbench-hetermoe-plan"
VERSION = 1


class PlanError(ValueError):
    """A plan, profile or setting that cannot be carried out. The message names the cause and the way out."""


@dataclass(frozen=True)
class Plan:
    """Layout of one group of ranks. PlanError for anything that could not be run.

    kind: zebra, micro-batches overlap over attention and expert ranks; distep, the same split without overlap (one
    micro-batch, no offload); ep, expert parallelism, where all `attention` ranks hold experts too and `expert` is 0.
    attention: M ranks. expert: N ranks. micro_batches: R that a rank's batch is cut into. experts: of each layer.
    top_k: experts a token goes to. owner[layer][expert]: the global rank that holds it. model_key: `fingerprint` of
    the model that the plan was made for; empty: of any.
    """

    kind: Kind
    attention: int
    expert: int
    micro_batches: int
    layers: int
    experts: int
    top_k: int
    owner: tuple[tuple[int, ...], ...]
    model_key: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise PlanError(f"a plan is of kind {', '.join(get_args(Kind))}, not {self.kind!r}")
        for name in ("attention", "expert", "micro_batches", "layers", "experts", "top_k"):
            _count(name, getattr(self, name), least=0 if name == "expert" else 1)
        if self.top_k > self.experts:
            raise PlanError(f"top-{self.top_k} of {self.experts} experts: lower top_k or give the layer more experts")
        self._check_kind()
        self._check_owner()
        if not isinstance(self.model_key, str):
            raise PlanError("model_key is a string made by fingerprint(), or empty")

    def _check_kind(self) -> None:
        if self.kind == "ep" and self.expert:
            raise PlanError(f"ep has no expert ranks of its own, not {self.expert}: count them all as attention ranks")
        if self.kind != "ep" and not self.expert:
            raise PlanError(f"{self.kind} needs an expert rank, there are 0: give it one, or choose the kind ep")
        if self.kind == "distep" and self.micro_batches != 1:
            raise PlanError(f"distep has 1 micro-batch, not {self.micro_batches}: the kind zebra cuts the batch")

    def _check_owner(self) -> None:
        if len(self.owner) != self.layers:
            raise PlanError(f"owner has {len(self.owner)} layers, the plan {self.layers}: give a row for each layer")
        seen = set()
        for layer, row in enumerate(self.owner):
            if row in seen:
                continue
            seen.add(row)
            if len(row) != self.experts:
                raise PlanError(
                    f"owner of layer {layer} names {len(row)} ranks for {self.experts} experts: give one each"
                )
            for expert, rank in enumerate(row):
                if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < self.world:
                    raise PlanError(
                        f"expert {expert} of layer {layer} is on rank {rank!r}, ranks go from 0 to {self.world - 1}"
                    )
        if self.kind == "distep" and any(self.offloaded(layer) for layer in range(self.layers)):
            raise PlanError("distep leaves attention ranks no experts: place them on expert ranks, or choose zebra")

    @property
    def world(self) -> int:
        """Ranks in all, M + N."""
        return self.attention + self.expert

    @property
    def attention_ranks(self) -> range:
        """Ranks that run attention; of ep all."""
        return range(self.attention)

    @property
    def expert_ranks(self) -> range:
        """Ranks that only run experts; of ep none."""
        return range(self.attention, self.world)

    def experts_of(self, rank: int, layer: int) -> tuple[int, ...]:
        """Experts of a layer that a rank holds, in ascending order; may be none."""
        if not 0 <= rank < self.world:
            raise PlanError(f"rank {rank} is not in this plan, ranks go from 0 to {self.world - 1}")
        return tuple(expert for expert, owner in enumerate(self.owner[layer]) if owner == rank)

    def offloaded(self, layer: int) -> tuple[int, ...]:
        """Experts of a layer on attention ranks (Asym-EA); of ep none, there is nothing to offload from."""
        if self.kind == "ep":
            return ()
        return tuple(expert for expert, owner in enumerate(self.owner[layer]) if owner < self.attention)

    @property
    def offload(self) -> tuple[int, ...]:
        """Number of offloaded experts of each layer."""
        return tuple(len(self.offloaded(layer)) for layer in range(self.layers))

    def counts(self, layer: int) -> tuple[int, ...]:
        """Experts of a layer that each rank holds."""
        held = Counter(self.owner[layer])
        return tuple(held[rank] for rank in range(self.world))

    def with_offload(self, vector: Sequence[int]) -> Plan:
        """Zebra with so many experts of each layer on attention ranks, any number from 0 to all of them.

        From the even placement, the expert rank that holds most gives its last one to the attention rank that holds
        fewest, one after the other, so counts differ by at most one on either side.
        """
        if self.kind != "zebra":
            raise PlanError(f"experts are offloaded under zebra, not {self.kind}")
        if len(vector) != self.layers:
            raise PlanError(f"{len(vector)} offload counts for {self.layers} layers: give one for each layer")
        for layer, count in enumerate(vector):
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= self.experts:
                raise PlanError(f"layer {layer} offloads {count!r} experts, it may be 0 to {self.experts}")
        rows = {count: _offload(self.attention, self.expert, self.experts, count) for count in set(vector)}
        return replace(self, owner=tuple(rows[count] for count in vector))

    def require(self, model_key: str) -> None:
        """PlanError where the plan was made for another model. An empty key, on either side, fits any."""
        check_key("plan", self.model_key, model_key)

    def to_json(self) -> str:
        """One JSON object with format, version and the fields."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, model_key: str = "") -> Plan:
        """The plan that to_json wrote. PlanError for other text, another version, or a plan of another model."""
        values = document(text, FORMAT, VERSION, [f.name for f in fields(cls)])
        owner = values["owner"]
        if not isinstance(owner, list) or not all(isinstance(row, list) for row in owner):
            raise PlanError("owner is a list of lists, a row for each layer")
        plan = cls(**{**values, "owner": tuple(tuple(row) for row in owner)})
        plan.require(model_key)
        return plan


def zebra(
    attention: int, expert: int, micro_batches: int, layers: int, experts: int, top_k: int, model_key: str = ""
) -> Plan:
    """M attention and N expert ranks in any ratio; experts lie contiguously on the expert ranks, evenly but for one."""
    row = _even(experts, range(attention, attention + expert)) if expert > 0 else (0,) * experts
    return Plan("zebra", attention, expert, micro_batches, layers, experts, top_k, (row,) * layers, model_key)


def distep(attention: int, expert: int, layers: int, experts: int, top_k: int, model_key: str = "") -> Plan:
    """Disaggregated expert parallelism: zebra's split of ranks, one micro-batch, nothing overlaps."""
    row = _even(experts, range(attention, attention + expert)) if expert > 0 else (0,) * experts
    return Plan("distep", attention, expert, 1, layers, experts, top_k, (row,) * layers, model_key)


def expert_parallel(
    world: int, layers: int, experts: int, top_k: int, micro_batches: int = 1, model_key: str = ""
) -> Plan:
    """Expert parallelism: every rank runs attention on its own tokens and holds an even share of the experts."""
    row = _even(experts, range(world)) if world > 0 else ()
    return Plan("ep", world, 0, micro_batches, layers, experts, top_k, (row,) * layers, model_key)


def fingerprint(**dims: float | str | bool) -> str:
    """Short key of a model, from whatever decides its shapes and speed (layers, hidden, ffn, experts, dtype, ...)."""
    if not dims:
        raise PlanError("a fingerprint needs the dimensions of a model")
    text = json.dumps(dims, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_key(what: str, made_for: str, wanted: str) -> None:
    """PlanError naming both models where they differ. An empty key fits any."""
    if made_for and wanted and made_for != wanted:
        raise PlanError(f"this {what} was made for model {made_for}, not for {wanted}: make one for this model")


def document(
    text: str, form: str, version: int, names: Sequence[str], later: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:  # fmt: skip
    """Fields of a JSON object with that format, version and exactly those names. PlanError else.

    later: names that came after the version's first files, with what they mean there.
    """
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise PlanError(f"this is not JSON ({error}): pass what to_json wrote") from None
    if not isinstance(values, dict) or values.get("format") != form:
        raise PlanError(f"this is no {form}: pass what to_json wrote")
    if values.get("version") != version:
        raise PlanError(f"{form} of version {values.get('version')!r}, this program reads {version}: make it anew")
    values = {**(later or {}), **{name: value for name, value in values.items() if name not in {"format", "version"}}}
    missing, unknown = set(names) - set(values), set(values) - set(names)
    if missing or unknown:
        told = [f"misses {', '.join(sorted(missing))}"] * bool(missing)
        told += [f"does not know {', '.join(sorted(unknown))}"] * bool(unknown)
        raise PlanError(f"{form} {' and '.join(told)}: make it anew")
    return values


def _count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise PlanError(f"{name} is a whole number from {least}, not {value!r}")


def _even(experts: int, ranks: Sequence[int]) -> tuple[int, ...]:
    """Contiguous shares, the first ranks one more where it does not come out even."""
    share, more = divmod(max(experts, 0), len(ranks))
    return tuple(rank for at, rank in enumerate(ranks) for _ in range(share + (at < more)))


def _offload(attention: int, expert: int, experts: int, count: int) -> tuple[int, ...]:
    """Owner of each expert of a layer that offloads `count`: each time the fullest gives its last to the emptiest."""
    row = list(_even(experts, range(attention, attention + expert)))
    held: dict[int, list[int]] = {}
    for at, rank in enumerate(row):
        held.setdefault(rank, []).append(at)
    fullest = [(-len(own), -rank) for rank, own in held.items()]
    heapq.heapify(fullest)
    for step in range(count):
        left, rank = heapq.heappop(fullest)
        row[held[-rank].pop()] = step % attention
        heapq.heappush(fullest, (left + 1, rank))
    return tuple(row)
