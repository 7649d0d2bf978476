"""The measured run with the embedded engine: every mode on the same prompts, interleaved, against compute-only."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench import lm
from workbench.cake.config import CakeConfig, own_text
from workbench.cake.costs import Costs, fit_compute
from workbench.cake.engine import Embedded, Restored, probe_read_s, save_prompt
from workbench.cake.model_time import balanced
from workbench.cake.policy import TAIL, Mode, Policy, Stopped
from workbench.cake.result import CakeResult, Row, RowMode, Stroke, restore_name, to_stroke
from workbench.cake.sim import choose_chunks
from workbench.cake.store import DiskStore, Layout, Store, TokenBucket, in_memory
from workbench.cake.summed import passes_of, summed
from workbench.lm.threads import compute_threads
from workbench.system import Event, Note, Point, Progress, Span

if TYPE_CHECKING:
    import torch

Say = Callable[[Event], None]
ANSWER_TOKENS = 8
SWEEP = (4.0, 0.25, 16.0, 1 / 16)


class Bench:
    """One model, one store, some prompts; restores them in any mode and keeps rows."""

    def __init__(self, config: CakeConfig, say: Say, stop: threading.Event, folder: Path) -> None:
        self.config, self.say, self.stop = config, say, stop
        self.began = time.monotonic()
        self.done = 0.0
        self.total = 4.0 + config.rounds * (2 + (config.policy == "cake")) + 2 * config.sweep_points
        self.tell("loading the model")
        self.model = lm.load(config.model, dtype=config.weights, progress=self.follow)
        self.step = config.pass_tokens
        self.prompts = prompts(config, self.model)
        c = self.model.config
        layout = Layout(c.layers, c.kv_heads, config.grain, c.head_dim, config.weights)
        self.store: Store = open_store(config, layout, self.model.fingerprint, folder)
        self.token_bytes = layout.nbytes // layout.tokens
        self.loadable = sum(self.storable(i) for i in range(len(self.prompts)))
        self.rows: list[Row] = []
        self.reference: list[torch.Tensor] = []
        self.answers: list[list[int]] = []
        self.kept: list[tuple[Row, list[Stroke], list[Restored]]] = []
        self.usable: list[list[bool]] = []  # of each prompt: grains that the store holds undamaged

    def storable(self, number: int) -> int:
        """Tokens of a prompt that a store can hold: whole grains, never the last token."""
        return (len(self.prompts[number]) - 1) // self.config.grain * self.config.grain

    def warm_up(self) -> None:
        """One pass into a cache that is thrown away: the first matrix products of a process cost more than others."""
        import torch

        ids = torch.tensor(self.prompts[0][: self.step])
        self.model.forward(ids, self.model.new_cache(len(ids)), 0, logits=None, stop=self.stop.is_set)

    def tell(self, note: str, more: float = 0.0) -> None:
        """Progress: `more` restores were finished."""
        self.done += more
        self.say(Progress(min(self.done, self.total), self.total, note))

    def follow(self, done: float, total: float, note: str) -> None:
        """Progress of fetching the model; Stopped when the run was cancelled meanwhile."""
        if self.stop.is_set():
            raise Stopped("the run was cancelled while the model was fetched")
        self.tell(f"{note}, {100 * done / total:.0f} %")

    def restore(self, mode: RowMode, number: int, link_mb_s: float, costs: Costs, run: int) -> Row:
        """Restore all prompts once and keep the row. The first compute-only row becomes the reference."""
        name = restore_name(mode, number, link_mb_s)
        self.tell(name)
        strokes: list[Stroke] = []
        before = self.done
        offset, total = time.monotonic() - self.began, sum(len(p) for p in self.prompts)

        def emit(span: Span) -> None:
            stroke = to_stroke(span)
            strokes.append(stroke)
            shown = replace(
                span, start_s=span.start_s + offset, end_s=span.end_s + offset, label=f"{name} {span.label}"
            )
            self.say(shown)
            if span.why.get("reason") != TAIL:
                y = stroke.last_token if span.lane == "compute" else stroke.first_token
                self.say(Point(f"{span.lane}: position (tokens)", round(shown.end_s, 4), float(y)))
            share = (stroke.last_token - stroke.first_token) / total  # a hedged grain counts twice: hence the bound
            self.tell(name, max(0.0, min(share, before + 0.99 - self.done)))

        for side, at in (("compute", 0), ("load", len(self.prompts[0]))):
            self.say(Point(f"{side}: position (tokens)", round(offset, 4), float(at)))
        plain: Mode = "compute" if mode == "compute" else "load" if mode.endswith("load") else "cake"
        policy = Policy(costs, self.step, run, plain, self.config.batch, self.config.hedge)
        latency_s = 0.0 if mode.startswith("raw") else self.config.link_latency_ms / 1e3
        engine = Embedded(self.model, self.store, link_mb_s, emit, self.stop, latency_s)
        restored = engine.restore(self.prompts, policy)
        self.done = before + 1
        row = self.row(mode, number, link_mb_s, restored)
        self.rows.append(row)
        self.kept.append((row, strokes, restored))
        for *_, old in self.kept[:-1]:
            for r in old:  # one KV cache at a time is enough
                r.cache = None  # type: ignore[assignment]
        return row

    def row(self, mode: RowMode, number: int, link_mb_s: float, restored: Sequence[Restored]) -> Row:
        """Check a restore against the reference and put it in a row."""
        logits = [r.logits for r in restored]
        answers = [self.answer(r, len(p)) for r, p in zip(restored, self.prompts, strict=True)]
        if not self.reference:
            self.reference, self.answers = logits, answers
        apart = max(float((a - b).abs().max()) for a, b in zip(logits, self.reference, strict=True))
        reads = [s for r in restored for _, s in r.reads]
        if mode.startswith("raw") and reads:
            link_mb_s = sum(r.loaded_tokens for r in restored) * self.token_bytes / 1e6 / sum(reads)
        return Row(
            mode=mode,
            round=number,
            link_mb_s=round(link_mb_s, 3),
            throttled=mode in ("load", "cake") and link_mb_s > 0,
            ttft_s=float(np.mean([r.ttft_s for r in restored])),
            makespan_s=max(r.ttft_s for r in restored),
            meeting_token=restored[0].met_at if restored[0].loaded_tokens else self.storable(0),
            loaded_tokens=sum(r.loaded_tokens for r in restored),
            failed_grains=sum(sum(r.failures.values()) for r in restored),
            hedged_grains=sum(r.hedged for r in restored),
            logits_max_abs_diff=apart,
            same_tokens=answers == self.answers,
        )

    def answer(self, restored: Restored, position: int) -> list[int]:
        """Greedy continuation of ANSWER_TOKENS tokens, from the restored cache."""
        import torch

        token, found = int(restored.logits.argmax()), []
        for i in range(ANSWER_TOKENS):
            found.append(token)
            out = self.model.forward(torch.tensor([token]), restored.cache, position + i, stop=self.stop.is_set)
            assert out is not None
            token = int(out.argmax())
        return found

    def control(self) -> float:
        """Largest change of the first logits when one grain's KV is replaced by noise of the same size."""
        import torch

        cache, ids = self.kept[-1][2][0].cache, self.prompts[0]
        grain = self.config.grain
        at = (len(ids) - 1) // grain * grain - grain
        kv = cache.read(at, at + grain).float()
        noise = torch.randn(kv.shape, generator=torch.Generator().manual_seed(self.config.seed)) * kv.std()
        cache.inject(at, noise.to(cache.dtype))
        tail = torch.tensor(ids[at + grain :])
        out = self.model.forward(tail, cache, at + grain, stop=self.stop.is_set)
        assert out is not None
        return float((out - self.reference[0]).abs().max())


