"""The measuring process of a vLLM run: one engine, every mode on the same prompt, interleaved, against compute-only.

python -m workbench.cake.vllm_bench FD < config.json      one JSON object a line on FD: see vllm_work.py
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TextIO

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # the sampler would be compiled at its first use, which takes 30 s

import numpy as np

from workbench import lm
from workbench.cake import model_time
from workbench.cake.config import CakeConfig
from workbench.cake.costs import Costs, Split, fit_compute
from workbench.cake.measure import ANSWER_TOKENS, SWEEP, TOLERANCE, prompts
from workbench.cake.result import Model, Row, RowMode, Stroke
from workbench.cake.sim import choose_chunks
from workbench.cake.store import in_memory
from workbench.system import Event, Note, Point, Progress, Span

TOP = 20  # log-probabilities of the first token that are compared
NOISY_GRAINS = 4  # of the control
KEPT_TOKENS = 64  # of the context, for the answer


@dataclass
class Run:
    """One restore as it was measured."""

    row: Row
    spans: list[dict[str, Any]]  # start_s and end_s since the request
    tokens: list[int]
    top: dict[int, float]

    def passes(self) -> list[tuple[int, int, float]]:
        """(start, tokens, seconds) of every pass."""
        lane = [s for s in self.spans if s["lane"] == "compute"]
        return [(s["first_token"], s["last_token"] - s["first_token"], s["end_s"] - s["start_s"]) for s in lane]

    def reads(self) -> list[tuple[int, float]]:
        """(tokens, seconds) of every read."""
        lane = [s for s in self.spans if s["lane"] == "load"]
        return [(s["last_token"] - s["first_token"], s["end_s"] - s["start_s"]) for s in lane]


class Bench:
    """One engine, one prompt, a store; restores the prompt in any mode."""

    def __init__(self, config: CakeConfig, pipe: TextIO, folder: Path) -> None:
        self.config, self.pipe, self.folder = config, pipe, folder
        self.began, self.done = time.monotonic(), 0.0
        modes = 2 + (config.policy == "cake")
        self.total = 5.0 + config.rounds * (modes + 0.1) + config.sweep_points
        self.step = config.pass_tokens
        self.run_grains = config.run or 1
        self.runs: list[Run] = []
        self.tell("loading the prompt")
        model = lm.load(config.model, dtype=config.dtype)
        self.ids, self.tokenizer = prompts(config, model)[0], model.tokenizer
        del model
        self.loadable = (len(self.ids) - 1) // config.grain * config.grain
        self.tell("starting vLLM's engine")
        self.llm = self._engine()
        self.engine = self.llm.llm_engine
        self.connector = self.engine.engine_core.engine_core.scheduler.connector
        layout = self.connector.layout
        self.token_bytes = layout.nbytes // layout.tokens
        self._count = 0

    def _engine(self) -> Any:
        from vllm import LLM

        from workbench.cake.vllm import cake_engine_args
        from workbench.cake.vllm_tiny import write_tiny

        config = self.config
        tiny = config.model == "tiny"
        model = write_tiny(self.folder / "model", 0) if tiny else lm.path("smollm2")
        block = next(b for b in (128, 64, 32, 16) if config.grain % b == 0)
        settings: dict[str, Any] = {"store": config.store, "shared": str(self.folder), "hedge": config.hedge}
        if config.store == "lmcache-server":
            from workbench.cake.lmcache import start_server

            settings["server"] = start_server(self.folder).address
        longest = 8192 if not tiny else 4096
        return LLM(
            str(model),
            dtype=config.dtype,
            seed=config.seed,
            skip_tokenizer_init=True,
            enforce_eager=True,  # compiling takes minutes and wins nothing on this backend
            max_model_len=min(longest, len(self.ids) + KEPT_TOKENS),
            max_num_batched_tokens=self.step,
            max_num_seqs=4,
            block_size=block,
            disable_log_stats=True,
            **cake_engine_args(str(self.folder / "kv"), grain=config.grain, **settings),
        )

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
        name = f"{mode}, round {number + 1}"
        self.tell(name)
        for lane, at in (("compute", 0), ("load", len(self.ids))):
            self.say(Point(f"{lane}: position (tokens)", round(time.monotonic() - self.began, 4), float("nan")))
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
        self._serve(self.ids[::-1][: self.step], self._asked("compute", "compute", 0.0), "warming up")

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
            if live is not None and name != "warming up":
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

    def flush(self) -> None:
        """Wait until everything computed is in the store."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        self.tell("writing the KV store")
        if not get_kv_transfer_group().saver.flush(120.0):
            raise TimeoutError("the KV store took more than 120 s to write the prompt")

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

    def lmcache_mp(self) -> None:
        """LMCache's own connector as one more load-only row: its memory, no throttle, an engine of its own."""
        from workbench.cake.lmcache_mp import measure_lmcache_mp

        self.tell("LMCacheMPConnector: starting its server and an engine")
        tiny = self.config.model == "tiny"
        model = self.folder / "model" if tiny else lm.path("smollm2")
        try:
            found = measure_lmcache_mp(
                model,
                self.ids,
                self.folder / "mp",
                dtype=self.config.dtype,
                step=self.step,
                answer_tokens=ANSWER_TOKENS,
            )
        except (OSError, RuntimeError) as error:
            self.say(Note(f"no row of LMCacheMPConnector: {error}", "warning"))
            return
        row = Row(
            mode="lmcache-mp load",
            round=0,
            link_mb_s=0.0,
            ttft_s=found.load_s,
            makespan_s=found.load_s,
            meeting_token=0,
            loaded_tokens=found.loaded_tokens,
            logits_max_abs_diff=apart(found.top, self.runs[0].top),
            same_tokens=found.loaded_answer == self.runs[0].tokens,
        )
        self.runs.append(Run(row, [], found.loaded_answer, found.top))


