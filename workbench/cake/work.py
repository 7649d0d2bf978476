"""A CAKE run as the contract has it: pick where it runs, stream what happens, put the result together."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any

from workbench import backends
from workbench.cake import model_time, paper
from workbench.cake.bounds import Restore, batch_bound
from workbench.cake.claims import paper_claims
from workbench.cake.config import CakeConfig
from workbench.cake.costs import Costs
from workbench.cake.policy import TAIL, Mode, Policy
from workbench.cake.result import CakeResult, Model, Row, Stroke, summary_badges
from workbench.cake.sim import Request, choose_chunks, simulate
from workbench.pump import pump
from workbench.system import Event, Note, Point, Progress, Result, Work

MB = 1e6
# SmolLM2-135M, bfloat16, one thread of an Intel Xeon (AVX-512, bf16): "embedded, balance 8k" of benchmarks/cake.csv
THIS_MACHINE = Costs(step_s=0.0945, token_s=0.000307, pair_s=3.0e-7, load_token_s=1.0)
THIS_TOKEN_BYTES = 23_040


def work(config: CakeConfig) -> Work:
    """Restore the prompt in every mode. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if where == "sim":
        return (yield from _simulated(config))
    if config.engine == "vllm":
        from workbench.cake.vllm_work import measured_vllm

        return (yield from measured_vllm(config))
    from workbench.cake.measure import measure

    return (yield from pump(partial(measure, config)))


def assemble(config: CakeConfig, where: str, began: float, facts: dict[str, Any]) -> CakeResult:
    """The result with its provenance; `began` is time.monotonic() at the start."""
    measured = where != "sim"
    draft = CakeResult(config=config, provenance=backends.provenance(where, {}), **facts)
    badges = summary_badges(list(draft.summary()), measured)
    seconds = round(time.monotonic() - began, 3)
    return draft.model_copy(update={"provenance": backends.provenance(where, badges, seconds=seconds)})


def simulated_costs(config: CakeConfig) -> tuple[Costs, int, float, str]:
    """(costs, bytes per token, MB/s, where they come from) of a simulated run, at the config's link."""
    if config.sim_hardware == "one CPU core":
        costs, token_bytes = THIS_MACHINE, THIS_TOKEN_BYTES
        source = "SmolLM2-135M in bfloat16 on one thread of an Intel Xeon, fitted to a measured run"
        if config.dtype == "float32":
            token_bytes *= 2
            source += "; float32 has twice the bytes, its computing was not measured and counts as bfloat16's"
    else:
        key = (config.sim_hardware, float(config.sim_share))
        if key not in paper.TABLE_3:
            have = ", ".join(f"{h} {s:g} %" for h, s in paper.TABLE_3)
            raise ValueError(
                f"sim_share: the paper has no {config.sim_hardware} at {config.sim_share} %; it has {have}"
            )
        model = config.sim_model
        costs, token_bytes = paper.calibrated(*key, model), paper.KV_BYTES[model]
        source = f"{model} on {config.sim_hardware} at {config.sim_share} %, calibrated on the paper's table 3"
        if model != paper.CALIBRATED:
            source += f" ({paper.CALIBRATED}) and scaled by size"
    link = config.link_mb_s
    if not link:  # the balance point; a raw disk has no meaning on a virtual clock
        whole = (config.prompt_tokens - 1) // config.grain * config.grain
        link = whole * token_bytes / MB / costs.compute_range_s(0, whole, config.pass_tokens)
    slow = replace(costs, load_token_s=token_bytes / (link * MB), load_request_s=config.link_latency_ms / 1e3)
    return slow, token_bytes, link, source


def _simulated(config: CakeConfig) -> Generator[Event, None, Result]:
    """The same policy on a virtual clock, then the paper's table again."""
    began = time.monotonic()
    yield Progress(0, 3, "simulating")
    costs, token_bytes, link, source = simulated_costs(config)
    if config.link_mb_s is None or config.link_mb_s == 0:
        yield Note(f"link set to {link:,.0f} MB/s, the balance point of the cost model")
    step = config.pass_tokens
    run = config.run or choose_chunks(costs, config.prompt_tokens, config.grain, steps=(step,))[1]
    lengths = config.lengths
    rows, strokes = [], list[Stroke]()

    def whole(tokens: int) -> int:
        return (tokens - 1) // config.grain * config.grain

    modes: tuple[Mode, ...] = ("compute", "load", "cake")
    for mode in modes:
        policy = Policy(costs, step, run, mode, config.batch, config.hedge)
        done = simulate(policy, [Request(n) for n in lengths], config.grain, trace=True)
        row = Row(
            mode=mode,
            round=0,
            link_mb_s=0.0 if mode == "compute" else round(link, 3),
            ttft_s=sum(done.ttft_s) / len(done.ttft_s),
            makespan_s=done.makespan_s,
            meeting_token=done.met_at[0],
            loaded_tokens=sum(
                (n - 1) // config.grain * config.grain - m for n, m in zip(lengths, done.met_at, strict=True)
            ),
            badge="modelled",
        )
        rows.append(row)
        if mode == config.policy:
            from workbench.cake.measure import to_stroke

            strokes = [to_stroke(span) for span in done.spans]
            for span, stroke in zip(done.spans, strokes, strict=True):
                yield span
                if span.why.get("reason") == TAIL:
                    continue
                at = stroke.last_token if stroke.lane == "compute" else stroke.first_token
                yield Point(f"{span.lane}: position (tokens)", span.end_s, float(at))
    yield Progress(1, 3, "bandwidth curve")
    curve = model_time.curve(costs, token_bytes, config, step, run, link)
    yield Progress(2, 3, "the paper's table")
    table = list(paper_claims())
    if len(lengths) == 1:
        best = model_time.oracle_split(costs, lengths[0], config.grain, step, run)
        best_s, bound = best.ttft_s, model_time.lower_bound_s(costs, lengths[0], config.grain, step)
    else:  # of the mean TTFT; the best schedule of several is not known, the best order is
        best, best_s = None, model_time.best_order_s(costs, config, step, run)
        bound = batch_bound(costs, [Restore(n) for n in lengths], config.grain, step, run).mean_ttft_s
    result = assemble(
        config,
        "sim",
        began,
        {
            "rows": rows,
            "strokes": strokes,
            "model": Model.of(costs, step, run, token_bytes, source),
            "curve": curve,
            "link_mb_s": round(link, 3),
            "prompt_tokens": config.prompt_tokens,
            "oracle_s": best_s,
            "oracle_token": best.token if best else None,
            "bound_s": bound,
            "table": table,
        },
    )
    yield Progress(3, 3, "done")
    return result
