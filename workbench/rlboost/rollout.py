"""An engine that rolls out: continuous batching over one LM, tokens streamed, its weights replaced between requests.

    engine = Rollouts(model, Sampler(1.0, seed=7), slots=16)
    engine.give(Ask("step 3 response 12", prompt, done=(), most=48))
    for piece in engine.step(): ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "spot-1", version=3)

A request that was interrupted elsewhere comes with the tokens it has (`done`); their KV is computed here, in one pass
but with the sums of decoding, and it goes on at the next position. Tokens are drawn by (seed, request, position), so in
fp32 where it runs, beside whom and how often it moved does not change what it says.
Source: arXiv 2510.19225, section 4.2 (token-level collection, migration).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.lm.cache import KVCache
from workbench.lm.model import LM
from workbench.lm.sampler import Sampler

CHUNK = 96  # tokens of a prompt in one pass: the others' next tokens wait no longer than that
PASS_TOKENS = 512  # of one pass; fp32 rows keep their bits up to 600


@dataclass(frozen=True)
class Ask:
    """One response: the prompt, the tokens it has already, and how many it may have in all."""

    request: str
    prompt: tuple[int, ...]
    done: tuple[int, ...] = ()
    most: int = 128

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError(f"{self.request}: a prompt has one token or more")
        if not len(self.done) < self.most:
            raise ValueError(f"{self.request}: has {len(self.done)} tokens of {self.most}: nothing is left to generate")


@dataclass(frozen=True)
class Tokens:
    """What one pass made of one response: ids at positions `start` onwards of the response; `ended` with the last."""

    request: str
    start: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of the distribution that was drawn from, before top-k and top-p
    ended: str = ""  # "stop" or "length"


@dataclass
class _Row:
    ask: Ask
    kv: KVCache
    ids: list[int] = field(default_factory=list)  # prompt and response
    filled: int = 0  # of ids, with KV

    @property
    def made(self) -> int:
        return len(self.ids) - len(self.ask.prompt)


class Rollouts:
    """At most `slots` responses at once, the others wait in order. For one thread."""

    def __init__(self, model: LM, sampler: Sampler, slots: int = 16, version: int = 0) -> None:
        if slots < 1:
            raise ValueError(f"slots must be 1 or more, not {slots}")
        self.model, self.sampler, self.slots, self.version = model, sampler, slots, version
        self.pending: deque[Ask] = deque()
        self.running: dict[str, _Row] = {}
        self._given: dict[str, KVCache] = {}  # with pending ones
        self.prefilled = self.decoded = self.passes = 0

    def give(self, ask: Ask, kv: KVCache | None = None) -> None:
        """One more response, behind those that wait. ValueError: known already, or longer than the positions.

        kv: the KV of its tokens from the first on, as far as there is any; the engine computes the rest and writes to
        it from now on. The last token is run here in any case, for its logits. ValueError: it has a hole.
        """
        if kv is not None and not kv.holds(0, kv.length):
            raise ValueError(f"{ask.request}: the KV that came with it has a hole before position {kv.length}")
        if ask.request in self.running or any(a.request == ask.request for a in self.pending):
            raise ValueError(f"{ask.request} is here already")
        longest = len(ask.prompt) + ask.most
        if longest > self.model.config.max_position:
            raise ValueError(
                f"{ask.request}: {len(ask.prompt)} tokens of prompt and {ask.most} of response exceed "
                f"{self.model.name}'s {self.model.config.max_position} positions"
            )
        self.pending.append(ask)
        if kv is not None:
            self._given[ask.request] = kv

    def filled(self, request: str) -> tuple[list[int], KVCache]:
        """Tokens of a running response that have their KV, and the cache, which the next step goes on writing.

        KeyError where it is not running.
        """
        row = self.running[request]
        return row.ids[: row.filled], row.kv

    def take(self, request: str) -> bool:
        """Give a response up: it goes on elsewhere with the tokens that were told. False where it is not here."""
        if self.running.pop(request, None) is not None:
            return True
        kept = [a for a in self.pending if a.request != request]
        gone = len(kept) < len(self.pending)
        self.pending = deque(kept)
        self._given.pop(request, None)
        return gone

    def load(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Go on with these weights. ValueError while responses are here: none may mix two versions (on-policy)."""
        if self.running or self.pending:
            raise ValueError(f"{len(self.running) + len(self.pending)} responses are here: hand them on first")
        old = self.model
        self.model = LM(old.name, old.config, weights, old.dtype, old.tokenizer, f"{old.fingerprint}@{version}")
        self.version = version

    def step(self) -> list[Tokens]:
        """One pass: the next token of each response, a piece of each prompt. [] where there is nothing to do.

        RuntimeError names the response whose logits are no numbers.
        """
        self._admit()
        rows, pieces, alone, room = list[_Row](), list[Tensor](), list[bool](), PASS_TOKENS
        for row in sorted(self.running.values(), key=lambda r: len(r.ids) - r.filled):  # decoding ones first
            prompt = len(row.ask.prompt)  # no piece goes across its end
            piece = row.ids[row.filled : min(row.filled + CHUNK, prompt if row.filled < prompt else len(row.ids))]
            if len(piece) > room:
                break
            room -= len(piece)
            rows.append(row)
            pieces.append(torch.tensor(piece))
            alone.append(row.filled >= prompt)
        if not rows:
            return []
        logits = self.model.forward_ragged(pieces, [r.kv for r in rows], [r.filled for r in rows], alone=alone)
        self.passes += 1
        found = []
        for row, given, own in zip(rows, pieces, logits, strict=True):
            row.filled += len(given)
            if len(given) > 1:
                self.prefilled += len(given)
            if row.filled == len(row.ids):
                found.append(self._next(row, own))
        return found

    def _admit(self) -> None:
        while self.pending and len(self.running) < self.slots:
            ask = self.pending.popleft()
            ids, most = [*ask.prompt, *ask.done], len(ask.prompt) + ask.most
            kv = self._given.pop(ask.request, None)
            if kv is None:
                kv = self.model.new_cache(most)
            elif kv.capacity < most:
                kv = kv.fork(most)
            self.running[ask.request] = _Row(ask, kv, ids, min(kv.length, len(ids) - 1))

    def _next(self, row: _Row, logits: Tensor) -> Tokens:
        ask, at = row.ask, row.made
        try:
            token = self.sampler.pick(logits, ask.request, at)
        except ValueError as error:
            raise RuntimeError(f"{ask.request}, position {at}, weights {self.version}: {error}") from error
        scale = self.sampler.temperature or 1.0
        logprob = float(torch.log_softmax(logits / scale, 0)[token])
        row.ids.append(token)
        self.decoded += 1
        stops = token in self.model.config.stop_ids
        ended = "stop" if stops else "length" if row.made >= ask.most else ""
        if ended:
            del self.running[ask.request]
        return Tokens(ask.request, at, (token,), (logprob,), ended)
