"""The worker's side: vLLM's KV blocks as grains, the thread that loads into them, the thread that saves from them.

The loader thread reads, verifies and waits for the link; it touches a block only between the ledger's begin_commit
and loaded, and only the scheduler's close() stands above that. Whatever ends it, the rest is computed.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cake.policy import Job, Load, Ready
from workbench.cake.store import Layout, Store, StoredPrompt, StoreError, TokenBucket
from workbench.cake.vllm_records import Loaded, Order, Save
from workbench.cake.vllm_shared import Segment

if TYPE_CHECKING:
    import torch

log = logging.getLogger("workbench.cake.vllm")
QUEUED_GRAINS = 64  # copies that may wait to be written; more, and the step waits
FULL_S = 10.0
HOLD_S = 60.0
POLL_S = 0.02
JOIN_S = 5.0
_END = None


class KvBlocks:
    """vLLM's paged KV cache, read and written grain by grain.

    caches: one tensor a layer, [blocks, kv_heads, block_size, 2 * head_dim], whose interior is all keys of a head
    and then all its values. How a kernel packs the keys of a block is its own affair: blocks are copied whole.
    """

    def __init__(self, caches: Sequence[torch.Tensor], grain: int) -> None:
        first = caches[0]
        if any(c.shape != first.shape or c.dtype != first.dtype for c in caches) or first.dim() != 4:
            shapes = sorted({f"{tuple(c.shape)} {c.dtype}" for c in caches})
            raise ValueError(f"CAKE knows KV caches of one shape [blocks, heads, tokens, 2 * dim], not {shapes}")
        if any(not c[0].is_contiguous() for c in caches):
            raise ValueError("CAKE needs KV blocks that lie in one piece")
        _, heads, self.block, width = first.shape
        self._layers = [_split(c) for c in caches]  # each [blocks, heads, 2, block, dim]
        dtype = str(first.dtype).removeprefix("torch.")
        self.layout = Layout(len(caches), heads, grain, width // 2, dtype)

    def read(self, blocks: Sequence[int]) -> torch.Tensor:
        """A copy of one grain, [layers, 2, kv_heads, tokens, head_dim]."""
        import torch

        kv = torch.empty(self.layout.shape, dtype=self._layers[0].dtype)
        for to, cache in zip(kv, self._layers, strict=True):
            for i, block in enumerate(blocks):
                to[:, :, i * self.block : (i + 1) * self.block].copy_(cache[block].transpose(0, 1))
        return kv

    def write(self, blocks: Sequence[int], kv: torch.Tensor) -> None:
        """Put one grain into its blocks."""
        for values, cache in zip(kv, self._layers, strict=True):
            for i, block in enumerate(blocks):
                cache[block].copy_(values[:, :, i * self.block : (i + 1) * self.block].transpose(0, 1))


def _split(cache: torch.Tensor) -> torch.Tensor:
    """[blocks, heads, tokens, 2 * dim] seen as [blocks, heads, 2, tokens, dim]."""
    blocks, heads, tokens, width = cache.shape
    return cache.view(blocks, heads, 2, tokens, width // 2)


@dataclass
class _Task:
    """One prompt that is being loaded."""

    order: Order
    segment: Segment
    job: Job
    epoch: str
    prompt: StoredPrompt | None = None
    held: threading.Event = field(default_factory=threading.Event)  # set: its hold is over


class Loader:
    """Loads what the scheduler orders, several requests over one link, on one thread."""

    def __init__(self, kv: KvBlocks, open_store: Callable[[bool, str], Store]) -> None:
        self.kv, self._open_store = kv, open_store
        self.news = threading.Event()  # something was written, failed or ended
        self._tasks: dict[str, _Task] = {}
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._reads: list[Loaded] = []
        self._buckets: dict[tuple[float, float], TokenBucket] = {}
        self._thread: threading.Thread | None = None
        self._stop = False

    def start(self, order: Order, epoch: str) -> None:
        """Begin to load a prompt; the thread is started, or started again if it died."""
        segment = Segment.attach(Path(order.path), order.grains)
        job = Job(segment.ledger, order.tokens, self.kv.layout.tokens, name=order.job, arrived_s=time.monotonic())
        with self._lock:
            self._tasks[order.job] = _Task(order, segment, job, epoch)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="cake-load", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self, name: str) -> None:
        """The scheduler is done with a job, and nothing of it is being written."""
        with self._lock:
            task = self._tasks.pop(name, None)
        if task is not None:
            task.segment.ledger.close()
            task.held.set()

    def passed(self) -> None:
        """The pass of this step is over: holds end."""
        for task in self._current():
            task.held.set()

    def take_reads(self) -> list[Loaded]:
        """Reads since the last call."""
        with self._lock:
            reads, self._reads = self._reads, []
        return reads

    def shutdown(self) -> None:
        """End the thread; grains that it still claims are computed."""
        self._stop = True
        for task in self._current():
            task.segment.ledger.close()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _current(self) -> list[_Task]:
        with self._lock:
            return list(self._tasks.values())

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop:
                tasks = {t.order.job: t for t in self._current() if not t.segment.ledger.closed}
                pause = self._turn(tasks) if tasks else 10.0
                if pause:
                    self._wake.wait(pause)
                    self._wake.clear()
        except BaseException as error:  # noqa: BLE001  a dead loader must not take requests down
            log.warning("CAKE: the loader died of %s: %s; prompts are computed", type(error).__name__, error)
        finally:
            for task in self._current():
                task.segment.ledger.close()
                task.held.set()
            self.news.set()

    def _turn(self, tasks: dict[str, _Task]) -> float:
        """One read, of the request that the policy puts first; else how long to wait."""
        pause = POLL_S
        policy = next(iter(tasks.values())).order.policy
        for job in policy.order_load([t.job for t in tasks.values()]):
            task = tasks[job.name]
            step = task.order.policy.load_step(job, time.monotonic())
            if isinstance(step, Load):
                self._read(task, step)
                return 0.0
            if not isinstance(step, Ready):
                pause = min(pause, step.seconds)
        return pause

    def _read(self, task: _Task, step: Load) -> None:
        """One read of one or more grains: bytes, checks, the link's pace, then the copy into the KV cache."""
        ledger, order, grains = task.segment.ledger, task.order, list(step.grains)
        began, failed, written = time.monotonic(), dict[int, str](), 0
        ledger.set_gauge("load_began_s", began)
        try:
            arrived = self._bucket(order).reserve(self.kv.layout.nbytes * len(grains))
            for done, grain in enumerate(grains, 1):
                cause = self._one(task, grain, began + (arrived - began) * done / len(grains))
                if cause:
                    failed[grain] = cause
                written += cause == ""
        finally:
            for grain in grains:
                ledger.failed(grain)  # of those that are ready or taken this changes nothing
            ledger.set_gauge("load_run", 0)
        ended, per = time.monotonic(), self.kv.layout
        if len(failed) < len(grains):
            tokens = len(grains) * per.tokens
            ledger.learn_read(order.policy.costs.load_s(tokens, tokens), ended - began, ended)
        nbytes = written * per.nbytes
        record = Loaded(order.job, grains, began, ended, written, nbytes, failed, step.why)
        with self._lock:
            self._reads.append(record)
        self.news.set()

    def _one(self, task: _Task, grain: int, arrives_s: float) -> str | None:
        """Load one grain: "" when it is in the cache, None when it was taken or closed, else why it failed."""
        ledger, order, per = task.segment.ledger, task.order, self.kv.layout.tokens // self.kv.block
        try:
            if task.prompt is None:
                task.prompt = self._open_store(order.cold, task.epoch).prompt(order.ids)
            kv = task.prompt.read(grain)
        except Exception as error:  # noqa: BLE001  whatever a store raises, the grain can be computed
            log.warning("CAKE: grain %d is computed: %s: %s", grain, type(error).__name__, error)
            ledger.failed(grain)
            return error.cause if isinstance(error, StoreError) else type(error).__name__
        while (left := arrives_s - time.monotonic()) > 0 and not ledger.closed:
            time.sleep(min(left, POLL_S))
        if grain == order.hold and not task.held.wait(HOLD_S):
            return "the pass before it did not end"
        if not ledger.begin_commit(grain):
            return None
        self.kv.write(order.blocks[grain * per : (grain + 1) * per], kv)
        ledger.loaded(grain)
        return ""

    def _bucket(self, order: Order) -> TokenBucket:
        """One link for all requests that name the same one."""
        link = order.link_mb_s, order.latency_ms
        if link not in self._buckets:
            self._buckets[link] = TokenBucket(order.link_mb_s, order.latency_ms / 1e3)
        return self._buckets[link]


