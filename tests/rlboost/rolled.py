"""What tests of vLLM's rollouts share: a model that both engines take, responses to ask for, and ways to run them."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.lm.sampler import Sampler
from workbench.lm.tiny_folder import write_tiny
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.spot import SpotEngine

ROOM, KV_TOKENS, MOST, LONG = 512, 2048, 24, 400
TOKEN_BYTES = 2 * 3 * 2 * 32 * 4  # K and V, layers, heads, their size, float32
GREEDY, DRAWN = Sampler(), Sampler(1.0, seed=3)
SHAPED = Sampler(0.7, top_k=40, top_p=0.9, seed=3)
END_S = 120.0


def write_tied(folder, seed=0):
    """The tiny model with its embedding as output layer, which is what the embedded engine takes."""
    write_tiny(folder, seed)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def asks(count=5, most=MOST, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [
        Ask(f"r{n}", tuple(torch.randint(32, 127, (5 + 31 * n,), generator=draw).tolist()), (), most)
        for n in range(count)
    ]


def run(own, given, until=lambda ledger: False):
    """A ledger of what the engine says; every piece must be the next one of its response."""
    ledger, deadline = Ledger(), time.monotonic() + END_S
    for ask in given:
        ledger.open(ask.request, len(ask.prompt))
        if ask.done:
            ledger.add(ask.request, 0, ask.done, [0.0] * len(ask.done), "before", own.version)
        own.give(ask)
    while ledger.unfinished() and not until(ledger):
        assert time.monotonic() < deadline, f"not in {END_S} s"
        for piece in own.step():
            ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "one", own.version)
            if piece.ended:
                ledger.close(piece.request, piece.ended)
    return ledger.entries


def embedded(model, given, sampler=GREEDY):
    return run(Rollouts(model, sampler, 4), given)


def same(found, expected):
    return {n: e.ids for n, e in found.items()} == {n: e.ids for n, e in expected.items()}


def caught(attempt):
    """What `attempt` finds in the middle. vLLM runs on while a test waits for a core, and may be at the end first: then
    again."""
    for _ in range(20):
        if (found := attempt()) is not None:
            return found
    pytest.fail("20 times vLLM was at the end of a response before it was asked")


def driven(engine, given):
    """What came of them through a SpotEngine that gave r1 up in its middle; None where it was at its end by then."""
    spot = SpotEngine("spot-1", "tiny", "float32", GREEDY, 4)
    spot.engine = engine
    ledger, said = Ledger(), []
    for ask in given:
        ledger.open(ask.request, len(ask.prompt))
    spot.give(given, 0)
    for item in spot.stream():
        said.append(item)
        assert "r1" not in {p.request for p in item.tokens} or not any("r1" in s.gone for s in said)
        for piece in item.tokens:
            ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "spot-1", item.version)
            if piece.ended:
                ledger.close(piece.request, piece.ended)
        r1 = ledger.entries["r1"]
        if ledger.tokens() > 40 and r1.ids and not r1.ended:
            spot.take(["r1"])
        if not ledger.unfinished() or (
            not engine.running and ledger.unfinished().keys() == {"r1"} and any("r1" in s.gone for s in said)
        ):
            spot.stop()
    return ledger if ledger.unfinished() else None
