"""What runs on Ray: an engine on a spot node, and the agent of the weights. Plain classes; fleet makes them actors.

An engine has one stream, on which everything it says comes in order: tokens, and that it gave a request up. So a
request that moves goes on elsewhere only after its last token here has been read, and no token is there twice.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workbench.rlboost.rollout import Ask, Rollouts, Tokens
from workbench.rlboost.weights import Manifest, Pull, WeightError, WeightStore

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.lm.dtype import Dtype
    from workbench.lm.sampler import Sampler
    from workbench.rlboost.vllm_rollout import VllmRollouts

Kind = Literal["embedded", "vllm"]

IDLE_S = 0.02  # between looks at an empty queue
CHUNK_WAIT_S = 30.0  # for one chunk of weights


@dataclass(frozen=True)
class Said:
    """One item of an engine's stream: tokens of one pass, and requests that it no longer has."""

    version: int
    tokens: tuple[Tokens, ...]
    gone: tuple[str, ...] = ()
    seconds: float = 0.0  # of the pass
    computed: int = 0  # tokens that went through it: those that were made, and prompts


@dataclass(frozen=True)
class Pulled:
    """Weights that arrived: which, how much, how long it took."""

    version: int
    size: int
    seconds: float
    node: str = ""  # Ray's id of the node that it is on


class SpotEngine:
    """Rollouts behind a queue and a stream. Calls may come from several threads (an actor with concurrency).

    kind: the embedded engine, or vLLM in a child of this process, which ends with it.
    """

    def __init__(
        self, name: str, model: str, dtype: Dtype, sampler: Sampler, slots: int, kind: Kind = "embedded"
    ) -> None:
        self.name = name
        self.engine = _engine(kind, model, dtype, sampler, slots)
        self._inbox: list[Ask] = []
        self._leaving: list[str] = []
        self._turn, self._early = 0, dict[int, Callable[[], None]]()  # the next call's number; those that overtook it
        self._queue, self._working = threading.Lock(), threading.Lock()  # of the two lists, of the engine
        self._wake, self._over = threading.Event(), False

    def pid(self) -> int:
        """Of the process that a test or a user may kill."""
        return os.getpid()

    def give(self, asks: Sequence[Ask], version: int, turn: int | None = None) -> None:
        """More responses. WeightError where they are to be made with other weights than there are here.

        turn: the number of this call among those that give and take, from 0; it is done in this order. None: now.
        """

        def add() -> None:
            if version != self.engine.version:
                raise WeightError(f"{self.name} has weights {self.engine.version}, the responses are of {version}")
            self._inbox.extend(asks)

        self._in_turn(turn, add)

    def take(self, requests: Sequence[str], turn: int | None = None) -> None:
        """Give these up; the stream says `gone` behind the last token of each. `turn`: as in `give`."""
        self._in_turn(turn, lambda: self._leaving.extend(requests))

    def _in_turn(self, turn: int | None, call: Callable[[], None]) -> None:
        with self._queue:
            if turn is None:
                call()
            else:
                self._early[turn] = call
                while (due := self._early.pop(self._turn, None)) is not None:
                    self._turn += 1
                    due()
        self._wake.set()

    def stop(self) -> None:
        """End the stream, in the middle of whatever it says."""
        self._over = True
        self._wake.set()

    def stream(self) -> Iterator[Said]:
        """What the engine says until `stop`."""
        self._over = False
        while not self._over:
            with self._queue:
                gone, asks = tuple(self._leaving), self._inbox
                self._inbox, self._leaving = [], []
            with self._working:
                before = self.engine.prefilled + self.engine.decoded  # vLLM counts a prompt as it is given
                for request in gone:
                    self.engine.take(request)
                for ask in asks:
                    if ask.request not in gone:
                        self.engine.give(ask)
                began = time.perf_counter()
                tokens = tuple(self.engine.step())
                seconds = time.perf_counter() - began
                computed = self.engine.prefilled + self.engine.decoded - before
                busy = bool(self.engine.running or self.engine.pending)
            if tokens or gone:
                yield Said(self.engine.version, tokens, gone, seconds, computed)
            elif not busy:
                self._wake.wait(IDLE_S)
                self._wake.clear()

    def pull(self, agent: Any) -> Pulled:
        """Pull the newest weights from the agent (an actor's handle) and go on with them.

        A version that becomes old meanwhile is left for the newer one. WeightError: the agent gave damaged chunks twice
        or nothing in time; ValueError: responses are still here.
        """
        import ray

        began = time.perf_counter()
        while True:
            manifest: Manifest = ray.get(agent.manifest.remote(), timeout=CHUNK_WAIT_S)
            pull, refused = Pull(manifest), 0
            try:
                while missing := pull.missing():
                    part = ray.get(agent.chunk.remote(manifest.version, missing[0]), timeout=CHUNK_WAIT_S)
                    try:
                        pull.take(missing[0], part)
                    except WeightError:
                        refused += 1
                        if refused > 1:
                            raise
            except WeightError:
                if refused > 1 or ray.get(agent.manifest.remote(), timeout=CHUNK_WAIT_S).version == manifest.version:
                    raise
                continue  # it became old while it was pulled
            with self._working:
                self.engine.load(manifest.version, pull.weights())
            seconds = time.perf_counter() - began
            node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
            return Pulled(manifest.version, manifest.size, seconds, node)


def _engine(kind: Kind, model: str, dtype: Dtype, sampler: Sampler, slots: int) -> Rollouts | VllmRollouts:
    """With none of the trainer's weights yet."""
    if kind == "vllm":
        from workbench.rlboost.vllm_rollout import VllmRollouts

        return VllmRollouts(model, sampler, slots, version=-1, dtype=dtype)
    import torch

    from workbench import lm

    torch.set_num_threads(1)
    return Rollouts(lm.load(model, dtype), sampler, slots, version=-1)


class WeightAgent:
    """The sender: a process of its own, so that nobody's training waits for a puller."""

    def __init__(self, keep: int = 2, chunk_bytes: int = 4 << 20) -> None:
        self.store = WeightStore(keep, chunk_bytes)
        self._damage = 0

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> str:
        """Hold this version too; its digest."""
        return self.store.publish(version, weights).digest

    def manifest(self) -> Manifest:
        """Of the newest version."""
        return self.store.manifest()

    def chunk(self, version: int, number: int) -> bytes:
        """See WeightStore.chunk."""
        part = self.store.chunk(version, number)
        if self._damage:
            self._damage -= 1
            return bytes([part[0] ^ 1]) + part[1:]
        return part

    def damage(self, chunks: int) -> None:
        """Flip a bit of the next so many chunks: for checks that pulling notices."""
        self._damage = chunks

    def sent_bytes(self) -> int:
        """Over all pulls."""
        return self.store.sent_bytes
