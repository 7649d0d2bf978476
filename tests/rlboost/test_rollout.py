"""Rollouts: the same tokens alone, in company and after any number of moves; nothing lost, nothing twice."""

import random

import pytest
import torch

from workbench import lm
from workbench.lm.sampler import Sampler
from workbench.lm.tiny import tiny_weights
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.spot import SpotEngine
from workbench.rlboost.weights import Pull, WeightStore


@pytest.fixture(scope="module")
def tiny():
    return lm.load("tiny")


def asks(count, model, most=24):
    return [Ask(f"r{n}", tuple(lm.prompt(model, 5 + 7 * n, seed=n)), (), most) for n in range(count)]


def engine(model, slots=4, seed=1):
    return Rollouts(model, Sampler(1.0, seed=seed), slots)


def collect(own, ledger, source="one", until=lambda: False):
    while not until():
        found = own.step()
        for piece in found:
            ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, source, own.version)
            if piece.ended:
                ledger.close(piece.request, piece.ended)
        if not found and not own.running and not own.pending:
            return


def whole(model, given, slots=4, seed=1):
    ledger, own = Ledger(), engine(model, slots, seed)
    for ask in given:
        ledger.open(ask.request, len(ask.prompt))
        own.give(ask)
    collect(own, ledger)
    return ledger


def test_company_does_not_change_what_is_said(tiny):
    given = asks(6, tiny)
    together = whole(tiny, given)
    assert together.faults([0]) == []
    assert {e.ended for e in together.entries.values()} <= {"stop", "length"}
    for ask in given:
        alone = whole(tiny, [ask], slots=1)
        assert alone.entries[ask.request].ids == together.entries[ask.request].ids
        assert alone.entries[ask.request].logprobs == together.entries[ask.request].logprobs
    assert whole(tiny, given, seed=2).digest() != together.digest()  # the control: it is drawn, not greedy


@pytest.mark.parametrize("schedule", range(20))
def test_moves_change_nothing_and_lose_nothing(tiny, schedule):
    """Engines die at drawn passes; what they had goes on elsewhere with its tokens."""
    draw = random.Random(schedule)
    given = asks(5, tiny)
    expected = whole(tiny, given)
    ledger, names = Ledger(), iter(range(1000))
    for ask in given:
        ledger.open(ask.request, len(ask.prompt))
    prompts = {ask.request: ask for ask in given}
    moves = 0
    while ledger.unfinished():
        own, source, left = engine(tiny, draw.randint(1, 5)), f"spot-{next(names)}", [draw.randint(1, 12)]
        for request, entry in ledger.unfinished().items():
            own.give(Ask(request, prompts[request].prompt, tuple(entry.ids), 24))
            moves += bool(entry.ids)

        def dies(left=left):
            left[0] -= 1
            return left[0] < 0

        collect(own, ledger, source, dies)
    assert ledger.faults([0]) == []
    assert ledger.digest() == expected.digest()
    assert moves, "the schedule moved nothing"
    for request, entry in ledger.entries.items():
        assert entry.logprobs == expected.entries[request].logprobs


def undisturbed(model, ask):
    """(its ids, logprobs, KV of all tokens but the last) of an engine that has this response alone."""
    return went_on(model, ask, ())


def went_on(model, ask, done):
    """The same of a fresh engine that is asked with `done` tokens; ids and logprobs are what it made."""
    own, ids, logprobs = engine(model), [], []
    own.give(Ask(ask.request, ask.prompt, tuple(done), ask.most))
    kv = None
    while own.running or own.pending:
        for piece in own.step():
            ids += piece.ids
            logprobs += piece.logprobs
        kv = own.running[ask.request].kv if own.running else kv
    return ids, logprobs, kv.read(0, kv.length)


def turned_cuts(model, ask):
    """Where the KV or logprobs of a response that moved are not, to the bit, those of one that did not."""
    ids, logprobs, kv = undisturbed(model, ask)
    assert len(ids) == ask.most
    found = []
    for cut in range(1, len(ids)):
        rest, told, own = went_on(model, ask, ids[:cut])
        assert rest == ids[cut:]
        if told != logprobs[cut:] or not torch.equal(own, kv):
            found.append(cut)
    return found


def long_ask(model):
    """A prompt of more than one piece."""
    return Ask("long", tuple(lm.prompt(model, 110, seed=4)), (), 14)


def test_a_response_that_moves_has_the_bits_of_one_that_does_not(tiny):
    """At every cut, KV and logprobs: no near tie can turn its tokens."""
    assert turned_cuts(tiny, long_ask(tiny)) == []


def test_prefilled_like_a_prompt_it_has_other_bits(tiny, monkeypatch):
    """The control: without one query at a time."""
    whole_pass = lm.LM.forward_ragged
    monkeypatch.setattr(lm.LM, "forward_ragged", lambda *given, alone=(), **named: whole_pass(*given, **named))
    assert turned_cuts(tiny, long_ask(tiny))


def test_a_request_that_forgets_its_tokens_says_something_else(tiny):
    """The control of migration: with one token of `done` changed, the rest differs."""
    ask = asks(3, tiny)[2]
    ids = whole(tiny, [ask]).entries[ask.request].ids

    def rest(done):
        own, found = engine(tiny), []
        own.give(Ask(ask.request, ask.prompt, tuple(done), 24))
        while own.running or own.pending:
            found += [i for piece in own.step() for i in piece.ids]
        return found

    assert rest(ids[:8]) == ids[8:]
    assert rest([(ids[0] + 1) % 200, *ids[1:8]]) != ids[8:]


