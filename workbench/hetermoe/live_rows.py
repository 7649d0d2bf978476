"""Turn after turn of the measured run: who may go, and the rows that come of it, where the ranks were forked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

from workbench.hetermoe.arms import Arm
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.launch import Say
from workbench.hetermoe.live_ranks import PER_TURN, THEIRS, Turns
from workbench.hetermoe.measure import slots
from workbench.hetermoe.result import TESTED, Drawn
from workbench.hetermoe.rows import Row, row_of

PROVED, TURNS = 0.42, 0.95  # share of the run that is done when turns begin and end


class Told:
    """Folds what ranks say into rows. tokens: of a step's batch."""

    def __init__(self, found: Mapping[str, Arm], turns: Turns, tokens: int, rounds: int, say: Say) -> None:
        self.found, self.turns, self.tokens, self.rounds, self.say = found, turns, tokens, rounds, say
        self.turn, self.connected = -1, 0
        # by step and rank: where all experts are on attention ranks, an expert rank has nothing to do and runs ahead
        self.parts: dict[int, dict[int, dict[str, Any]]] = {}
        self.steps = 0  # whole ones of this turn
        self.before: Row | None = None  # the step before, in this turn
        self.kept: list[tuple[str, int, Row]] = []  # way, round, measured step

    def follow(self, lines: Iterable[Mapping[str, Any]], go: Callable[[int], object]) -> None:
        """All lines of all ranks; `go(rank)` begins its turn."""
        for told in lines:
            kind = told["is"]
            if kind == "proof":
                self.say({name: value for name, value in told.items() if name not in {"rank", "doing"}})
            elif kind == "connected":
                self.connected += 1
                if self.connected == len(self.turns.wait):
                    self._next(go)
            elif kind == "step":
                self._step(told, go)

    def _next(self, go: Callable[[int], object]) -> None:
        self.turn, self.steps, self.before = self.turn + 1, 0, None
        if self.turn >= len(self.turns.sequence):
            return
        way, world = self.turns.sequence[self.turn], self.turns.world
        share = PROVED + (TURNS - PROVED) * self.turn / len(self.turns.sequence)
        number = self.turn // len(self.turns.jobs) + 1
        self.say({"is": "doing", "text": f"{way}, round {number} of {self.rounds}", "share": share})
        for rank in range(world):
            go(rank + world * (way == THEIRS))

    def _step(self, told: Mapping[str, Any], go: Callable[[int], object]) -> None:
        world = self.turns.world
        ranks = self.parts.setdefault(told["step"], {})
        ranks[told["rank"] % world] = dict(told)
        if len(ranks) < world:
            return
        row = self.before = row_of(self.parts.pop(told["step"]), self.tokens, self.before)
        self.steps += 1
        self._keep(told["way"], row)
        if self.steps == PER_TURN:
            self._next(go)

    def _keep(self, way: str, row: Row) -> None:
        """The last step of a turn is the measured one."""
        number = self.turn // len(self.turns.jobs)
        if self.steps < PER_TURN:
            return
        self.kept.append((way, number, row))
        line = {"is": "row", "row": self._row(way, number, row), "start_s": row.start_s, "end_s": row.end_s}
        if way == TESTED:
            line["drawn"] = self._drawn(row).model_dump()
        self.say(line)

    def _row(self, way: str, number: int, row: Row) -> dict[str, Any]:
        """Fields of result.Row."""
        arm = self.found[way]
        plan = arm.plan
        return {
            "way": way, "length": arm.load.length, "round": number, "seconds": row.seconds,
            "tokens_per_s": row.tokens_per_s, "predicted_tokens_per_s": arm.tokens_per_s,
            "attention": plan.attention, "expert": plan.expert, "micro_batches": plan.micro_batches,
            "offloaded": sum(plan.offload), "loss": row.loss, "badge": "measured",
        }  # fmt: skip

    def _drawn(self, row: Row) -> Drawn:
        return drawn(self.found[TESTED], "measured", slots(row), row.seconds, row.busy)

    def finish(self) -> None:
        """What is drawn of all rounds: the step whose time is the median, utilisation as medians over rounds."""
        rows = sorted((row for way, _, row in self.kept if way == TESTED), key=lambda row: row.seconds)
        steps = [self._drawn(row) for row in rows]
        used = [median(one) for one in zip(*(step.used for step in steps), strict=True)]
        sides = [median(one) for one in zip(*(step.sides or () for step in steps), strict=True)]
        middle = steps[(len(steps) - 1) // 2].model_dump()
        self.say({"is": "end", "drawn": middle | {"used": used, "sides": sides or None}})
