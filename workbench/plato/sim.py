"""The step loop on a virtual clock: the same scheduling, a step's time from a cost model, answers without meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from workbench.plato.engine import Constraint
from workbench.plato.steploop import CHUNK, HOLD_TOKENS, STEP_TOKENS, Matches, Pad, Piece, Row, StepLoop

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.lm.tokenizer import Tokenizer

FILLER = " so"


class StepCost(Protocol):
    def step_s(self, tokens: int, rows: int, kv_tokens: int) -> float:
        """Seconds of a step of `tokens` in `rows` sequences that attend to `kv_tokens` in all."""
        ...


class Like(Protocol):
    """What the virtual engine takes from another: an Engine has it. A `tokenizer` beside it lets grammars be used."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def chat(self, system: str, user: str) -> list[int]: ...
    def room(self) -> int: ...


class SimEngine(StepLoop):
    """engine.Engine on a virtual clock. `like` lends its tokenizer and its room; every answer lasts its whole budget.

    Forks cost nothing here, nor does anything but the passes. A constraint needs a script: nobody is there to choose.
    """

    def __init__(
        self,
        cost: StepCost,
        like: Like,
        *,
        pad: Pad | None = None,
        chunk: int = CHUNK,
        step_tokens: int = STEP_TOKENS,
        hold_tokens: int = HOLD_TOKENS,
    ) -> None:
        super().__init__(pad=pad, chunk=chunk, step_tokens=step_tokens, hold_tokens=hold_tokens)
        self._cost, self._like, self._clock_s = cost, like, 0.0
        self._filler = like.encode(FILLER)[-1]

    def now_s(self) -> float:
        return self._clock_s

    def encode(self, text: str) -> list[int]:
        return self._like.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._like.decode(ids)

    def chat(self, system: str, user: str) -> list[int]:
        return self._like.chat(system, user)

    def room(self) -> int:
        return self._like.room()

    def _check(self, ids: Sequence[int]) -> None:
        """Any token will do."""

    def _matcher(self, constraint: Constraint) -> Matches:
        if not constraint.script:
            raise ValueError("on the virtual clock nobody chooses: a constraint must come with its script")
        tokenizer: Tokenizer | None = getattr(self._like, "tokenizer", None)
        if tokenizer is None:
            return _Spelled(self._like.encode(constraint.script))
        from workbench.plato.matcher import Matcher

        return Matcher(tokenizer, constraint)

    def _kv(self, source: Any, tokens: int, capacity: int) -> Any:  # noqa: ARG002  nothing is stored
        return True

    def _run(self, pieces: Sequence[Piece], width: int) -> Sequence[Tensor | None]:
        self._clock_s += self._cost.step_s(width, len(pieces), sum(p.end for p in pieces))
        return [None] * len(pieces)

    def _choose(self, row: Row, logits: Tensor | None) -> int:  # noqa: ARG002  as real engines choose
        return self._filler

    def _pick(self, row: Row, logits: Tensor) -> int:
        raise NotImplementedError("a script leaves nothing to pick")

    def _ends(self, row: Row, token: int) -> bool:  # noqa: ARG002  as real engines are asked
        return False


class _Spelled:
    """A script token by token, each at the price of a step: without a real tokenizer no grammar can be asked."""

    stop_ids: frozenset[int] = frozenset()

    def __init__(self, script: list[int]) -> None:
        self._left = script[::-1]
        self.ended = not script

    def forced(self) -> list[int]:
        return []

    def pick(self, logits: Tensor | None, choose: Callable[[Tensor], int]) -> int:  # noqa: ARG002  as a Matcher is asked
        token = self._left.pop()
        self.ended = not self._left
        return token
