"""The simulated run: the conductor and its scheduler on a virtual clock, over a cost that was measured elsewhere.

Texts are placeholders of the budgets' length; plans are written token by token as the planner would write them, with
the small model's own tokenizer where it is on this machine, else with a plain cut into words.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence

from workbench.plato import asked
from workbench.plato.arms import COMPARED, Arms
from workbench.plato.config import PlatoConfig
from workbench.plato.cost import KNOTS, StepCost
from workbench.plato.engine import Engine
from workbench.plato.happen import Outcome, Way
from workbench.plato.measure import planned
from workbench.plato.result import Chosen, Machine, Piece, PlatoResult, row_of
from workbench.pump import Clock
from workbench.system import Event, Progress

Say = Callable[[Event], None]

# Steps of SmolLM2-135M by tokens (KNOTS), seconds. The first two: one thread of an Intel Xeon with AVX-512 and bf16,
# packed weights, measured by `workbench bench plato` (benchmarks/plato.csv). The third: the published tokens/s of a
# 4-bit llama.cpp on two cores of an AMD EPYC at 1, 2, 4 and 8 sequences (187, 173, 228, 290), between and beyond them
# interpolated. flat: a pass that costs what its weights cost to read, at any width.
MACHINES: Mapping[str, StepCost] = {
    "one CPU core, bfloat16": StepCost(
        (0.03251, 0.03304, 0.03421, 0.03479, 0.03624, 0.03942, 0.04102, 0.0429, 0.05039, 0.06256, 0.08739, 0.13665),
        2.822e-4, 4.76e-6, 0.0006, "SmolLM2-135M in bfloat16 on one thread of an Intel Xeon",
    ),
    "one CPU core, float32": StepCost(
        (0.05445, 0.05461, 0.05516, 0.05435, 0.05722, 0.06386, 0.06896, 0.07483, 0.0942, 0.13441, 0.21425, 0.38775),
        7.899e-4, 6.58e-6, 0.0002, "SmolLM2-135M in float32 on one thread of an Intel Xeon",
    ),
    "llama.cpp Q4_1": StepCost(
        (0.00535, 0.01156, 0.0146, 0.01754, 0.0226, 0.02759, 0.0400, 0.0525, 0.1025, 0.2025, 0.4025, 0.8025),
        0.0, 0.0, 0.0, "llama.cpp Q4_1 of SmolLM2-135M on two cores of an AMD EPYC, published rates",
    ),
    "flat": StepCost(
        (0.02,) * len(KNOTS), 0.0, 0.0, 0.0, "a pass of 20 ms at any width, as memory alone would have it",
    ),
}  # fmt: skip


class Words:
    """An engine's tokenizer without a model: words and signs, counted up as they come."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [self._id(piece) for piece in re.findall(r"\s?\w+|\s|[^\w\s]", text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._texts[i] if i < len(self._texts) else "·" for i in ids)

    def chat(self, system: str, user: str) -> list[int]:
        return self.encode(f"{system}\n{user}\n")

    def room(self) -> int:
        return 1 << 20

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._texts)
            self._texts.append(piece)
        return self._ids[piece]


def stand_in_cost(config: PlatoConfig) -> StepCost:
    """The cost model that stands for the config's run where nothing was measured."""
    if config.backend == "sim":
        return MACHINES[config.sim_device]
    return MACHINES[f"one CPU core, {config.weights}"]


def simulated(config: PlatoConfig, cost: StepCost) -> dict[Way, Outcome]:
    """Every way on a virtual clock."""
    arms = _arms(config, cost, threading.Event())
    return {way: arms.answer(way, _nothing) for way in sorted(COMPARED, key=COMPARED.index)}


def simulate(config: PlatoConfig, say: Say, stop: threading.Event) -> PlatoResult:
    """A run on the config's stand-in machine."""
    from workbench.plato.stage import Stage
    from workbench.plato.work import stamped

    clock, cost = Clock(), stand_in_cost(config)
    question = asked.question(config)
    arms = _arms(config, cost, stop)
    outcomes: dict[Way, Outcome] = {}
    order = arms.order(0)
    for at, way in enumerate(order):
        say(Progress(at, len(order), f"{way}, on a virtual clock"))
        stage = Stage(say, way, 0, 0.0, way == config.way, question.plan)
        outcomes[way] = arms.answer(way, stage.take if way == config.way else _nothing)
        if way == config.way:
            stage.close(outcomes[way].parts)
    say(Progress(1, 1, "done"))
    shown, prior = outcomes[config.way], arms.prior
    verdict = shown.verdict
    facts = {
        "query": question.query,
        "rows": [row_of(o, way, 0, None, "modelled") for way, o in outcomes.items()],
        "pieces": [Piece.of(part) for part in shown.parts],
        "planned": planned(config.planner, shown, question.plan),
        "chosen": Chosen.of(prior.why if prior else "", verdict),
        "machine": Machine.of(cost),
    }
    return stamped(config, "sim", clock(), facts)


def _arms(config: PlatoConfig, cost: StepCost, stop: threading.Event) -> Arms:
    from workbench.plato.sim import SimEngine

    question = asked.question(config)
    engine: Engine = SimEngine(cost, Words(), pad=cost.padded if config.pad else None)

    planner = config.planner
    if planner in ("model", "free"):  # only a preview asks for these: as if the model wrote the plan of the settings
        if question.plan is None:
            raise ValueError("what the model will plan shows when it runs; planner='rules' or a plan can be modelled")
        planner = "script"

    def script(way: Way) -> object:
        return asked.script("given" if way == "nodes" else planner, question.plan, config.node_tokens)

    return Arms(config, engine, question.query, question.plan, script, cost, stop)  # type: ignore[arg-type]


def _nothing(_: object) -> None:
    """A way that is not shown."""
