"""Continuous batching over shared KV: who runs, which tokens go into a step, what is kept for reuse, what ends when.

A step takes the next token of every sequence that decodes, and beside them pieces of prompts as far as a budget of
tokens goes. embedded.py runs the pass for real, sim.py on a virtual clock; both use this very code, so for answers of a
given length they take the same steps with the same widths.

A prompt is cut into pieces by its own length and by what was reused alone, whatever runs beside it, and a row's numbers
do not depend on the other rows (`exact_rows` in lm/packed.py): so a sequence decodes to the same bits alone and in any
company.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from workbench.plato.engine import Ask, Constraint, ContextOverflow, Counts, Ended, EngineError, Out
from workbench.plato.held import Held, common

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 96  # tokens of a prompt that one step takes
STEP_TOKENS = 128  # of a step, where prompts ride along: up to here rows keep their bits, bf16 too (`exact_rows`)
HOLD_TOKENS = 8192  # of KV that is kept for reuse: 380 MB of SmolLM2's in fp32

Pad = Callable[[int], int]


class Matches(Protocol):
    """What is asked of a constraint's matcher; matcher.Matcher is one."""

    ended: bool
    stop_ids: frozenset[int]

    def forced(self) -> list[int]: ...
    def pick(self, logits: Tensor | None, choose: Callable[[Tensor], int]) -> int: ...


@dataclass
class Row:
    """A sequence that runs: `ids` are its prompt and all that it gained, of which `done` have KV."""

    ask: Ask
    ids: list[int]
    kv: Any
    done: int
    reused: int
    matcher: Matches | None = None
    untold: list[int] = field(default_factory=list)  # gained, and in no Out yet
    told: bool = False
    cut: bool = False  # the constraint forced more than the budget had room for

    @property
    def complete(self) -> bool:
        """All that its constraint allows has been said."""
        return self.matcher is not None and self.matcher.ended and not self.cut

    @property
    def gained(self) -> int:
        return len(self.ids) - len(self.ask.ids)

    @property
    def left(self) -> int:
        return self.ask.budget - self.gained


@dataclass(frozen=True)
class Piece:
    """What a step computes of a row: its tokens [start, end)."""

    row: Row
    start: int
    end: int

    @property
    def ids(self) -> list[int]:
        return self.row.ids[self.start : self.end]

    @property
    def last(self) -> bool:
        """A token is chosen after it."""
        return self.end == len(self.row.ids)