def test_kv_that_comes_along_is_not_computed_again(tiny):
    """A response goes on with its KV as with its tokens; with KV of other values it does not (the control)."""
    ask, first, said = asks(5, tiny)[4], engine(tiny), []
    first.give(ask)
    while len(said) < 9:
        said += [i for piece in first.step() for i in piece.ids]
    ids, kv = first.filled(ask.request)
    assert ids == [*ask.prompt, *said[:-1]]  # the next step runs the last one

    def rest(cache):
        own, found = engine(tiny), []
        own.give(Ask(ask.request, ask.prompt, tuple(said), 24), cache)
        while own.running or own.pending:
            found += [i for piece in own.step() for i in piece.ids]
        return found, own.prefilled

    expected = whole(tiny, [ask]).entries[ask.request].ids[9:]
    assert rest(None) == (expected, len(ids) + 1)
    assert rest(kv.fork()) == (expected, 0)
    assert rest(kv.fork(None, 20)) == (expected, len(ids) + 1 - 20)  # what it lacks is computed
    other = kv.fork()
    other.inject(0, -kv.read(0, len(ids)))
    assert rest(other)[0] != expected
    other.mark(3, 4, filled=False)
    with pytest.raises(ValueError, match="a hole before position"):
        engine(tiny).give(ask, other)
    first.take(ask.request)
    with pytest.raises(KeyError):
        first.filled(ask.request)


def test_logprobs_are_those_of_the_distribution(tiny):
    ask = asks(2, tiny)[1]
    entry = whole(tiny, [ask]).entries[ask.request]
    ids = torch.tensor([*ask.prompt, *entry.ids])
    logits = tiny.forward(ids[:-1], tiny.new_cache(len(ids)), 0, logits="all")[len(ask.prompt) - 1 :]
    expected = torch.log_softmax(logits, -1).gather(1, ids[len(ask.prompt) :, None])[:, 0]
    assert entry.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_new_weights_only_between_requests(tiny):
    store = WeightStore()
    store.publish(5, tiny_weights(9))
    pull = Pull(store.manifest())
    for n in pull.missing():
        pull.take(n, store.chunk(5, n))
    own, ask = engine(tiny), asks(1, tiny)[0]
    own.give(ask)
    own.step()
    with pytest.raises(ValueError, match="1 responses are here: hand them on first"):
        own.load(5, pull.weights())
    assert own.take(ask.request) and not own.take(ask.request)
    own.load(5, pull.weights())
    assert own.version == 5
    ledger = Ledger()
    ledger.open(ask.request, 5)
    own.give(ask)
    collect(own, ledger)
    assert ledger.faults([5]) == []
    assert ledger.digest() != whole(tiny, [ask]).digest()


def spot_engine(given):
    """An engine without weights of the trainer, and its stream, with r1 at work so that the stream never waits."""
    own = SpotEngine("spot-1", "tiny", "float32", Sampler(1.0, seed=1), 4)
    own.give(given[1:], -1)
    stream = own.stream()
    assert names(next(stream)) == {"r1"}
    return own, stream


def names(said):
    return {piece.request for piece in said.tokens}


def test_what_is_taken_back_before_it_came_never_generates(tiny):
    """The calls overtook each other on their way: they are done by their numbers."""
    given = asks(2, tiny)
    own, stream = spot_engine(given)
    own.take(["r0"], turn=1)
    said = next(stream)
    assert (names(said), said.gone) == ({"r1"}, ())  # it waits for the call before it
    own.give(given[:1], -1, turn=0)
    said = next(stream)
    assert (names(said), said.gone) == ({"r1"}, ("r0",))
    assert list(own.engine.running) == ["r1"] and not own.engine.pending
    own.give(given[:1], -1, turn=2)
    assert names(next(stream)) == {"r0", "r1"}


def test_without_numbers_calls_are_done_as_they_come(tiny):
    """The control: what is given after it was taken is generated."""
    given = asks(2, tiny)
    own, stream = spot_engine(given)
    own.take(["r0"])
    assert next(stream).gone == ("r0",)
    own.give(given[:1], -1)
    assert names(next(stream)) == {"r0", "r1"}
    own.take(["r0"])
    said = next(stream)
    assert (names(said), said.gone) == ({"r1"}, ("r0",))


def test_a_long_prompt_comes_in_pieces_beside_those_that_decode(tiny):
    own = engine(tiny)
    own.give(asks(1, tiny)[0])
    own.step()
    own.give(Ask("long", tuple(lm.prompt(tiny, 300, seed=3)), (), 4))
    told = [{piece.request for piece in own.step()} for _ in range(4)]
    assert all("r0" in names for names in told)
    assert "long" not in told[2] and "long" in told[3]
    assert own.prefilled == 305


def test_what_cannot_be_asked(tiny):
    own, ask = engine(tiny), asks(1, tiny)[0]
    own.give(ask)
    with pytest.raises(ValueError, match="r0 is here already"):
        own.give(ask)
    with pytest.raises(ValueError, match="exceed tiny's 16384 positions"):
        own.give(Ask("far", (1,), (), 20_000))
    with pytest.raises(ValueError, match="one token or more"):
        Ask("none", ())
    with pytest.raises(ValueError, match="nothing is left"):
        Ask("done", (1,), (2, 3), 2)
    with pytest.raises(ValueError, match="slots"):
        engine(tiny, slots=0)
    assert engine(tiny).step() == []


def test_weights_that_are_no_numbers_are_named(tiny):
    broken = {name: tensor.clone() for name, tensor in tiny_weights(0).items()}
    broken["model.norm.weight"][0] = float("nan")
    own = engine(tiny)
    own.load(7, broken)
    own.give(asks(1, tiny)[0])
    with pytest.raises(RuntimeError, match=r"r0, position 0, weights 7: .*NaN"):
        own.step()
