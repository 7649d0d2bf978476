"""The measuring process of a vLLM run: one engine, every mode on the same prompt, interleaved, against compute-only.

python -m workbench.cake.vllm_bench FD < config.json      one JSON object a line on FD: see vllm_work.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from workbench import lm
from workbench.cake.config import LONGEST, CakeConfig
from workbench.cake.lmcache_mp import MpEngine
from workbench.cake.measure import ANSWER_TOKENS, SWEEP, prompts
from workbench.cake.model_time import balanced
from workbench.cake.result import Row, RowMode, restore_name
from workbench.cake.sim import choose_chunks
from workbench.cake.store import in_memory
from workbench.cake.vllm_facts import Run, apart, facts, fitted
from workbench.lm.tiny_folder import write_tiny
from workbench.system import Event, Note, Point, Progress, Span

TOP = 20  # log-probabilities of the first token that are compared
NOISY_GRAINS = 4  # of the control
UNMEASURED = "unmeasured"
KEPT_TOKENS = 64  # of the context, for the answer


class Bench:
    """One engine, one prompt, a store; restores the prompt in any mode."""

    def __init__(self, config: CakeConfig, pipe: TextIO, folder: Path) -> None:
        self.config, self.pipe, self.folder = config, pipe, folder
        self.began, self.done = time.monotonic(), 0.0
        modes = 2.1 + (config.policy == "cake") + 0.1 * config.lmcache_mp
        self.total = 6.0 + config.lmcache_mp + config.rounds * modes + 2 * config.sweep_points
        self.step = config.pass_tokens
        self.run_grains = config.run or 1
        self.runs: list[Run] = []
        self.tell("loading the prompt")
        model = lm.load(config.model, dtype=config.weights, progress=lambda _done, _total, note: self.tell(note))
        self.ids, self.tokenizer = prompts(config, model)[0], model.tokenizer
        del model
        self.loadable = (len(self.ids) - 1) // config.grain * config.grain
        self.mp: MpEngine | None = None
        tiny = config.model == "tiny"
        self.model = write_tiny(folder / "model", 0) if tiny else lm.path("smollm2")
        self.tell("starting vLLM's engine")
        starting = self._start_mp()  # beside ours: both spend their start on imports
        self.llm = self._engine()
        self._await_mp(starting)
        self.engine = self.llm.llm_engine
        self.connector = self.engine.engine_core.engine_core.scheduler.connector
        layout = self.connector.layout
        self.token_bytes = layout.nbytes // layout.tokens
        self._count = 0

    def _engine(self) -> Any:
        from vllm import LLM

        from workbench.cake.vllm import cake_engine_args

        config = self.config
        block = next(b for b in (128, 64, 32, 16) if config.grain % b == 0)
        settings: dict[str, Any] = {"store": config.store, "shared": str(self.folder), "hedge": config.hedge}
        settings |= {"sync": config.store == "disk"}  # bytes that are still to be written cannot be read cold
        if config.store == "lmcache-server":
            from workbench.cake.lmcache import start_server

            settings["server"] = start_server(self.folder).address
        return LLM(
            str(self.model),
            dtype=config.weights,
            seed=config.seed,
            skip_tokenizer_init=True,
            enforce_eager=True,  # compiling takes minutes and wins nothing on this backend
            max_model_len=self.longest,
            max_num_batched_tokens=self.step,
            max_num_seqs=4,
            block_size=block,
            disable_log_stats=True,
            **cake_engine_args(str(self.folder / "kv"), grain=config.grain, **settings),
        )

    @property
    def longest(self) -> int:
        """Positions of an engine: prompt and answer."""
        return min(LONGEST[self.config.model], len(self.ids) + KEPT_TOKENS)

    def _start_mp(self) -> Future[MpEngine] | None:
        """Begin to start the engine with LMCache's own connector."""
        if not self.config.lmcache_mp:
            return None
        make = partial(
            MpEngine, self.model, self.longest, self.folder / "mp", dtype=self.config.weights, step=self.step
        )
        return ThreadPoolExecutor(1).submit(make, top=TOP)

    def _await_mp(self, starting: Future[MpEngine] | None) -> None:
        """Have it ready, or say why there will be no such row."""
        if starting is None:
            return
        self.tell("LMCacheMPConnector: starting its server and an engine")
        try:
            self.mp = starting.result()
        except (OSError, RuntimeError) as error:
            self.say(Note(f"no row of LMCacheMPConnector: {error}", "warning"))

    # -- what is said --------------------------------------------------------------------------------------------

    def say(self, event: Event) -> None:
        """One event of the contract to the parent. BrokenPipeError when it is gone."""
        self.line({"is": type(event).__name__, **asdict(event)})

    def line(self, fields: dict[str, Any]) -> None:
        self.pipe.write(json.dumps(fields) + "\n")
        self.pipe.flush()

    def tell(self, note: str) -> None:
        self.say(Progress(min(self.done, self.total), self.total, note))

    # -- one restore ---------------------------------------------------------------------------------------------

    def restore(self, mode: RowMode, number: int, link_mb_s: float = 0.0, keep: bool = False) -> Run:
        """Restore the prompt once and keep the run; `keep` leaves vLLM's prefix cache as it is."""
        if not keep and not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM's prefix cache could not be reset: a request before this one is still alive")
        plain = "compute" if mode in ("compute", "warm") else "load" if mode.endswith("load") else "cake"
        name = restore_name(mode, number, link_mb_s)
        self.tell(name)
        for lane, at in (("compute", 0), ("load", len(self.ids))):
            self.say(Point(f"{lane}: position (tokens)", round(time.monotonic() - self.began, 4), float(at)))
        output, began, first = self._serve(self.ids, self._asked(plain, mode, link_mb_s), name)
        run = self._row(output, mode, number, link_mb_s, began, first)
        self.runs.append(run)
        self.done += 0.1 if mode == "warm" else 1.0
        return run

    def _asked(self, plain: str, mode: str, link_mb_s: float) -> Any:
        from vllm import SamplingParams

        from workbench.cake.vllm import cake_params

        raw = mode.startswith("raw")
        latency_ms = 0.0 if raw else self.config.link_latency_ms
        more = cake_params(
            plain, link_mb_s=link_mb_s, latency_ms=latency_ms, run=self.run_grains, cold=True, trace=True, cut=True
        )
        return SamplingParams(
            temperature=0, max_tokens=ANSWER_TOKENS, logprobs=TOP, ignore_eos=True, detokenize=False, extra_args=more
        )

    def warm_up(self) -> None:
        """One pass over another prompt: the first matrix products of a process cost more than others."""
        self.tell("warming up")
        self._serve(self.ids[::-1][: self.step], self._asked("compute", "compute", 0.0), UNMEASURED)

    def _serve(self, ids: list[int], asked: Any, name: str) -> tuple[Any, float, float]:
        """(output, time of the request, seconds to the first token)."""
        self._count += 1
        request, shown, first, output = f"bench-{self._count}", 0, 0.0, None
        before, began = self.done, time.monotonic()
        self.engine.add_request(request, {"prompt_token_ids": ids}, asked)
        while self.engine.has_unfinished_requests():
            if outputs := self.engine.step():
                output, first = outputs[0], first or time.monotonic() - began
            live = next((v for k, v in self.connector.book.lives.items() if k.startswith(request)), None)
            if live is not None and name != UNMEASURED:
                shown = self._show(live.spans, shown, name)
                self.done = before + 0.99 * min(1.0, sum(_tokens(s) for s in live.spans) / len(self.ids))
        self.done = before
        if output is None or not first:
            raise RuntimeError(f"vLLM gave no token for {name}")
        return output, began, first

    def _show(self, spans: list[dict[str, Any]], shown: int, name: str) -> int:
        """Say the spans that are new; returns how many have been said."""
        for s in spans[shown:]:
            start, end = s["start_s"] - self.began, s["end_s"] - self.began
            label = f"{name} [{s['first_token']}:{s['last_token']}]"  # as the embedded engine's
            self.say(Span(s["lane"], round(start, 5), round(end, 5), label, s["lane"], s["why"]))
            if s["first_token"] < self.loadable:
                y = s["last_token"] if s["lane"] == "compute" else s["first_token"]
                self.say(Point(f"{s['lane']}: position (tokens)", round(end, 4), float(y)))
            self.tell(name)
        return len(spans)

    def _row(self, output: Any, mode: RowMode, number: int, link_mb_s: float, began: float, first: float) -> Run:
        done, cake = output.outputs[0], output.kv_transfer_params["cake"]
        spans = [
            s | {"start_s": s["start_s"] - began, "end_s": s["end_s"] - began}
            for s in cake["spans"]
            if s["start_s"] - began < first
        ]
        top = {k: float(v.logprob) for k, v in done.logprobs[0].items()}
        reference = self.runs[0] if self.runs else None
        tokens = list(done.token_ids)
        reads = [s["end_s"] - s["start_s"] for s in spans if s["lane"] == "load"]
        if mode.startswith("raw") and reads:
            link_mb_s = cake["loaded_bytes"] / 1e6 / sum(reads)
        row = Row(
            mode=mode,
            round=number,
            link_mb_s=round(link_mb_s, 3),
            throttled=mode in ("load", "cake") and link_mb_s > 0,
            ttft_s=first,
            makespan_s=first,
            meeting_token=cake["meeting_token"],
            loaded_tokens=cake["loaded_tokens"],
            failed_grains=cake["grains_failed"],
            hedged_grains=cake["grains_hedged"],
            logits_max_abs_diff=0.0 if reference is None else apart(top, reference.top),
            same_tokens=reference is None or tokens == reference.tokens,
        )
        return Run(row, spans, tokens, top)

    def fill(self) -> None:
        """Compute the prompt once, unmeasured, as its grains are saved beside; wait until the store has them all."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        self.tell("computing the prompt for the KV store")
        self._serve(self.ids, self._asked("compute", "compute", 0.0), UNMEASURED)
        self.tell("writing the KV store")
        if not get_kv_transfer_group().saver.flush(120.0):
            raise TimeoutError("the KV store took more than 120 s to write the prompt")
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM's prefix cache could not be reset after the first pass")
        self.done += 1.0

    def control(self) -> float:
        """Change of the first token's log-probabilities when some grains' KV is noise under a valid checksum."""
        import torch

        self.tell("control: corrupted KV")
        prompt = self.connector.book.store.prompt(self.ids)
        last = self.loadable // self.config.grain
        kept = {i: prompt.read(i) for i in range(max(0, last - NOISY_GRAINS), last)}
        draw = torch.Generator().manual_seed(self.config.seed)
        for i, kv in kept.items():
            prompt.write(i, (torch.randn(kv.shape, generator=draw) * kv.float().std()).to(kv.dtype))
        run = self.restore("raw load", 0)
        self.runs.remove(run)
        for i, kv in kept.items():
            prompt.write(i, kv)
        return float(run.row.logits_max_abs_diff or 0.0)

    def lmcache_mp(self, number: int) -> None:
        """One more load-only row by LMCache's own connector: from its memory, without a throttle."""
        if self.mp is None:
            return
        self.tell(f"LMCacheMPConnector, round {number + 1}")
        try:
            if number == 0:
                self.mp.store(self.ids)
                self.done += 1.0
            found = self.mp.ask(self.ids, ANSWER_TOKENS)
        except (OSError, RuntimeError) as error:
            self.say(Note(f"no row of LMCacheMPConnector: {error}", "warning"))
            self.mp.close()  # awake, it would share the cores with every row that follows
            self.mp = None
            return
        row = Row(
            mode="lmcache-mp load",
            round=number,
            link_mb_s=0.0,
            ttft_s=found.ttft_s,
            makespan_s=found.ttft_s,
            meeting_token=0,
            loaded_tokens=found.loaded_tokens,
            logits_max_abs_diff=apart(found.top, self.runs[0].top),
            same_tokens=found.tokens == self.runs[0].tokens,
        )
        self.runs.append(Run(row, [], found.tokens, found.top))
        self.done += 0.1