class Saver:
    """Writes copies of computed grains to the store, behind the engine's back."""

    def __init__(self, kv: KvBlocks, open_store: Callable[[bool, str], Store]) -> None:
        self.kv, self._open_store = kv, open_store
        self.counts: Counter[str] = Counter()
        self._prompts: dict[str, StoredPrompt] = {}
        self._queue: queue.Queue[tuple[StoredPrompt, int, torch.Tensor] | None] = queue.Queue(QUEUED_GRAINS)
        self._thread: threading.Thread | None = None

    def save(self, order: Save, epoch: str) -> None:
        """Copy the grains now, while their blocks are the request's; write them later."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="cake-save", daemon=True)
            self._thread.start()
        if order.request not in self._prompts:
            self._prompts[order.request] = self._open_store(False, epoch).prompt(order.ids)
        prompt = self._prompts[order.request]
        for grain, blocks in zip(order.grains, order.blocks, strict=True):
            try:  # also where the store has the grain: it may have been refused
                self._queue.put((prompt, grain, self.kv.read(blocks)), timeout=FULL_S)
            except queue.Full:
                log.warning("CAKE: the store takes no data for %.0f s; grains are not saved", FULL_S)
                return

    def forget(self, request: str) -> None:
        """A request has nothing more to save."""
        self._prompts.pop(request, None)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything is written; False when that takes longer."""
        deadline = time.monotonic() + timeout_s
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._queue.unfinished_tasks

    def shutdown(self) -> None:
        """Write what is left, then end."""
        if self._thread is not None:
            self.flush()
            with contextlib.suppress(queue.Full):  # a disk that hangs: the thread is a daemon
                self._queue.put(_END, timeout=JOIN_S)
                self._thread.join(JOIN_S)

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            prompt, grain, kv = item
            try:
                prompt.write(grain, kv)
                self.counts["saved"] += 1
            except Exception as error:  # noqa: BLE001  a full disk is no reason to stop serving
                self.counts["unsaved"] += 1
                if self.counts["unsaved"] == 1:
                    log.warning("CAKE: a grain was not stored: %s: %s", type(error).__name__, error)
            finally:
                self._queue.task_done()
        self._queue.task_done()
