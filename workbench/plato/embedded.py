"""The built-in engine: the step loop over workbench.lm, one ragged pass a step, KV forked by copying a prefix."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.lm import LM, KVCache, Sampler
from workbench.plato.engine import Constraint, Words
from workbench.plato.matcher import Matcher
from workbench.plato.steploop import CHUNK, HOLD_TOKENS, STEP_TOKENS, Matches, Pad, Piece, Row, StepLoop


class EmbeddedEngine(Words, StepLoop):
    """engine.Engine over an LM; `sampler` chooses by (seed, name of the sequence, position).

    Not `exact`: fp32 steps of up to 3 tokens are up to a fifth faster, and a sequence's bits then depend on how many
    run beside it, in the last places.
    """

    def __init__(
        self,
        model: LM,
        sampler: Sampler | None = None,
        *,
        pad: Pad | None = None,
        exact: bool = True,
        chunk: int = CHUNK,
        step_tokens: int = STEP_TOKENS,
        hold_tokens: int = HOLD_TOKENS,
    ) -> None:
        super().__init__(pad=pad, chunk=chunk, step_tokens=step_tokens, hold_tokens=hold_tokens)
        self.model, self.tokenizer, self.sampler = model, model.tokenizer, sampler or Sampler()
        self.exact = exact
        self._began = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since it was opened."""
        return time.perf_counter() - self._began

    def room(self) -> int:
        return self.model.config.max_position

    def _check(self, ids: Sequence[int]) -> None:
        vocab = self.model.config.vocab
        if bad := [i for i in ids if not 0 <= i < vocab]:
            raise ValueError(f"{self.model.name} knows token ids 0 to {vocab - 1}, not {bad[0]}")

    def _matcher(self, constraint: Constraint) -> Matches:
        return Matcher(self.tokenizer, constraint)

    def _kv(self, source: Any, tokens: int, capacity: int) -> KVCache:
        return self.model.new_cache(capacity) if source is None else source.fork(capacity, tokens)

    def _run(self, pieces: Sequence[Piece], width: int) -> Sequence[Tensor | None]:
        logits = self.model.forward_ragged(
            [torch.tensor(p.ids) for p in pieces],
            [p.row.kv for p in pieces],
            [p.start for p in pieces],
            pad_to=width,
            exact=self.exact,
        )
        return list(logits)

    def _choose(self, row: Row, logits: Tensor | None) -> int:
        assert logits is not None
        if row.ask.whole:  # what would end the answer is not chosen
            logits = logits.clone()
            logits[list(self.model.config.stop_ids)] = float("-inf")
        return self._pick(row, logits)

    def _pick(self, row: Row, logits: Tensor) -> int:
        return self.sampler.pick(logits, row.ask.name, len(row.ids))

    def _ends(self, row: Row, token: int) -> bool:  # noqa: ARG002  of no row in particular
        return token in self.model.config.stop_ids
