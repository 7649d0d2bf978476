"""CakeScheduler: vLLM's own scheduler, told how far each restoring prompt may compute and where its KV already is.

before a step    move num_computed_tokens over loaded grains; ask the policy for this step's claim
at admission     all blocks of the prompt at once, so that the loader has where to write
after a step     tell the ledger what was computed; learn what it cost
preempt, abort   close the ledger and wait for the copy under way before the blocks go
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from workbench.cake.vllm_records import PREEMPT_S
from workbench.cake.vllm_version import check_version


class CakeScheduler(Scheduler):
    """For `scheduler_cls`, together with CakeConnector."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from workbench.cake.vllm_connector import CakeConnector

        check_version()
        super().__init__(*args, **kwargs)
        if not isinstance(self.connector, CakeConnector):
            raise ValueError("CakeScheduler needs kv_transfer_config with CakeConnector: see workbench.cake.vllm")
        self.book = self.connector.book
        self._lookahead = int(self.num_lookahead_tokens)
        self.num_lookahead_tokens: int = self._lookahead

    def schedule(self, throttle_prefills: bool = False) -> Any:
        now = time.monotonic()
        self.book.began(now)
        others = sum(1 for r in self.running if not r.is_prefill_chunk)
        self.book.advance(self.running, self.max_num_scheduled_tokens - others, now)
        try:
            return super().schedule(throttle_prefills)
        finally:
            self.num_lookahead_tokens = self._lookahead

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Cut a chunk to the request's claim; a request that is being admitted asks for all its blocks."""
        tokens = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        self.num_lookahead_tokens = self._lookahead
        if request.status == RequestStatus.RUNNING:
            return self.book.cap(request.request_id, num_computed_tokens, tokens)
        live = self.book.lives.get(request.request_id)
        if live is None or live.restore is None or tokens == 0:
            return self.book.cap(request.request_id, num_computed_tokens, tokens)
        tokens = min(tokens, self.book.first_step(live, time.monotonic()))
        self.num_lookahead_tokens += max(0, request.num_tokens - num_computed_tokens - tokens)
        return tokens

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        now = time.monotonic()
        told = model_runner_output.kv_connector_output
        if told is not None and told.kv_connector_worker_meta is not None:
            self.book.reported(told.kv_connector_worker_meta.reads)
        self.book.computed(now)
        self.book.unlink_attached()
        return super().update_from_output(scheduler_output, model_runner_output)

    def _preempt_request(self, request: Request, timestamp: float, drop_stale_output: bool = False) -> None:
        """Its blocks may be another request's in this very step: no loader may write to them after this."""
        self.book.end(request.request_id, PREEMPT_S)
        if request.request_id in self.book.draining:
            raise RuntimeError(
                f"CAKE: the loader has been copying into request {request.request_id} for {PREEMPT_S:.0f} s; "
                "its blocks cannot be given away"
            )
        super()._preempt_request(request, timestamp, drop_stale_output)
