"""A span of the timeline in words: what a machine did, and the rule of RLBoost behind it."""

from __future__ import annotations

import re
from collections.abc import Callable

from workbench.system import Span


def explain(span: Span) -> str:
    """Why this machine did that then."""
    said = WORDS.get(span.kind)
    return said(span) if said else f"{span.lane}: {span.label}, for {_seconds(span)}."


def _seconds(span: Span) -> str:
    took = span.end_s - span.start_s
    return f"{took:.0f} s" if took >= 10 else f"{took:.2f} s"


def _number(span: Span) -> int | None:
    """How many responses a span is about: what it carries, or what its label says."""
    if "requests" in span.why:
        return int(float(span.why["requests"]))
    found = re.search(r"(\d+) (?:responses?|requests?)", span.label)
    return int(found[1]) if found else None


def _responses(span: Span) -> str:
    count = _number(span)
    return "its responses" if count is None else f"{count} response{'' if count == 1 else 's'}"


def _train(span: Span) -> str:
    return (
        f"The trainer took {_responses(span)} that had ended, in {_seconds(span)}. It takes all that are there as soon "
        "as they fill a micro-batch, in order of arrival, instead of waiting for the slowest; where a "
        "run is ordered, it waits for all."
    )


def _seed(span: Span) -> str:
    window = float(span.why.get("t_seed_s", span.end_s - span.start_s))
    took = span.end_s - span.start_s
    if took > window * 1.01:
        end = "It went on for longer: there was nobody to hand the rest to, so this is the co-located way."
    elif took < window * 0.99:
        end = "It ended sooner: no response was left, or this was a second turn after all instances had gone."
    else:
        end = "Then it handed on what was unfinished and began to train."
    return (
        f"The reserved machines rolled out for {_seconds(span)}; the window T_seed was {window:.0f} s. Algorithm 1 "
        "makes it longer by a third of what the trainer waited for responses, and shorter by a third of what the "
        f"instances waited for the trainer. {end}"
    )


def _seeds(span: Span) -> str:
    return (
        f"The seeding window was over: {_responses(span)} of the reserved machines went on at instances, from the "
        "tokens they had. Each costs one more prefill and no token."
    )


def _kill(span: Span) -> str:
    if _number(span) == 0:
        return "The machine was taken away with no response on it: nothing had to move, and it is paid no longer."
    return (
        f"The machine was taken away with {_responses(span)} on it. The manager has every token that was streamed, so "
        "they go on at the shortest queue from there; without migration they begin anew."
    )


def _notice(span: Span) -> str:
    if _number(span) == 0:
        return "The cloud said that this machine will be taken. No response was on it, and it gets none any more."
    return (
        f"The cloud said that this machine will be taken: {_responses(span)} moved while it still stood, and it gets "
        "no new ones. The paper's code reacts to the broken connection alone; this uses the notice."
    )


def _transfer(span: Span) -> str:
    found = re.search(r"version (\d+)", span.label)
    version = float(span.why["version"]) if "version" in span.why else found and float(found[1])
    which = "the weights" if version is None else f"version {version:.0f} of the weights"
    return (
        f"{span.lane} pulled {which} in {_seconds(span)}, from the reserved machine's copy and while others worked. "
        "Only who has the version of the step gets requests, so that no token is of old weights."
    )


def _join(span: Span) -> str:
    return (
        f"{span.lane} was started and brought up for {_seconds(span)}; it works from the middle of a step on, as soon "
        "as it has the weights. No more are held than N_prem, the number that still pays."
    )


def _generate(span: Span) -> str:
    return (
        f"{span.lane} had the weights of the step and was at work for {_seconds(span)}. Requests go to the shortest "
        "queue, and wait at the manager while all are full (Algorithm 2)."
    )


def _move(span: Span) -> str:
    return (
        f"{_responses(span).capitalize()} left {span.lane} with their tokens and went on elsewhere: another engine "
        "computed their KV again in one prefill and wrote the next position. None is lost, none written twice."
    )


def _drain(span: Span) -> str:
    return (
        f"After its notice {span.lane} stood for {_seconds(span)} without new requests, until it was killed: what it "
        "had was moved in that time."
    )


def _step(span: Span) -> str:
    return (
        f"One step of training, {_seconds(span)}: roll out, train on what has ended, publish the next weights. All its "
        "tokens are of one version."
    )


WORDS: dict[str, Callable[[Span], str]] = {
    "compute": _train,
    "train": _train,
    "seed": _seed,
    "seeds": _seeds,
    "kill": _kill,
    "lost": _kill,
    "notice": _notice,
    "transfer": _transfer,
    "pull": _transfer,
    "join": _join,
    "wait": _join,
    "decode": _generate,
    "generate": _generate,
    "move": _move,
    "migrate": _move,
    "drain": _drain,
    "step": _step,
}