def _tokens(span: dict[str, Any]) -> int:
    return int(span["last_token"] - span["first_token"])


def measure(bench: Bench) -> dict[str, Any]:
    """Reference, raw disk, interleaved rounds with the warm bound, sweep, control. Fields of CakeResult."""
    config, tested = bench.config, bench.config.policy
    bench.warm_up()
    if in_memory(bench.folder):
        bench.say(Note(f"{bench.folder} lies in memory: raw rows are not a disk's; set TMPDIR to a disk", "warning"))
    bench.fill()
    bench.restore("compute", 0)
    costs = fitted(bench)
    bench.connector.book.learner.costs, bench.connector.book.learner.fixed = costs, True
    raw = bench.restore("raw load", 0).row
    link, slow, _ = balanced(costs, config, bench.token_bytes, bench.loadable, raw.link_mb_s, bench.say)
    bench.run_grains = config.run or choose_chunks(slow, len(bench.ids), config.grain, steps=(bench.step,))[1]
    bench.restore("raw cake", 0)
    modes: list[RowMode] = ["compute", "load", "cake"]
    for number in range(config.rounds):
        there = modes[: 3 if tested == "cake" else 2]
        for mode in there if number % 2 == 0 else there[::-1]:  # there and back: a drift of the machine cancels
            if (mode, number) != ("compute", 0):
                bench.restore(mode, number, link if mode != "compute" else 0.0)
        bench.restore("warm", number, keep=True)
        bench.lmcache_mp(number)
    control = bench.control()
    for factor in SWEEP[: config.sweep_points if link else 0]:
        for mode in ("load", "cake"):  # far from the balance one side alone is nearly as good, or better
            bench.restore(mode, 0, link * factor)
    bench.tell("modelling other bandwidths")
    return facts(bench, slow, link, control)


def main() -> None:
    """Read a config, measure, write facts or the error that ended it."""
    config = CakeConfig.model_validate_json(sys.stdin.read())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe, tempfile.TemporaryDirectory() as folder:
        bench = None
        try:
            bench = Bench(config, pipe, Path(folder))
            found = measure(bench)
            bench.done = bench.total
            bench.tell("done")
            bench.line({"is": "facts", **found})
        except Exception as error:
            pipe.write(json.dumps({"is": "error", "text": f"{type(error).__name__}: {error}"}) + "\n")
            raise
        finally:
            if bench is not None and bench.mp is not None:
                bench.mp.close()
    os._exit(0)  # the engine's threads and its model are not worth the seconds that a tidy end takes


if __name__ == "__main__":
    main()
