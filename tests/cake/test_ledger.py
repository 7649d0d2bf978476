"""The ledger: every grain has one writer, whatever the interleaving of claims, failures, hedges and closes."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cake.ledger import FADE_READS, SMOOTH, Grain, Ledger


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_two_ends_meet_and_cover_all(backend):
    ledger = Ledger(10, backend=backend)
    assert ledger.claim_front(3) == 3 and ledger.claim_back(2) == [9, 8]
    assert ledger.claim_front(99) == 5 and ledger.claim_back(1) == []
    ledger.computed(0, 8)
    for grain in (9, 8):
        assert ledger.begin_commit(grain)
        ledger.loaded(grain)
    assert ledger.ready_run(0) == 10


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["front", "back", "commit", "loaded", "fail", "take", "computed", "close"]), max_size=60),
    st.data(),
)
def test_a_grain_is_never_committed_and_taken(ops, data):
    ledger, taken, committed = Ledger(8), set(), set()
    for op in ops:
        grain = data.draw(st.integers(0, 7))
        if op == "front":
            ledger.claim_front(1)
        elif op == "back":
            ledger.claim_back(1)
        elif op == "commit" and ledger.begin_commit(grain):
            committed.add(grain)
        elif op == "loaded":
            ledger.loaded(grain)
        elif op == "fail":
            was = ledger.state(grain)
            ledger.failed(grain)
            if was is Grain.COMMITTING:
                committed.discard(grain)
        elif op == "take" and ledger.take_late(grain):
            taken.add(grain)
        elif op == "computed":
            ledger.computed(grain, 1)
        elif op == "close":
            ledger.close()
        assert not taken & committed


def test_nothing_is_written_after_close():
    ledger = Ledger(4)
    assert ledger.claim_back(2) == [3, 2]
    assert ledger.begin_commit(3)
    ledger.close()
    assert ledger.writing()  # the copy under way is waited for ...
    ledger.loaded(3)
    assert not ledger.writing()
    assert not ledger.begin_commit(2)  # ... and no other begins
    assert ledger.claim_back(1) == []


def test_a_claim_that_races_with_close_cannot_commit():
    """The loader had claimed the range but not yet marked its grain when the request ended."""
    ledger = Ledger(4)
    ledger.table.claim_back(1)
    ledger.close()
    assert ledger.table.swap_state(3, Grain.FREE, Grain.LOADING)
    assert not ledger.begin_commit(3)


def test_two_views_of_one_buffer_share_claims_and_gauges():
    memory = bytearray(Ledger.nbytes(6))
    one = Ledger(6, [True] * 5 + [False], memory)
    other = Ledger(6, buffer=memory, create=False)
    one.learn_read(believed_s=2.0, seconds=1.0, now_s=9.0)
    assert other.claim_back(2) == [4]  # grain 5 is not stored
    assert other.load_scale() == 0.5 and one.state(4) is Grain.LOADING
    with pytest.raises(ValueError, match="number of grains differs"):
        Ledger(5, buffer=memory, create=False)


def test_threads_claim_every_grain_once():
    ledger, owners = Ledger(20_000), [0] * 20_000

    def front():
        while True:
            start = ledger.table.front
            start, n = ledger.table.claim_front(3)
            if not n:
                return
            for i in range(start, start + n):
                owners[i] += 1

    def back():
        while grains := ledger.claim_back(2):
            for i in grains:
                owners[i] += 1

    threads = [threading.Thread(target=f) for f in (front, back, front, back)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert set(owners) == {1}


def test_reads_are_averaged_and_fade_while_nothing_is_read():
    ledger = Ledger(4)
    assert ledger.load_scale() == 1.0
    ledger.learn_read(believed_s=1.0, seconds=4.0, now_s=10.0)
    assert ledger.load_scale() == 4.0  # the first counts fully
    ledger.learn_read(believed_s=1.0, seconds=1.0, now_s=11.0)
    mean = (1 - SMOOTH) * 4.0 + SMOOTH * 1.0
    assert ledger.load_scale() == pytest.approx(mean) == ledger.load_scale(11.0)
    assert ledger.load_scale(11.0 + FADE_READS) == pytest.approx(mean**0.5)
    assert 1.0 < ledger.load_scale(11.0 + 20 * FADE_READS) < 1.001
    assert ledger.load_scale() == pytest.approx(mean)  # control: without a clock it stands


def test_what_is_known_of_a_link_does_not_fade_under_a_read():
    ledger = Ledger(4)
    ledger.learn_read(believed_s=1.0, seconds=4.0, now_s=10.0)
    ledger.set_gauge("load_began_s", 11.0)
    ledger.set_gauge("load_run", 1)
    assert ledger.load_scale(11.0) == ledger.load_scale(99.0) == pytest.approx(4.0 ** (0.5 ** (1 / FADE_READS)))
    ledger.set_gauge("load_run", 0)
    assert ledger.load_scale(99.0) < 1.001


def test_passes_are_averaged():
    ledger = Ledger(4)
    ledger.learn_pass(1.0, 2.0)
    assert ledger.compute_scale == pytest.approx(1 + SMOOTH)
    for _ in range(40):
        ledger.learn_pass(ledger.compute_scale, 2.0)  # the belief follows what was learned
    assert ledger.compute_scale == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("believed", [None, "no end in sight", 0.0])
def test_a_pass_without_a_belief_teaches_nothing(believed):
    ledger = Ledger(4)
    ledger.learn_pass(believed, 2.0)
    assert ledger.compute_scale == 1.0
