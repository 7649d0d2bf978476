"""What HeterMoE is compared with, simulated by the same code: EP, DistEP, EP (Ideal), and a pipeline of both kinds.

    expert_parallelism(model, profile, ranks, load)      ranks: {"A40": 6, "V100": 6}; tokens a second
    ideal(model, profile, ranks, load)                   sum of two groups that do not meet
    pipeline(model, profile, ranks, load)                layers shared out by speed

`messages` scales EP's message times, 1 as profiled: the paper's setting has its own (calibrated.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from workbench.hetermoe.costs import Costs, resolve
from workbench.hetermoe.plan import Plan, PlanError, distep, expert_parallel
from workbench.hetermoe.profile import Load, Profile, check_memory
from workbench.hetermoe.sim import step

CHUNKS = 1  # micro-batches of EP; with more, messages overlap compute, as under Tutel and Lina
PIPELINE_MICRO_BATCHES = 8


@dataclass(frozen=True)
class Model:
    """What a baseline needs to know of the model."""

    layers: int
    experts: int
    top_k: int
    key: str = ""

    @classmethod
    def of(cls, plan: Plan) -> Model:
        """The model of a plan."""
        return cls(plan.layers, plan.experts, plan.top_k, plan.model_key)


def expert_parallelism(
    model: Model, profile: Profile, ranks: Mapping[str, int], load: Load, chunks: int = CHUNKS, messages: float = 1.0
) -> float:
    """Tokens a second of EP over all ranks, each with the same batch and as many experts, whatever its kind."""
    kinds = tuple(kind for kind, number in ranks.items() for _ in range(number))
    plan = expert_parallel(len(kinds), model.layers, model.experts, model.top_k, chunks, model.key)
    costs = resolve(plan, profile, replace(load, kinds=kinds, attention=kinds[0], expert=""))
    costs = slower(costs, messages)
    return costs.tokens / step(costs)


def ideal(
    model: Model, profile: Profile, ranks: Mapping[str, int], load: Load, chunks: int = CHUNKS, messages: float = 1.0
) -> float:
    """EP (Ideal): each kind trains its own copy, and nothing is lost between them. It exists only on paper."""
    return sum(expert_parallelism(model, profile, {kind: n}, load, chunks, messages) for kind, n in ranks.items() if n)


def disaggregated(model: Model, profile: Profile, attention: int, expert: int, load: Load) -> float:
    """Tokens a second of DistEP: attention and experts apart, but one waits for the other."""
    plan = distep(attention, expert, model.layers, model.experts, model.top_k, model.key)
    costs = resolve(plan, profile, load)
    return costs.tokens / step(costs)


def slower(costs: Costs, messages: float) -> Costs:
    """The same with messages that take so many times as long."""
    across, peers = (tuple(messages * seconds for seconds in link) for link in (costs.across, costs.peers))
    return replace(costs, across=across, peers=peers)


@dataclass(frozen=True)
class Pipelined:
    """tokens_per_s of the best cut; layers of each kind, in the order of `ranks`."""

    tokens_per_s: float
    layers: tuple[int, int]


def pipeline(
    model: Model,
    profile: Profile,
    ranks: Mapping[str, int],
    load: Load,
    micro_batches: int = PIPELINE_MICRO_BATCHES,
    messages: float = 1.0,
) -> Pipelined:
    """Two stages, one a kind: the first has the head, each runs EP inside, layers are cut where it is fastest.

    Fill, then the slower stage micro-batch after micro-batch. PlanError for other than two kinds, or if no cut fits
    its devices' memory.
    """
    if len(ranks) != 2:
        raise PlanError(f"the pipeline has a stage for each of two kinds, not of {len(ranks)}")
    best = None
    for first in range(1, model.layers):
        cut = (first, model.layers - first)
        found = _cut(model, profile, ranks, load, micro_batches, cut, messages)
        if found is not None and (best is None or found > best.tokens_per_s):
            best = Pipelined(found, cut)
    if best is None:
        raise PlanError("no cut of the layers fits both kinds: fewer tokens in a micro-batch, or more ranks")
    return best


def _cut(
    model: Model,
    profile: Profile,
    ranks: Mapping[str, int],
    load: Load,
    micro_batches: int,
    cut: tuple[int, int],
    messages: float,
) -> float | None:
    """Tokens a second of one cut; None where a stage does not fit."""
    tokens = load.tokens * max(ranks.values())  # of a step, over the ranks of either stage
    stages = []
    for number, ((kind, count), layers) in enumerate(zip(ranks.items(), cut, strict=True)):
        plan = expert_parallel(count, layers, model.experts, model.top_k, 1, model.key)
        own = max(1, tokens // (count * micro_batches))
        here = replace(load, tokens=own, kinds=(kind,) * count, attention=kind, expert="")
        try:
            check_memory(profile, plan, here)
        except PlanError:
            return None
        costs = resolve(plan, profile, here)
        costs = slower(costs, messages)
        if number:
            parts = tuple(replace(part, head=0.0, head_back=0.0) for part in costs.parts)
            costs = replace(costs, parts=parts)
        stages.append(step(costs) + 2 * profile.message(own * profile.token_bytes))
    return tokens / (sum(stages) + (micro_batches - 1) * max(stages))