def apart(one: dict[int, float], two: dict[int, float]) -> float:
    """Largest difference of the log-probabilities; a token that only one side has counts against the other's least.

    That is a lower bound of its true difference, so nothing is called equal that is not.
    """
    least_one, least_two = min(one.values()), min(two.values())
    both = [abs(one[t] - two[t]) for t in one.keys() & two.keys()]
    only = [max(0.0, one[t] - least_two) for t in one.keys() - two.keys()]
    only += [max(0.0, two[t] - least_one) for t in two.keys() - one.keys()]
    return max(both + only)


def _tokens(span: dict[str, Any]) -> int:
    return int(span["last_token"] - span["first_token"])


def measure(bench: Bench) -> dict[str, Any]:
    """Reference, raw disk, interleaved rounds with the warm bound, sweep, control. Fields of CakeResult."""
    config, tested = bench.config, bench.config.policy
    bench.warm_up()
    if in_memory(bench.folder):
        bench.say(Note(f"{bench.folder} lies in memory: raw rows are not a disk's; set TMPDIR to a disk", "warning"))
    bench.restore("compute", 0)
    bench.flush()
    costs = _fitted(bench)
    bench.connector.book.learner.costs, bench.connector.book.learner.fixed = costs, True
    raw = bench.restore("raw load", 0).row
    raw_token_s = bench.token_bytes / (max(raw.link_mb_s, 1e-6) * 1e6)
    link = config.link_mb_s
    if link is None:
        whole_s = costs.compute_range_s(0, bench.loadable, bench.step)
        link = float(f"{bench.loadable * bench.token_bytes / 1e6 / whole_s:.3g}")
        bench.say(Note(f"link set to {link:g} MB/s, where loading everything takes as long as computing everything"))
    load_token_s = max(bench.token_bytes / (link * 1e6) if link else 0.0, raw_token_s)
    slow = replace(costs, load_token_s=load_token_s, load_request_s=config.link_latency_ms / 1e3)
    bench.run_grains = config.run or choose_chunks(slow, len(bench.ids), config.grain, steps=(bench.step,))[1]
    bench.restore("raw cake", 0)
    modes: list[RowMode] = ["compute", "load", "cake"]
    for number in range(config.rounds):
        there = modes[: 3 if tested == "cake" else 2]
        for mode in there if number % 2 == 0 else there[::-1]:  # there and back: a drift of the machine cancels
            if (mode, number) != ("compute", 0):
                bench.restore(mode, number, link if mode != "compute" else 0.0)
        bench.restore("warm", number, keep=True)
    control = bench.control()
    if config.store != "disk":
        bench.lmcache_mp()
    for factor in SWEEP[: config.sweep_points]:
        if link:
            bench.restore("cake", 0, link * factor)
    bench.tell("modelling other bandwidths")
    return facts(bench, slow, link, control)