class StepLoop(ABC):
    """engine.Engine without the pass itself, the tokenizer and the clock.

    pad: how many tokens a step is best padded to, by how many it has. chunk, step_tokens: of prompts, see above.
    hold_tokens: most tokens of KV that ended sequences leave for reuse; the least recently used go first.
    """

    def __init__(
        self,
        *,
        pad: Pad | None = None,
        chunk: int = CHUNK,
        step_tokens: int = STEP_TOKENS,
        hold_tokens: int = HOLD_TOKENS,
    ) -> None:
        if chunk < 1 or step_tokens < chunk:
            raise ValueError(f"a step takes at least one chunk: {chunk} tokens of a prompt do not fit {step_tokens}")
        self.counts = Counts()
        self.pad, self._chunk, self._step_tokens = pad, chunk, step_tokens
        self._rows: dict[str, Row] = {}
        self._held = Held(hold_tokens)
        self._closed = False

    # -- what a subclass brings ------------------------------------------------------------------------------------

    @abstractmethod
    def now_s(self) -> float: ...

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str: ...

    @abstractmethod
    def chat(self, system: str, user: str) -> list[int]: ...

    @abstractmethod
    def room(self) -> int: ...

    @abstractmethod
    def _check(self, ids: Sequence[int]) -> None:
        """ValueError for tokens that the model does not know."""

    @abstractmethod
    def _matcher(self, constraint: Constraint) -> Matches: ...

    @abstractmethod
    def _kv(self, source: Any, tokens: int, capacity: int) -> Any:
        """Room for `capacity` tokens, the first `tokens` of them copied from `source` (None when there are none)."""

    @abstractmethod
    def _run(self, pieces: Sequence[Piece], width: int) -> Sequence[Tensor | None]:
        """The pass: writes the pieces' KV and gives logits [vocab] for each piece's last token, if there are any.

        width: tokens that the products run over, at least those of the pieces.
        """

    @abstractmethod
    def _choose(self, row: Row, logits: Tensor | None) -> int:
        """The next token of an unconstrained row. ValueError where the logits cannot be used."""

    @abstractmethod
    def _pick(self, row: Row, logits: Tensor) -> int:
        """The same from logits in which a constraint has masked what is not allowed."""

    @abstractmethod
    def _ends(self, row: Row, token: int) -> bool:
        """True when the model says with this token that its answer is over."""

    # -- engine.Engine ---------------------------------------------------------------------------------------------

    def start(self, ask: Ask) -> None:
        """Take a sequence in; its KV is forked from the longest prefix that anybody holds.

        ContextOverflow before any work; ValueError for a name that runs, tokens that the model does not know, or a
        constraint that cannot be met; EngineError when closed.
        """
        if self._closed:
            raise EngineError("the engine is closed: open a new one")
        if ask.name in self._rows:
            raise ValueError(f"{ask.name} is still running: a name is free again once its sequence has ended")
        needs = len(ask.ids) + ask.budget
        if needs > self.room():
            raise ContextOverflow(
                f"{ask.name} needs {needs} positions, {len(ask.ids)} for its prompt and {ask.budget} for its answer, "
                f"and the model has {self.room()}: shorten the query, or give parts fewer tokens"
            )
        self._check(ask.ids)
        row = Row(ask, list(ask.ids), None, 0, 0)
        if ask.constraint is not None and ask.budget:
            row.matcher = self._matcher(ask.constraint)
            self._gain(row, self._forced(row))
        self._fork(row)
        self._rows[ask.name] = row

    def step(self) -> list[Out]:
        """One pass over what runs, prompts as far as they fit. Also without one a sequence may end: then no pass."""
        outs = {name: self._over(row) for name, row in self._rows.items() if self._needs_nothing(row)}
        pieces = self._pieces()
        if pieces:
            self._count(pieces)
            tokens = sum(p.end - p.start for p in pieces)
            width = max(tokens, self.pad(tokens)) if self.pad else tokens
            try:
                logits = self._run(pieces, width)
            except (RuntimeError, MemoryError) as error:
                raise EngineError(f"a step of {len(pieces)} rows and {tokens} tokens failed: {error}") from error
            for piece, own in zip(pieces, logits, strict=True):
                piece.row.done = piece.end
                if piece.last:
                    outs[piece.row.ask.name] = (
                        self._over(piece.row) if not piece.row.left else self._next(piece.row, own)
                    )
        said = [outs[name] for name in self._rows if name in outs]
        for out in said:
            if out.ended:
                self._end(self._rows.pop(out.name), out.ended)
        return said

    def running(self) -> list[str]:
        return list(self._rows)

    def stop(self, name: str) -> None:
        self._rows.pop(name, None)

    def forget(self) -> None:
        """Also what runs is stopped: its KV would be found again."""
        self._rows.clear()
        self._held.clear()
        self.counts = Counts()

    def close(self) -> None:
        """Free everything; twice is no error."""
        self._rows.clear()
        self._held.clear()
        self._closed = True

    @property
    def held_tokens(self) -> int:
        """Tokens of KV that are kept of ended sequences."""
        return self._held.tokens

    # -- a step ----------------------------------------------------------------------------------------------------

    def _fork(self, row: Row) -> None:
        """Start from the longest prefix that a held or a running sequence has computed."""
        most = len(row.ids) - (1 if row.left else 0)  # somebody must give the logits of the last token
        same, source = 0, None
        if row.ask.share:
            ids = tuple(row.ids[:most])
            same, source = self._held.longest(ids)
            for other in self._rows.values():
                if other.ask.share and (n := common(ids, tuple(other.ids[: other.done]))) > same:
                    same, source = n, other.kv
        row.kv = self._kv(source, same, len(row.ask.ids) + max(row.ask.budget, 1))
        row.done, row.reused = same, min(same, len(row.ask.ids))
        self.counts.reused += row.reused

    def _pieces(self) -> list[Piece]:
        """Every row that decodes, in the order of their starts, then prompts while they fit; one always does."""
        pieces: list[Piece] = []
        room, late = self._step_tokens, []
        for row in self._rows.values():
            if self._needs_nothing(row):
                continue
            piece = Piece(row, row.done, min(len(row.ids), row.done + self._chunk))
            if row.done < len(row.ask.ids):
                late.append(piece)
            else:
                pieces.append(piece)
                room -= piece.end - piece.start
        for at, piece in enumerate(late):
            if at == 0 or piece.end - piece.start <= room:
                pieces.append(piece)
                room -= piece.end - piece.start
        return pieces

    def _count(self, pieces: Sequence[Piece]) -> None:
        c = self.counts
        c.steps += 1
        c.widths.append(len(pieces))
        c.tokens.append(sum(p.end - p.start for p in pieces))
        c.prefilled += sum(max(0, min(p.end, len(p.row.ask.ids)) - p.start) for p in pieces)

    def _needs_nothing(self, row: Row) -> bool:
        """All is there that it will ever have: its prompt's KV, or an answer that the constraint alone gave."""
        if row.ask.budget == 0:
            return row.done == len(row.ids)
        return row.left == 0 or row.complete

    def _over(self, row: Row) -> Out:
        return self._out(row, "constraint" if row.complete else "budget")

    def _next(self, row: Row, logits: Tensor | None) -> Out:
        """Choose the row's next token, take what it forces, and see whether it ends."""
        try:
            if logits is not None and bool(logits.isnan().any()):
                raise ValueError(f"its logits hold NaN after {len(row.ids)} tokens: the KV or the weights are damaged")
            if row.matcher is not None:
                token = row.matcher.pick(logits, lambda allowed: self._pick(row, allowed))
            else:
                token = self._choose(row, logits)
            self.counts.decoded += 1
            if row.matcher is not None and token in row.matcher.stop_ids and row.matcher.ended:
                return self._out(row, "constraint")
            if row.matcher is None and not row.ask.whole and self._ends(row, token):
                return self._out(row, "stop")
            self._gain(row, [token])
            self._gain(row, self._forced(row))
        except ValueError as error:
            return self._out(row, "failed", said=str(error))
        if row.complete:
            return self._out(row, "constraint")
        if row.ask.stop and not row.ask.whole and (dropped := self._beyond_stop(row)):
            return self._out(row, "stop", dropped)
        return self._out(row, "" if row.left else "budget")

    def _forced(self, row: Row) -> list[int]:
        """Tokens that the constraint alone decides, as far as the budget goes."""
        forced = row.matcher.forced() if row.matcher is not None else []
        row.cut = len(forced) > row.left
        self.counts.forced += min(len(forced), row.left)
        return forced[: row.left]

    def _gain(self, row: Row, tokens: list[int]) -> None:
        row.ids += tokens
        row.untold += tokens

    def _beyond_stop(self, row: Row) -> int:
        """Tokens at the end that are not wholly before the first stop text; 0 while there is none.

        Only the last tokens are looked at: a token has a byte at least, and the rest was looked at before.
        """
        reach = max(len(stop.encode()) for stop in row.ask.stop) + 4
        tail = row.ids[len(row.ask.ids) :][-reach:]
        text = self.decode(tail)
        found = [at for stop in row.ask.stop if (at := text.find(stop)) >= 0]
        if not found:
            return 0
        kept = len(tail)
        while kept and len(self.decode(tail[:kept]).rstrip("\ufffd")) > min(found):
            kept -= 1
        return len(tail) - kept

    def _out(self, row: Row, ended: Ended, dropped: int = 0, said: str = "") -> Out:
        ids, row.untold = tuple(row.untold), []
        prompt = min(row.done, len(row.ask.ids))
        reused, prefilled = (0, 0) if row.told else (row.reused, prompt - row.reused)
        row.told = True
        return Out(row.ask.name, ids, ended, said, reused, prefilled, dropped)

    def _end(self, row: Row, ended: Ended) -> None:
        """What a sequence computed stays for others, unless it may not be shared or cannot be trusted."""
        if row.ask.share and ended != "failed":
            self._held.add(tuple(row.ids[: row.done]), row.kv)
        row.kv = None
