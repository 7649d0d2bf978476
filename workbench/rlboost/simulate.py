"""The simulated run: the trace's machines under RLBoost, and beside it its rivals or RLBoost without each part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from workbench.held import Held
from workbench.pump import Clock, Stopped
from workbench.rlboost.config import PARTS, RLBoostConfig
from workbench.rlboost.prices import rates
from workbench.rlboost.rates import Lengths
from workbench.rlboost.result import Paid, RLBoostResult, Row
from workbench.rlboost.setting import Setting, StepRow, System, constant
from workbench.rlboost.sim import simulate
from workbench.rlboost.traces import G4DN, P3, Trace, made, read
from workbench.system import Claim, Event, Note, Point, Progress, Span

Say = Callable[[Event], None]
RIVALS: tuple[System, ...] = ("co-located", "doubled", "disaggregated")
RUN = 0.7  # share of the progress that the run itself takes where published numbers come after it
MOST_SPANS = 4000  # of the timeline: a week of a stormy trace has many


def trace_of(config: RLBoostConfig) -> Trace:
    """The file's, or a made one, cut to the config's hours and share. TraceError names file and line."""
    if config.trace:
        whole = read(Path(config.trace).expanduser())
        whole = whole.part(0.0, min(whole.end_s, config.hours * 3600))
    elif config.weather == "steady":
        return constant(config.instances, config.hours)
    else:
        whole = made({"g4dn": G4DN, "p3": P3}[config.weather], config.hours, config.seed, config.zones)
    return whole if config.share == 1 else whole.sample(config.share, config.seed)


def setting_of(config: RLBoostConfig, system: System = "rlboost", without: frozenset[str] = frozenset()) -> Setting:
    """The simulator's setting for an arm."""
    return Setting(
        system=system,
        model=config.sim_model,
        responses=config.responses,
        micro_batch=config.micro_batch,
        lengths=Lengths(most=config.longest),
        seed=config.seed,
        without=without,
        notice_s=config.notice_s,
        choice=config.choice,
    )


def arms(config: RLBoostConfig, prices: Mapping[str, float] | None = None) -> dict[str, Setting]:
    """What is simulated, by the names of result.ARMS; the arm under test first. prices: of each zone of the trace."""
    found = {"rlboost": setting_of(config, without=config.without)}
    found["co-located"] = setting_of(config, "co-located")  # what ratios are over
    if config.compare in ("rivals", "both"):
        found |= {name: setting_of(config, name) for name in RIVALS}
    if config.compare in ("parts", "both"):
        found |= {f"no {part}": setting_of(config, without=config.without | {part}) for part in PARTS}
        if config.choice != "first" and len(prices or {}) > 1:
            found["no choice"] = replace(found["rlboost"], choice="first")
    return {arm: replace(setting, prices=tuple((prices or {}).items())) for arm, setting in found.items()}


def run(config: RLBoostConfig, say: Say, stop: threading.Event) -> RLBoostResult:
    """All arms over the same trace. TraceError, ValueError: the trace or a setting is wrong."""
    from workbench.rlboost.work import stamped

    clock, trace = Clock(), trace_of(config)
    price = config.priced()
    paid = rates(price)
    say(Note(f"trace: {trace.source}; {trace.mean():.1f} instances on average over {trace.end_s / 3600:.3g} h"))
    say(Note(f"prices: {paid.told}"))
    prices, said = config.zone_prices(trace.zones())
    notes = [said] if said else []
    for note in notes:
        say(Note(note))
    rows: list[Row] = []
    held: list[Held] = []
    todo = arms(config, prices)
    for at, (arm, setting) in enumerate(todo.items()):
        spans: list[Span] = []
        own = trace if setting.system == "rlboost" else constant(0, trace.end_s / 3600)
        for step in simulate(setting, own, told=spans.append):
            if stop.is_set():
                raise Stopped("the run was cancelled")
            share = min(1.0, step.end_s / trace.end_s)
            done = (RUN if config.published else 1.0) * (at + share) / len(todo)
            say(Progress(done, 1, f"{arm}: step {step.step + 1}, hour {step.end_s / 3600:.2f}"))
            lost = sum(span.kind == "kill" for span in spans)  # of those that were held; the trace offers more
            rows.append(row_of(arm, step, step.cost_usd(paid), lost))
            if arm == "rlboost":
                _tell(say, step, spans[: MOST_SPANS - len(held)])
                held += [Held.of(span) for span in spans[: MOST_SPANS - len(held)]]
            spans.clear()
    if not any(row.way == "rlboost" for row in rows):
        raise ValueError(
            f"hours: not one step of {config.responses} responses ends within {trace.end_s / 3600:.3g} h; give the "
            "trace more hours, or a step fewer or shorter responses"
        )
    beside = _published(say, stop) if config.published else []
    say(Progress(1, 1, "done"))
    facts = {
        "published": beside,
        "rows": rows,
        "held": held,
        "there": [(0.0, 0), *trace.counts()],
        "paid": Paid(
            reserved_usd_h=paid.reserved_usd_h,
            instance_usd_h=paid.instance_usd_h,
            discount=price.discount,
            told=paid.told,
        ),
        "source": trace.source,
        "notes": notes,
    }
    return stamped(config, "sim", clock(), facts)


def _published(say: Say, stop: threading.Event) -> list[Claim]:
    """Every number of the paper, each in its own setting, over one made trace."""
    from workbench.rlboost import claims

    def tick(share: float) -> None:
        if stop.is_set():
            raise Stopped("the run was cancelled")
        say(Progress(RUN + (1 - RUN) * share, 1, "published numbers"))

    return [one.claim() for one in claims.published(tick, samples=1)]


def row_of(arm: str, step: StepRow, cost_usd: float, lost: int = 0) -> Row:
    """A simulated step as a row of the result; `lost` instances of the trace were taken away in it."""
    return Row(
        way=arm,
        step=step.step,
        start_s=step.start_s,
        seconds=step.seconds,
        t_seed_s=step.t_seed_s,
        n_prem=step.n_prem,
        instances=step.instances,
        tokens=step.tokens,
        wasted_tokens=step.wasted_tokens,
        migrations=step.migrations,
        recomputed_tokens=step.recomputed_tokens,
        wait_train_s=step.wait_train_s,
        reserved_s=step.reserved_s,
        instance_s=step.instance_s,
        price=step.price,
        cost_usd=cost_usd,
        lost_instances=lost,
    )


def _tell(say: Say, step: StepRow, spans: list[Span]) -> None:
    for span in spans:
        say(span)
    hour = step.end_s / 3600
    say(Point("RLBoost: instances held", hour, step.instances))
    say(Point("RLBoost: trained tokens (tokens/s)", hour, step.tokens / step.seconds))
    if step.t_seed_s < float("inf"):
        say(Point("RLBoost: seeding window (s)", hour, step.t_seed_s))