def _fitted(bench: Bench) -> Costs:
    step_s, token_s, pair_s = fit_compute([p for r in bench.runs if r.row.mode == "compute" for p in r.passes()])
    return Costs(step_s, token_s, pair_s, 1.0)


def best_split(bench: Bench, costs: Costs, link: float) -> Split:
    """Oracle split of the measured passes and reads of the two single modes."""
    passes = [r.passes() for r in bench.runs if r.row.mode == "compute"]
    reads = [read for r in bench.runs if r.row.mode == "load" and _at(r.row, link) for read in r.reads()]
    grain = bench.config.grain
    reads = reads or [(grain, costs.load_s(grain, bench.run_grains * grain))]
    return model_time.measured_oracle(costs, passes, reads, len(bench.ids), grain)


def facts(bench: Bench, costs: Costs, link: float, control: float) -> dict[str, Any]:
    """What the parent makes a CakeResult of."""
    config, grain, step = bench.config, bench.config.grain, bench.step
    fitted = _fitted(bench)
    beside = [
        s / fitted.compute_s(start, n)
        for r in bench.runs
        if r.row.mode == "cake"
        for start, n, s in r.passes()
        if start + n <= r.row.meeting_token
    ]
    costs = replace(costs, step_s=fitted.step_s, token_s=fitted.token_s, pair_s=fitted.pair_s)
    costs = replace(costs, contention=max(1.0, float(median(beside))) if beside else 1.0)
    best = best_split(bench, costs, link)
    tested = sorted((r for r in bench.runs if r.row.mode == config.policy and _at(r.row, link)), key=_ttft)
    shown = tested[(len(tested) - 1) // 2]
    single = [median(_ttft(r) for r in bench.runs if r.row.mode == m and _at(r.row, link)) for m in ("compute", "load")]
    table = model_time.nearest_claims(single[0], single[1], _ttft(shown)) if config.policy == "cake" else []
    reference = bench.runs[0]
    source = f"fitted to the compute-only passes of this run (vLLM, {config.model}, {config.dtype})"
    return {
        "rows": [r.row.model_dump(mode="json") for r in bench.runs],
        "strokes": [_stroke(s).model_dump(mode="json") for s in shown.spans],
        "model": Model.of(costs, step, bench.run_grains, bench.token_bytes, source).model_dump(mode="json"),
        "curve": model_time.curve(costs, bench.token_bytes, config, step, bench.run_grains, link).model_dump(),
        "link_mb_s": round(link, 3),
        "prompt_tokens": len(bench.ids),
        "oracle_s": best.ttft_s,
        "oracle_token": best.token,
        "bound_s": model_time.lower_bound_s(costs, len(bench.ids), grain, step),
        "tolerance": TOLERANCE[config.dtype] * max(abs(v) for v in reference.top.values()),
        "control_max_abs_diff": control,
        "tokens": reference.tokens,
        "text": bench.tokenizer.decode(reference.tokens),
        "table": [c.model_dump(mode="json") for c in table],
        "prompt_hash": hashlib.sha256(np.asarray(bench.ids, dtype="<i8").tobytes()).hexdigest()[:16],
    }


def _at(row: Row, link: float) -> bool:
    return row.mode == "compute" or row.link_mb_s == round(link, 3)


def _ttft(run: Run) -> float:
    return run.row.ttft_s


def _stroke(span: dict[str, Any]) -> Stroke:
    times = {k: round(span[k], 5) for k in ("start_s", "end_s")}
    return Stroke(**times, **{k: span[k] for k in ("lane", "first_token", "last_token", "why")})


def main() -> None:
    """Read a config, measure, write facts or the error that ended it."""
    config = CakeConfig.model_validate_json(sys.stdin.read())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe, tempfile.TemporaryDirectory() as folder:
        try:
            bench = Bench(config, pipe, Path(folder))
            found = measure(bench)
            bench.done = bench.total
            bench.tell("done")
            bench.line({"is": "facts", **found})
        except Exception as error:
            pipe.write(json.dumps({"is": "error", "text": f"{type(error).__name__}: {error}"}) + "\n")
            raise
    os._exit(0)  # the engine's threads and its model are not worth the seconds that a tidy end takes


if __name__ == "__main__":
    main()
