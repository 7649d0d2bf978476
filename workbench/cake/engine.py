"""The embedded engine: one thread computes a prompt's KV from the front, one loads it from the back.

    compute thread    policy.compute_step -> forward pass over a chunk -> ledger.computed
    load thread       policy.load_step    -> read, verify, wait for the link -> ledger.begin_commit -> inject

Both write to the same KV cache, each only to positions that it owns by the ledger.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from workbench.cake.ledger import Grain, Ledger
from workbench.cake.policy import Compute, Job, Load, Policy, Ready, Stopped, loadable_grains
from workbench.cake.sim import Request, choose_order
from workbench.cake.store import Store, StoredPrompt, StoreError, TokenBucket
from workbench.system import Span

if TYPE_CHECKING:
    import torch

    from workbench.lm import LM, KVCache

LEAVE_S = 1.0  # a loader that hangs in a read is left behind after so long: the closed ledger throws its bytes away
STALL_S = 30.0  # nothing computed, loaded or failed for so long: the rest is computed
STALLED = "stalled"  # cause of grains whose load was given up


class Stalled(RuntimeError):
    """A restore made no progress for STALL_S seconds, and none either after its loads were given up."""


@dataclass
class Restored:
    """One prompt, ready to decode."""

    ttft_s: float
    logits: torch.Tensor  # [vocab], of the last prompt token
    cache: KVCache
    met_at: int  # first token that was loaded; the number of loadable tokens where none was
    loaded_tokens: int
    failures: Counter[str]  # StoreError.cause -> grains
    hedged: int
    passes: list[tuple[int, int, float]] = field(default_factory=list)  # (start, tokens, seconds) computed
    reads: list[tuple[int, float]] = field(default_factory=list)  # (grain, seconds), link included


class _Reading:
    """A read on a thread of its own, which a hung disk may keep for ever: nobody waits for it longer than STALL_S."""

    def __init__(self, prompt: StoredPrompt, grain: int) -> None:
        self.grain, self._box = grain, queue.SimpleQueue[Any]()
        threading.Thread(target=self._read, args=(prompt,), name="cake-read", daemon=True).start()

    def _read(self, prompt: StoredPrompt) -> None:
        try:
            self._box.put(prompt.read(self.grain))
        except Exception as error:  # noqa: BLE001  raised again on the loader's thread
            self._box.put(error)

    def wait(self) -> torch.Tensor:
        """The KV. StoreError, also where no answer came within STALL_S."""
        try:
            got = self._box.get(timeout=STALL_S)
        except queue.Empty:
            raise StoreError(
                "unreadable", f"grain {self.grain}: no answer from the store for {STALL_S:.0f} s"
            ) from None
        if isinstance(got, Exception):
            raise got
        return got


class _Task:
    """One prompt being restored."""

    def __init__(self, name: str, ids: Sequence[int], prompt: StoredPrompt, grain: int, model: LM) -> None:
        import torch

        grains = loadable_grains(len(ids), grain, prompt.stored)
        self.prompt = prompt
        self.job = Job(Ledger(grains, prompt.stored), len(ids), grain, name=name)
        self.ids = torch.tensor(list(ids), dtype=torch.int64)
        self.cache = model.new_cache(len(ids) + 64)
        self.logits: torch.Tensor | None = None
        self.ready_s = 0.0
        self.failures: Counter[str] = Counter()
        self.hedged = self.loaded = 0
        self.met_at = grains * grain
        self.passes: list[tuple[int, int, float]] = []
        self.reads: list[tuple[int, float]] = []

    def restored(self) -> Restored:
        assert self.logits is not None
        return Restored(
            self.ready_s, self.logits, self.cache, self.met_at, self.loaded, self.failures, self.hedged,
            self.passes, self.reads,
        )  # fmt: skip


class Embedded:
    """Restores prompts with a model of the lm package and any KV store.

    emit receives a Span (seconds since `restore` began) for every pass and every read. `stop` ends a restore
    within one layer of one pass.
    """

    def __init__(
        self,
        model: LM,
        store: Store,
        link_mb_s: float | None = None,
        emit: Callable[[Span], None] | None = None,
        stop: threading.Event | None = None,
        latency_s: float = 0.0,
    ) -> None:
        self.model, self.store = model, store
        self.bucket = TokenBucket(link_mb_s, latency_s)
        self.emit = emit or (lambda _span: None)
        self.stop = stop or threading.Event()

    def restore(self, prompts: Sequence[Sequence[int]], policy: Policy) -> list[Restored]:
        """Make every prompt ready. Stopped, Stalled, or what the model raised; loads that fail are computed."""
        grain = self.store.layout.tokens
        self._begin, self._over, self._news = time.monotonic(), threading.Event(), threading.Event()
        tasks = [
            _Task(f"r{i} " if len(prompts) > 1 else "", ids, self.store.prompt(ids), grain, self.model)
            for i, ids in enumerate(prompts)
        ]
        if len(tasks) > 1:  # counts as time of the restore
            policy = choose_order(policy, [Request(len(t.ids), stored=t.prompt.stored) for t in tasks], grain)
        for task in tasks:
            task.job.ledger.changed = self._news  # one event for all: whichever prompt has news wakes compute
        patience = 3 * policy.costs.load_s(policy.run * grain, policy.run * grain)
        self._stall_s = max(STALL_S, patience)  # a very slow link is slow, not stalled
        loader = threading.Thread(target=self._load_all, args=(tasks, policy), name="cake-load", daemon=True)
        if policy.mode != "compute":
            loader.start()
        try:
            self._compute_all(tasks, policy)
        finally:
            self._over.set()
            for task in tasks:
                task.job.ledger.close()
            if loader.ident is not None:
                loader.join(LEAVE_S)
        return [task.restored() for task in tasks]

    # -- compute -------------------------------------------------------------------------------------------------

    def _compute_all(self, tasks: list[_Task], policy: Policy) -> None:
        by_name = {task.job.name: task for task in tasks}
        moved, before = time.monotonic(), -1
        while waiting := [task.job for task in tasks if task.logits is None]:
            if self.stop.is_set():
                raise Stopped("the restore was stopped")
            pause = 0.05
            for job in policy.order_compute(waiting):
                step = policy.compute_step(job, time.monotonic())
                if isinstance(step, Compute):
                    self._pass(by_name[job.name], step)
                    pause = 0.0
                    break
                pause = min(pause, 0.0 if isinstance(step, Ready) else step.seconds)
            now, state = time.monotonic(), sum(task.loaded + sum(task.failures.values()) for task in tasks)
            if pause == 0.0 or state != before:
                moved, before = now, state
            elif now - moved > self._stall_s:
                self._give_up(tasks)
                moved = now
            if pause:
                self._news.wait(pause)
                self._news.clear()

    def _give_up(self, tasks: list[_Task]) -> None:
        """Nothing moves: a read hangs. What is not loaded becomes compute's; Stalled when that was done before."""
        waiting = [task for task in tasks if task.logits is None]
        if all(task.job.ledger.closed for task in waiting):
            job = waiting[0].job
            where = f"{job.name or 'the prompt '}at token {job.position} of {job.tokens}"
            raise Stalled(f"no grain was computed or loaded for {self._stall_s:.0f} s; waiting for {where}")
        for task in waiting:
            task.failures[STALLED] += task.job.ledger.states().count(Grain.LOADING)
            task.job.ledger.close()

    def _pass(self, task: _Task, step: Compute) -> None:
        """One forward pass; its last logits count when it reaches the end of the prompt."""
        job, began = task.job, time.monotonic()
        end = step.start + step.tokens
        wanted: Literal["last"] | None = "last" if end == job.tokens else None
        logits = self.model.forward(
            task.ids[step.start : end], task.cache, step.start, logits=wanted, stop=self.stop.is_set
        )
        seconds = time.monotonic() - began
        inside = min(end, job.loadable) - step.start
        if inside > 0:
            job.ledger.computed(step.start // job.grain, -(-inside // job.grain))
        job.position = end
        task.hedged += step.why.get("reason") == "hedge: the load is late"
        task.passes.append((step.start, step.tokens, seconds))
        job.ledger.learn_pass(step.why.get("compute_s"), seconds)
        self._span("compute", job, began, step.start, end, step.why)
        if logits is not None:
            task.logits = logits.reshape(-1)
            task.ready_s = time.monotonic() - self._begin

    # -- load ----------------------------------------------------------------------------------------------------

    def _load_all(self, tasks: list[_Task], policy: Policy) -> None:
        """The load thread. Whatever ends it, compute goes on with what is not loaded."""
        by_name = {task.job.name: task for task in tasks}
        try:
            while not self._over.is_set():
                jobs = [t.job for t in tasks if t.logits is None and not t.job.ledger.closed]
                pause = 0.05
                for job in policy.order_load(jobs):
                    step = policy.load_step(job, time.monotonic())
                    if isinstance(step, Load):
                        self._read(by_name[job.name], step, policy)
                        pause = 0.0
                        break
                    if not isinstance(step, Ready):
                        pause = min(pause, step.seconds)
                if not jobs or all(j.ledger.table.front >= j.ledger.table.back for j in jobs):
                    return
                if pause:
                    self._over.wait(pause)
        except Exception as error:  # noqa: BLE001  a dead loader must not take the request down
            for task in tasks:
                task.failures[f"loader died: {type(error).__name__}: {error}"] += 1
                task.job.ledger.close()

    def _read(self, task: _Task, step: Load, policy: Policy) -> None:
        """One read of some grains, side by side: bytes, checks, the link's pace, then the copy into the cache."""
        job, ledger, began = task.job, task.job.ledger, time.monotonic()
        ledger.set_gauge("load_began_s", began)
        before, failed = task.loaded, sum(task.failures.values())
        arrived = self.bucket.reserve(self.store.layout.nbytes * len(step.grains))
        reading = [_Reading(task.prompt, grain) for grain in step.grains[1:]]
        for done, grain in enumerate(step.grains, 1):
            try:
                kv = task.prompt.read(grain) if done == 1 else reading[done - 2].wait()
            except StoreError as error:
                task.failures[error.cause] += 1
                ledger.failed(grain)
                continue
            share = began + (arrived - began) * done / len(step.grains)
            if self._over.wait(max(0.0, share - time.monotonic())):
                ledger.failed(grain)
                continue
            if ledger.begin_commit(grain):
                try:
                    task.cache.inject(grain * job.grain, kv)
                except BaseException:
                    ledger.failed(grain)
                    raise
                ledger.loaded(grain)
                task.loaded += job.grain
                task.met_at = min(task.met_at, grain * job.grain)
        seconds = time.monotonic() - began
        ledger.set_gauge("load_run", 0)
        tokens = len(step.grains) * job.grain
        if sum(task.failures.values()) - failed < len(step.grains):
            ledger.learn_read(policy.costs.load_s(tokens, tokens), seconds, began + seconds)
        task.reads += [(grain, seconds / len(step.grains)) for grain in step.grains]
        first = min(step.grains) * job.grain
        unused = len(step.grains) - (task.loaded - before) // job.grain
        why = {**step.why, "unused_grains": unused} if unused else step.why
        self._span("load", job, began, first, first + len(step.grains) * job.grain, why)

    def _span(self, lane: str, job: Job, began: float, start: int, end: int, why: object) -> None:
        at = time.monotonic() - self._begin
        self.emit(Span(lane, began - self._begin, at, f"{job.name}[{start}:{end}]", lane, dict(why)))  # type: ignore[call-overload]


def probe_read_s(prompt: StoredPrompt, bucket: TokenBucket, run: int = 4) -> float:
    """Fixed cost of a read, s: reads of one grain against reads of `run` grains side by side, medians of five.

    0 where the store holds too little to tell; grains that cannot be read are left out.
    """
    there = [i for i, stored in enumerate(prompt.stored) if stored]
    seconds: dict[int, list[float]] = {1: [], run: []}
    for i in range(5 if len(there) >= run else 0):
        for size, taken in seconds.items():
            began = time.monotonic()
            arrived = bucket.reserve(0)
            reading = [_Reading(prompt, there[(i * run + j) % len(there)]) for j in range(size)]
            with contextlib.suppress(StoreError):
                for each in reading:
                    each.wait()
                time.sleep(max(0.0, arrived - time.monotonic()))
                taken.append(time.monotonic() - began)
    if not all(seconds.values()):
        return 0.0
    one, many = median(seconds[1]), median(seconds[run])
    return max(0.0, one - (many - one) / (run - 1))


def save_prompt(store: Store, ids: Sequence[int], cache: KVCache, stop: threading.Event | None = None) -> int:
    """Write every whole grain of a computed prompt that the store lacks; returns how many were written."""
    prompt, grain, written = store.prompt(ids), store.layout.tokens, 0
    for i, there in enumerate(prompt.stored):
        if stop is not None and stop.is_set():
            raise Stopped("writing the KV store was stopped")
        if not there:
            prompt.write(i, cache.read(i * grain, (i + 1) * grain))
            written += 1
    return written