def prompts(config: CakeConfig, model: lm.LM) -> list[list[int]]:
    """The prompts of a run: as many as asked, the longest first, shorter by equal steps, each of its own text."""
    lengths = config.lengths
    if config.prompt_file is None:
        return [lm.prompt(model, n, config.seed + i) for i, n in enumerate(lengths)]
    ids = model.tokenizer.encode(own_text(config.prompt_file))
    if len(ids) < lengths[0] + config.requests - 1:
        raise ValueError(f"prompt_file: has {len(ids)} tokens, prompt_tokens asks for {lengths[0]}: ask for fewer")
    return [ids[i : i + n] for i, n in enumerate(lengths)]


def open_store(config: CakeConfig, layout: Layout, fingerprint: str, folder: Path) -> Store:
    """The store that the config names. BackendUnavailable when LMCache is asked for and is not there."""
    if config.store == "disk":
        limit, order = config.store_limit_mb, config.eviction
        return DiskStore(folder, layout, fingerprint, limit_mb=limit, eviction=order, cold=True, sync=True)
    from workbench.cake.lmcache import open_lmcache

    return open_lmcache(config.store.removeprefix("lmcache-"), layout, fingerprint, folder)


def damage(bench: Bench) -> None:
    """Flip bits in, cut or delete a share of the stored grains, drawn by the seed; says how many of each."""
    assert isinstance(bench.store, DiskStore)
    draw, done = random.Random(bench.config.seed), {"bits flipped": 0, "cut short": 0, "deleted": 0}
    for ids, usable in zip(bench.prompts, bench.usable, strict=True):
        prompt = bench.store.prompt(ids)
        there = [i for i, stored in enumerate(usable) if stored]
        for grain in sorted(draw.sample(there, round(len(there) * bench.config.damage_pct / 100))):
            path, how = bench.store.path(prompt.keys[grain]), draw.choice(list(done))
            done[how] += 1
            usable[grain] = False
            if how == "deleted":
                path.unlink(missing_ok=True)
                continue
            raw = bytearray(path.read_bytes())
            raw[-1 - draw.randrange(1000)] ^= 1 << draw.randrange(8)
            path.write_bytes(raw if how == "bits flipped" else raw[: len(raw) // 2])
    told = ", ".join(f"{n} grains {how}" for how, n in done.items())
    bench.say(Note(f"store damaged on purpose: {told}", "warning"))


def measure(config: CakeConfig, say: Say, stop: threading.Event) -> CakeResult:
    """The whole run: reference and calibration, raw disk, interleaved rounds, sweep, control, model."""
    with compute_threads(config.threads), tempfile.TemporaryDirectory(prefix="workbench-cake-") as folder:
        bench = Bench(config, say, stop, Path(folder))
        if in_memory(Path(folder)):
            say(Note(f"{folder} lies in memory: raw rows are not a disk's; set TMPDIR to a disk", "warning"))
        try:
            return _measure(bench)
        finally:
            bench.store.close()


def _measure(bench: Bench) -> CakeResult:
    config, tested = bench.config, bench.config.policy
    guess = Costs(0.01, 0.0008, 1e-7, 0.0008)
    bench.warm_up()
    bench.restore("compute", 0, 0.0, guess, 1)
    costs = replace(guess, **dict(zip(("step_s", "token_s", "pair_s"), fit_compute(passes_of(bench)), strict=True)))
    bench.tell("writing the KV store")
    for ids, restored in zip(bench.prompts, bench.kept[-1][2], strict=True):
        save_prompt(bench.store, ids, restored.cache, bench.stop)
    bench.usable = [
        bench.store.prompt(ids).stored[: bench.storable(i) // config.grain] for i, ids in enumerate(bench.prompts)
    ]
    if config.damage_pct:
        damage(bench)
    bench.tell("reading the raw disk", 1.0)
    raw = bench.restore("raw load", 0, 0.0, replace(costs, load_token_s=1e-6), 1)
    link, slow, raw_token_s = balanced(costs, config, bench.token_bytes, bench.loadable, raw.link_mb_s, bench.say)
    if not link:  # a throttled link hides what the disk itself takes for a read
        bucket = TokenBucket(None, slow.load_request_s)
        slow = replace(slow, load_request_s=probe_read_s(bench.store.prompt(bench.prompts[0]), bucket))
    run = config.run or choose_chunks(slow, config.prompt_tokens, config.grain, steps=(bench.step,))[1]
    bench.restore("raw cake", 0, 0.0, replace(costs, load_token_s=raw_token_s), run)
    modes: list[RowMode] = ["compute", "load", "cake"]
    modes = modes[: 3 if tested == "cake" else 2]
    for number in range(config.rounds):
        for mode in modes if number % 2 == 0 else modes[::-1]:  # there and back: a drift of the machine cancels
            if (mode, number) != ("compute", 0):
                bench.restore(mode, number, link if mode != "compute" else 0.0, slow, run)
    control = bench.control()
    for factor in SWEEP[: config.sweep_points if link else 0]:
        far = replace(slow, load_token_s=max(slow.load_token_s / factor, raw_token_s))
        for mode in modes[1:]:  # far from the balance one side alone is nearly as good, or better
            bench.restore(mode, 0, link * factor, far, run)
    bench.tell("modelling other bandwidths")
    result = summed(bench, slow, link, run, control)
    bench.say(Progress(bench.total, bench.total, "done"))
    return result
