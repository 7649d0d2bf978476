"""A CAKE run as the contract has it: pick where it runs, stream what happens, put the result together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from workbench import backends
from workbench.cake import model_time, paper
from workbench.cake.claims import paper_claims
from workbench.cake.config import CakeConfig, own_text
from workbench.cake.costs import Costs
from workbench.cake.policy import TAIL, Mode, Policy, Stopped
from workbench.cake.result import BADGES, CakeResult, Model, Row, to_stroke
from workbench.cake.sim import Outcome, Request, choose_chunks, simulate
from workbench.pump import pump
from workbench.system import Event, Note, Point, Progress, Result, Work

MB = 1e6
SIMULATED: tuple[Mode, ...] = ("compute", "load", "cake")
# SmolLM2-135M, bfloat16, one thread of an Intel Xeon (AVX-512, bf16): "embedded, balance 8k" of benchmarks/cake.csv
THIS_MACHINE = Costs(step_s=0.0945, token_s=0.000307, pair_s=3.0e-7, load_token_s=1.0)
THIS_TOKEN_BYTES = 23_040


def work(config: CakeConfig) -> Work:
    """Restore the prompt in every mode. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused():
        kind = "simulated" if where == "sim" else "measured"
        yield Note(f"a {kind} run does not use {', '.join(unused)}", "warning")
    if config.prompt_file is not None and where != "sim":
        own_text(config.prompt_file)  # a wrong one is named before a model is loaded
    if where == "sim":
        return (yield from pump(partial(_simulated, config)))
    if config.engine == "vllm":
        from workbench.cake.vllm_work import measured_vllm

        return (yield from measured_vllm(config))
    from workbench.cake.measure import measure

    return (yield from pump(partial(measure, config)))


def assemble(config: CakeConfig, where: str, began: float, facts: dict[str, Any]) -> CakeResult:
    """The result with its provenance; `began` is time.monotonic() at the start."""
    told = backends.provenance(where, {}, seconds=round(time.monotonic() - began, 3))
    return CakeResult(config=config, provenance=told, **facts).badged(where != "sim", BADGES)


def simulated_costs(config: CakeConfig) -> tuple[Costs, int, float, str]:
    """(costs, bytes per token, MB/s, where they come from) of a simulated run, at the config's link."""
    if config.sim_device == "one CPU core":
        costs, token_bytes = THIS_MACHINE, THIS_TOKEN_BYTES
        source = "SmolLM2-135M in bfloat16 on one thread of an Intel Xeon, fitted to a measured run"
        if config.weights == "float32":
            token_bytes *= 2
            source += "; float32 has twice the bytes, its computing was not measured and counts as bfloat16's"
    else:
        key = (config.sim_device, float(config.sim_share))
        model = config.sim_model
        costs, token_bytes = paper.calibrated(*key, model), paper.KV_BYTES[model]
        source = f"{model} on {config.sim_device} at {config.sim_share} %, calibrated on the paper's table 3"
        if model != paper.CALIBRATED:
            source += f" ({paper.CALIBRATED}) and scaled by size"
    link = config.link_mb_s
    if not link:  # the balance point
        whole = (config.prompt_tokens - 1) // config.grain * config.grain
        link = whole * token_bytes / MB / costs.compute_range_s(0, whole, config.pass_tokens)
    slow = replace(costs, load_token_s=token_bytes / (link * MB), load_request_s=config.link_latency_ms / 1e3)
    return slow, token_bytes, link, source


def _simulated(config: CakeConfig, say: Callable[[Event], None], stop: threading.Event) -> Result:
    """The same policy on a virtual clock, then the paper's numbers again. Stopped between two simulations."""

    def tick() -> None:
        if stop.is_set():
            raise Stopped("the simulation was cancelled")

    began = time.monotonic()
    say(Progress(0, 3, "simulating"))
    costs, token_bytes, link, source = simulated_costs(config)
    if config.link_mb_s is None:
        say(Note(f"link set to {link:,.0f} MB/s, the balance point of the cost model"))
    step = config.pass_tokens
    run = config.run or choose_chunks(costs, config.prompt_tokens, config.grain, steps=(step,))[1]
    done: dict[Mode, Outcome] = {}
    for mode in SIMULATED:
        policy = Policy(costs, step, run, mode, config.batch, config.hedge)
        done[mode] = simulate(policy, [Request(n) for n in config.lengths], config.grain, trace=True)
        tick()
    strokes = [to_stroke(span) for span in done[config.policy].spans]
    for span, stroke in zip(done[config.policy].spans, strokes, strict=True):
        say(span)
        if span.why.get("reason") != TAIL:
            at = stroke.last_token if stroke.lane == "compute" else stroke.first_token
            say(Point(f"{span.lane}: position (tokens)", span.end_s, float(at)))
    say(Progress(1, 3, "bandwidth curve"))
    curve = model_time.curve(costs, token_bytes, config, step, run, link, tick)
    say(Progress(2, 3, "the paper's numbers"))
    table = list(paper_claims())
    tick()
    token, best_s, bound_s = model_time.limits(costs, config, step, run)
    facts = {
        "rows": [_modelled(config, mode, done[mode], link) for mode in SIMULATED],
        "strokes": strokes,
        "model": Model.of(costs, step, run, token_bytes, source),
        "curve": curve,
        "link_mb_s": round(link, 3),
        "prompt_tokens": config.prompt_tokens,
        "oracle_s": best_s,
        "oracle_token": token,
        "bound_s": bound_s,
        "table": table,
    }
    result = assemble(config, "sim", began, facts)
    say(Progress(3, 3, "done"))
    return result


def _modelled(config: CakeConfig, mode: Mode, done: Outcome, link: float) -> Row:
    whole = [(n - 1) // config.grain * config.grain for n in config.lengths]
    return Row(
        mode=mode,
        round=0,
        link_mb_s=0.0 if mode == "compute" else round(link, 3),
        ttft_s=sum(done.ttft_s) / len(done.ttft_s),
        makespan_s=done.makespan_s,
        meeting_token=done.met_at[0],
        loaded_tokens=sum(n - met for n, met in zip(whole, done.met_at, strict=True)),
        badge="modelled",
    )
