"""The scheduler's book of requests: what each has in the store, what it computes next, what it cost. No vLLM here.

A request lives from admission to its end or preemption. While it has a Restore, its prompt is filled from both
ends: `advance` asks the policy before every engine step and moves `num_computed_tokens` over what was loaded.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.cake.learn import Learner
from workbench.cake.ledger import Grain
from workbench.cake.policy import Compute, Job, Policy, Ready, Why, loadable_grains
from workbench.cake.store import Store
from workbench.cake.vllm_records import HEDGE, LEAVE_S, Live, Loaded, Order, Orders, Restore, Save
from workbench.cake.vllm_settings import Asked, Settings
from workbench.cake.vllm_shared import Segment

IDLE_S = 0.02  # longest wait of a step in which nothing is computed: aborts and new requests are seen so soon
log = logging.getLogger("workbench.cake.vllm")


class Book:
    """Every live request of one engine."""

    def __init__(
        self,
        settings: Settings,
        open_store: Callable[[str], Store],
        folder: Path,
        policy: Policy,
        blocks_per_grain: int,
        learner: Learner,
    ) -> None:
        self.settings, self.open_store, self.folder, self.policy = settings, open_store, folder, policy
        self.epoch = ""  # changes when the weights do: what was stored before is not found any more
        self.store = open_store(self.epoch)
        layout = self.store.layout
        self.grain, self.token_bytes = layout.tokens, layout.nbytes // layout.tokens
        self.blocks_per_grain, self.learner = blocks_per_grain, learner
        self.lives: dict[str, Live] = {}
        self.draining: dict[str, Restore] = {}
        self.totals: Counter[str] = Counter()
        self._next = Orders()
        self._names: dict[str, str] = {}  # job name -> request id
        self._step: dict[str, tuple[int, int]] = {}
        self._began_s = 0.0
        self._count = 0

    # -- admission -----------------------------------------------------------------------------------------------

    def match(self, request: Any, local: int) -> None:
        """A waiting request has `local` tokens in vLLM's prefix cache: look the rest up in the store."""
        live = self.lives.get(request.request_id)
        if live is not None and live.local == local:
            return  # asked before, and there was no room for it
        self.end(request.request_id)
        if any(getattr(request, name, None) for name in ("lora_request", "mm_features", "cache_salt", "prompt_embeds")):
            return  # what its KV depends on is not in the store's keys
        if request.pooling_params is not None:
            return
        try:
            asked = Asked.of(request.kv_transfer_params, self.settings)
        except (ValueError, TypeError) as error:
            log.warning("request %s: %s; the engine's settings are used", request.request_id, error)
            asked = Asked.of(None, self.settings)
        ids = list(request.all_token_ids)
        stored = self.store.prompt(ids).stored
        live = Live(request, asked, ids, list(stored), local, self.settings.save)
        self.lives[request.request_id] = live
        if asked.cake != "compute" and not request.skip_reading_prefix_cache:
            self._begin(live)

    def _begin(self, live: Live) -> None:
        grains = loadable_grains(len(live.ids), self.grain, live.stored)
        kept = -(-live.local // self.grain)
        if grains <= kept:
            return
        self._count += 1
        name = f"{self._count}"
        try:
            segment = Segment.create(self.folder / name, grains, live.stored[:grains])
        except OSError as error:
            log.warning("no shared memory for a claim ledger (%s): request is computed", error)
            return
        ledger = segment.ledger
        ledger.claim_front(kept)
        ledger.computed(0, live.local // self.grain)
        job = Job(ledger, len(live.ids), self.grain, live.local, name, time.monotonic())
        load_token_s = self.learner.load_token_s(live.asked.link_mb_s, live.asked.cold, self.token_bytes)
        request_s = max(self.learner.costs.load_request_s, live.asked.latency_ms / 1e3)
        costs = replace(self.learner.costs, load_token_s=load_token_s, load_request_s=request_s)
        policy = replace(self.policy, costs=costs, mode=live.asked.cake, run=live.asked.run)
        live.restore = Restore(name, job, policy, segment, moved_s=time.monotonic())
        self._names[name] = live.request.request_id

    def first_step(self, live: Live, now_s: float) -> int:
        """Tokens to admit a request with: a claim of its own, or one token when loading everything is sooner.

        vLLM admits nothing with no tokens. The one token is computed beside the loads and then forgotten.
        """
        restore = live.restore
        assert restore is not None
        step = restore.policy.compute_step(restore.job, now_s)
        restore.probe = not isinstance(step, Compute)
        restore.cap = step.tokens if isinstance(step, Compute) else 1
        restore.why = {} if isinstance(step, Ready) else step.why
        return restore.cap

    def admitted(self, request: Any, blocks: list[int]) -> None:
        """The request has its blocks, all of the prompt's: the worker may load into them."""
        live = self.lives.get(request.request_id)
        restore = live.restore if live else None
        if live is None or restore is None:
            return
        hold = restore.job.position // self.grain if restore.probe else -1
        restore.sent, restore.moved_s = True, time.monotonic()
        order = Order(
            job=restore.name,
            path=str(restore.segment.path),
            grains=restore.ledger.grains,
            tokens=len(live.ids),
            ids=live.ids,
            blocks=list(blocks),
            policy=restore.policy,
            link_mb_s=live.asked.link_mb_s,
            latency_ms=live.asked.latency_ms,
            cold=live.asked.cold,
            hold=hold,
        )
        self._next.start.append(order)

    # -- before a step -------------------------------------------------------------------------------------------

    def advance(self, running: Iterable[Any], budget: int, now_s: float) -> None:
        """Move every restoring request over what is ready and decide what it computes in this step."""
        by_name: dict[str, Live] = {}
        for request in running:
            live = self.lives.get(request.request_id)
            if live is not None and (restore := live.restore) is not None:
                if not restore.probe:
                    restore.job.position = max(restore.job.position, request.num_computed_tokens)
                request.num_computed_tokens = restore.job.position
                restore.probe, restore.cap, restore.wait_s = False, 0, 0.0
                by_name[restore.name] = live
        left = min(self.policy.step, budget)
        for job in self.policy.order_compute([live.restore.job for live in by_name.values() if live.restore]):
            if left > 0:
                left -= self._decide(by_name[job.name], now_s)

    def _decide(self, live: Live, now_s: float) -> int:
        restore, request = live.restore, live.request
        assert restore is not None
        self._watch(restore, now_s)
        step = restore.policy.compute_step(restore.job, now_s)
        request.num_computed_tokens = restore.job.position
        if restore.job.position >= restore.job.loadable:
            self._finish(live)  # nothing is loading any more: the rest is vLLM's as ever
            return 0
        if isinstance(step, Compute):
            restore.cap, restore.why = step.tokens, step.why
            live.hedged += step.why.get("reason") == HEDGE
        elif not isinstance(step, Ready):
            restore.wait_s = step.seconds
        return restore.cap

    def _watch(self, restore: Restore, now_s: float) -> None:
        """Give up loading when nothing has moved for stall_s seconds."""
        seen = restore.job.position, restore.ledger.table.states()
        if seen != restore.seen:
            restore.seen, restore.moved_s = seen, now_s
            return
        read = restore.policy.run * self.grain
        patience_s = max(self.settings.stall_s, 3 * restore.policy.costs.load_s(read, read))  # slow is not stalled
        if now_s - restore.moved_s > patience_s and not restore.ledger.closed:
            log.warning("CAKE: nothing was loaded for %.0f s, the rest is computed", patience_s)
            restore.ledger.close()

    def _finish(self, live: Live) -> None:
        """Every grain is ready: let go of the ledger."""
        restore = live.restore
        assert restore is not None
        states = restore.ledger.states()
        loaded = [i for i, s in enumerate(states) if s is Grain.LOADED]
        live.met_at = loaded[0] * self.grain if loaded else -1
        live.loaded_grains = len(loaded)
        live.restore = None
        self._release(restore)

    def cap(self, request_id: str, computed: int, tokens: int) -> int:
        """Of `tokens` that vLLM would schedule for a running request after its first `computed`, those it may."""
        live = self.lives.get(request_id)
        if live is None:
            return tokens
        if live.restore is not None:
            return min(tokens, live.restore.cap)
        left = (len(live.ids) - 1) // self.grain * self.grain - computed
        return min(tokens, left) if live.asked.cut and left > 0 else tokens

    def orders(self, scheduled: Mapping[str, int], blocks_of: Callable[[str], list[int]]) -> Orders:
        """What this step tells the worker; `scheduled` is tokens by request, positions not yet advanced."""
        told, self._next = self._next, Orders()
        self._step = {}
        for request_id, tokens in scheduled.items():
            live = self.lives.get(request_id)
            if live is not None:
                start = live.request.num_computed_tokens
                self._step[request_id] = start, tokens
                if live.keeps and start < len(live.ids) and (save := self._save(live, start + tokens, blocks_of)):
                    told.save.append(save)
        waits = [live.restore.wait_s for live in self.lives.values() if live.restore and live.restore.wait_s > 0]
        told.wait_s = min([*waits, IDLE_S]) if waits and not scheduled else 0.0
        told.epoch = self.epoch
        return told

    def _save(self, live: Live, end: int, blocks_of: Callable[[str], list[int]]) -> Save | None:
        upto = min(end // self.grain, len(live.stored))
        due = [i for i in range(live.saved_to, upto) if not live.stored[i]]
        live.saved_to = max(live.saved_to, upto)
        if not due:
            return None
        blocks, per = blocks_of(live.request.request_id), self.blocks_per_grain
        for i in due:
            live.stored[i] = True
        return Save(live.request.request_id, live.ids, due, [blocks[i * per : (i + 1) * per] for i in due])

    # -- after a step --------------------------------------------------------------------------------------------

    def began(self, now_s: float) -> None:
        """A step begins to be scheduled."""
        self._began_s = now_s

    def computed(self, now_s: float) -> None:
        """The step's pass is over."""
        restoring = [i for i in self._step if (live := self.lives.get(i)) is not None and live.restore is not None]
        for request_id, (start, tokens) in self._step.items():
            live = self.lives.get(request_id)
            if live is None or start >= len(live.ids):
                continue
            restore = live.restore
            if restore is not None and not restore.probe:
                end = min(start + tokens, restore.job.loadable)
                restore.ledger.computed(start // self.grain, end // self.grain - start // self.grain)
            why = dict(restore.why) if restore is not None else {"reason": "vLLM's own prefill"}
            self._span(live, "compute", start, start + tokens, self._began_s, now_s, why)
            if len(self._step) == 1 and not (restore and restore.probe):
                seconds = now_s - self._began_s
                self.learner.learn_pass(start, tokens, seconds, beside_load=bool(restoring))
                if restore is not None and tokens == restore.cap:
                    self.learner.scale(restore.ledger, restore.why, seconds)
        self._step = {}

    def reported(self, reads: Iterable[Loaded]) -> None:
        """The worker tells of reads since the last step."""
        for read in reads:
            self.totals["bytes"] += read.nbytes
            self.totals["grains"] += read.written
            self.totals["failed"] += len(read.failed)
            live = self.lives.get(self._names.get(read.job, ""))
            if live is None:
                continue
            live.loaded_bytes += read.nbytes
            for grain, cause in read.failed.items():
                live.failed[cause] += 1
                if grain < len(live.stored):
                    live.stored[grain] = False  # what is computed in its place is saved again
            first, count = min(read.grains) * self.grain, len(read.grains) * self.grain
            unused = len(read.grains) - read.written
            why = {**read.why, "unused_grains": unused} if unused else dict(read.why)
            self._span(live, "load", first, first + count, read.began_s, read.ended_s, why)
            if read.written == len(read.grains):
                seconds = (read.ended_s - read.began_s) / count
                self.learner.learn_read(live.asked.link_mb_s, live.asked.cold, seconds)

    def _span(self, live: Live, lane: str, first: int, last: int, began: float, ended: float, why: Why) -> None:
        if live.asked.trace:
            live.spans.append(
                {"lane": lane, "start_s": began, "end_s": ended, "first_token": first, "last_token": last, "why": why}
            )

    # -- the end -------------------------------------------------------------------------------------------------

    def end(self, request_id: str, wait_s: float = LEAVE_S) -> Live | None:
        """The request is over or loses its blocks: after this nothing is written to them, or it is in `draining`."""
        live = self.lives.pop(request_id, None)
        if live is None:
            return None
        self._next.forget.append(request_id)
        self._names = {name: owner for name, owner in self._names.items() if owner != request_id}
        restore, live.restore = live.restore, None
        if restore is not None:
            restore.ledger.close()
            deadline = time.monotonic() + wait_s
            while restore.ledger.writing() and time.monotonic() < deadline:
                time.sleep(0.0005)
            if restore.ledger.writing():
                self.draining[request_id] = restore
            else:
                self._release(restore)
        return live

    def drained(self) -> set[str]:
        """Requests that were in `draining` and whose blocks nobody writes to any more."""
        done = {i for i, restore in self.draining.items() if not restore.ledger.writing()}
        for request_id in done:
            self._release(self.draining.pop(request_id))
        return done

    def _release(self, restore: Restore) -> None:
        self._next.start = [order for order in self._next.start if order.job != restore.name]
        if restore.sent:
            self._next.close.append(restore.name)
        restore.segment.unlink()
        restore.segment.close()

    def unlink_attached(self) -> None:
        """After a step the worker has every ledger open: their files can go."""
        for live in self.lives.values():
            if live.restore is not None and live.restore.sent:
                live.restore.segment.unlink()

    def reset(self) -> None:
        """Forget the store's content: the engine's weights are not those of its files any more."""
        self.epoch = secrets.token_hex(4)
        self.store.close()
        self.store = self.open_store(self.epoch)

    def close(self) -> None:
        """The engine ends."""
        for request_id in list(self.lives):
            self.end(request_id)
        self.store.close()
